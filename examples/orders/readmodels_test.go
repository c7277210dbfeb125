package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/orders/order"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/projection/projectiontest"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

// TestReadModels: each read model ends with the same rows whatever happens while it is built, and no event type is
// forgotten.
func TestReadModels(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql     string   // reads everything in the read model that queries show
		ignored []string // event types that the read model does not need
	}{
		ordersModel:    {sql: `select coalesce(json_agg(r order by id), '[]') from shop.orders r`},
		customersModel: {`select coalesce(json_agg(r order by customer, currency), '[]') from shop.customers r`, []string{"order.shipped", "order.delivered"}},
		itemsModel: {`select coalesce(json_agg(r order by item), '[]') from shop.items r`,
			[]string{"order.paid", "order.shipped", "order.delivered", "order.cancelled", "order.returned"}},
		revenueModel: {`select coalesce(json_agg(r order by day, item, currency), '[]') from shop.revenue r`, []string{"order.shipped", "order.delivered"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := readModel(name)
			given := func(events []projectiontest.Event) []projectiontest.Event {
				return slices.DeleteFunc(events, func(e projectiontest.Event) bool { return !slices.Contains(p.Types(), e.Draft.Type) })
			}
			projectiontest.Check(t, projectiontest.Config{
				Database:   projectiontest.Databases(t, tidemarktest.New(t, nil).Pool, createReadModels),
				Projection: func(*pgxpool.Pool, projection.Options) *projection.Projection { return readModel(name) },
				ReadModel: func(ctx context.Context, pool *pgxpool.Pool) (model any, err error) {
					return model, pool.QueryRow(ctx, test.sql).Scan(&model)
				},
				Events:  given(history(t)),
				Old:     [][]projectiontest.Event{given(oldHistory(t))},
				Ignored: test.ignored,
			})
		})
	}
}

// readModel returns one of the read models.
func readModel(name string) *projection.Projection {
	all := readModels()
	return all[slices.IndexFunc(all, func(p *projection.Projection) bool { return p.Name() == name })]
}

func orderStream(id string) eventstore.StreamID {
	return eventstore.StreamID{Category: "order", Key: id}
}

// placedBefore returns the first event of an order as the first release stored it, and the event that it means now.
func placedBefore(t *testing.T) (old projectiontest.Event, now order.Placed) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("order", "testdata", "events", "order.placed.1.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Data  json.RawMessage
		Means []struct{ Data order.Placed }
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return projectiontest.Event{Stream: orderStream("1"), Draft: eventstore.Draft{Type: "order.placed", Schema: 1, Data: file.Data}}, file.Means[0].Data
}

// history returns events of all types, of orders and the items in them.
func history(t *testing.T) []projectiontest.Event {
	t.Helper()
	_, placed := placedBefore(t)
	total := order.Total(placed.Lines)
	var events []projectiontest.Event
	for _, line := range placed.Lines {
		events = append(events, projectiontest.Events[stock.Event](stock.Codec, eventstore.StreamID{Category: "stock", Key: line.Item},
			stock.Received{Name: line.Name, Quantity: 100}, stock.Reserved{Order: "1", Quantity: 3}, stock.Reserved{Order: "2", Quantity: 2},
			stock.Released{Order: "1", Quantity: 3}, stock.ShippedOut{Order: "2", Quantity: 2})...)
	}
	of := func(id string, orderEvents ...order.Event) {
		events = append(events, projectiontest.Events(order.Codec, orderStream(id), orderEvents...)...)
	}
	of("1", placed)
	of("2", placed, order.Paid{Amount: total, Date: "2026-03-02"})
	of("1", order.Paid{Amount: total, Date: "2026-03-02"}, order.Cancelled{Reason: "late", Refunded: total, Date: "2026-03-03"})
	of("2", order.Shipped{Carrier: "Post", Tracking: "1", Date: "2026-03-03"})
	of("3", placed, order.Paid{Amount: total, Date: "2026-03-03"}, order.Shipped{Carrier: "Post", Tracking: "2", Date: "2026-03-04"},
		order.Delivered{Date: "2026-03-05"}, order.Returned{Reason: "broken", Refunded: total, Date: "2026-03-06"})
	of("2", order.Delivered{Date: "2026-03-05"})
	// Two orders are not finished, so that every status is in the read model.
	of("4", placed, order.Paid{Amount: total, Date: "2026-03-03"})
	of("5", placed, order.Paid{Amount: total, Date: "2026-03-03"}, order.Shipped{Carrier: "Post", Tracking: "3", Date: "2026-03-04"})
	return events
}

// oldHistory returns events with the same meaning. The first order is as the first release stored it.
func oldHistory(t *testing.T) []projectiontest.Event {
	t.Helper()
	old, _ := placedBefore(t)
	events := history(t)
	first := slices.IndexFunc(events, func(e projectiontest.Event) bool { return e.Stream == old.Stream && e.Draft.Type == old.Draft.Type })
	events[first] = old
	return events
}
