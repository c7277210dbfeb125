package main

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/orders/order"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
	"github.com/tidemark-es/tidemark/projection"
)

//go:embed readmodels.sql
var readModelsSQL string

// createReadModels creates the tables. The whole file is one transaction.
func createReadModels(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, readModelsSQL)
	return err
}

// The names under which the checkpoints are stored.
const (
	ordersModel    = "shop.orders"
	customersModel = "shop.customers"
	itemsModel     = "shop.items"
	revenueModel   = "shop.revenue"
)

func readModels() []*projection.Projection {
	return []*projection.Projection{
		projection.New(ordersModel, nil, projection.On(order.Codec, projectOrder)),
		projection.New(customersModel, nil, projection.On(order.Codec, projectCustomer)),
		projection.New(itemsModel, nil, projection.On(stock.Codec, projectStock), projection.On(order.Codec, projectDemand)),
		projection.New(revenueModel, nil, projection.On(order.Codec, projectRevenue)),
	}
}

type (
	orderEvent = eventstore.Event[order.Event]
	stockEvent = eventstore.Event[stock.Event]
)

// projectOrder keeps one row per order: its present state.
func projectOrder(ctx context.Context, tx pgx.Tx, e orderEvent) error {
	id := e.Stream.Key
	to := func(status order.Status, more string, args ...any) error {
		return one(tx.Exec(ctx, `
			update shop.orders
			   set version = $2, status = $3`+more+`
			 where id = $1`, append([]any{id, e.Version, status}, args...)...))
	}
	switch data := e.Data.(type) {
	case order.Placed:
		var names []string
		for _, line := range data.Lines {
			names = append(names, line.Name)
		}
		return one(tx.Exec(ctx, `
			insert into shop.orders (id, customer, status, currency, total, placed_on, lines, version, document)
			values ($1, $2, $3, $4, $5, $6::text::date, $7, $8, to_tsvector('simple', $9))`,
			id, data.Customer, order.StatusPlaced, data.Currency, order.Total(data.Lines), data.Date,
			data.Lines, e.Version, strings.Join(names, "\n")))
	case order.Paid:
		return to(order.StatusPaid, ``)
	case order.Shipped:
		return to(order.StatusShipped, `, carrier = $4, tracking = $5`, data.Carrier, data.Tracking)
	case order.Delivered:
		return to(order.StatusDelivered, ``)
	case order.Cancelled:
		return to(order.StatusCancelled, `, reason = $4`, data.Reason)
	case order.Returned:
		return to(order.StatusReturned, `, reason = $4`, data.Reason)
	}
	return nil
}

// projectCustomer keeps one row per customer and currency, from all of the customer's orders.
func projectCustomer(ctx context.Context, tx pgx.Tx, e orderEvent) error {
	add := func(cancelled, returned, paid, refunded int64) error {
		return one(tx.Exec(ctx, `
			update shop.customers c
			   set cancelled = c.cancelled + $2, returned = c.returned + $3,
			       paid = c.paid + $4, refunded = c.refunded + $5
			  from shop.customer_orders o
			 where o.id = $1
			   and (c.customer, c.currency) = (o.customer, o.currency)`,
			e.Stream.Key, cancelled, returned, paid, refunded))
	}
	switch data := e.Data.(type) {
	case order.Placed:
		return one(tx.Exec(ctx, `
			with placed as (
			    insert into shop.customer_orders (id, customer, currency)
			    values ($1, $2, $3)
			)
			insert into shop.customers as c (customer, currency, orders, last_order_on)
			values ($2, $3, 1, $4::text::date)
			on conflict (customer, currency) do update
			   set orders = c.orders + 1, last_order_on = greatest(c.last_order_on, excluded.last_order_on)`,
			e.Stream.Key, data.Customer, data.Currency, data.Date))
	case order.Paid:
		return add(0, 0, data.Amount, 0)
	case order.Cancelled:
		return add(1, 0, 0, data.Refunded)
	case order.Returned:
		return add(0, 1, 0, data.Refunded)
	}
	return nil
}

// projectStock keeps one row per item: how many units there are.
func projectStock(ctx context.Context, tx pgx.Tx, e stockEvent) error {
	item := e.Stream.Key
	move := func(available, reserved, shipped int64) error {
		return one(tx.Exec(ctx, `
			update shop.items
			   set version = $2, available = available + $3, reserved = reserved + $4, shipped = shipped + $5
			 where item = $1`, item, e.Version, available, reserved, shipped))
	}
	switch data := e.Data.(type) {
	case stock.Received:
		return one(tx.Exec(ctx, `
			insert into shop.items as i (item, name, received, available, reserved, shipped, version)
			values ($1, $2, $3, $3, 0, 0, $4)
			on conflict (item) do update
			   set name = excluded.name, version = excluded.version,
			       received = i.received + excluded.received, available = i.available + excluded.available`,
			item, data.Name, data.Quantity, e.Version))
	case stock.Reserved:
		return move(-data.Quantity, data.Quantity, 0)
	case stock.Released:
		return move(data.Quantity, -data.Quantity, 0)
	case stock.ShippedOut:
		return move(0, -data.Quantity, data.Quantity)
	}
	return nil
}

// projectDemand keeps in the same rows how often an item was ordered.
func projectDemand(ctx context.Context, tx pgx.Tx, e orderEvent) error {
	placed, ok := e.Data.(order.Placed)
	if !ok {
		return nil
	}
	var items []string
	for _, line := range placed.Lines {
		items = append(items, line.Item)
	}
	done, err := tx.Exec(ctx, `
		update shop.items
		   set orders = orders + 1, last_ordered_on = greatest(last_ordered_on, $2::text::date)
		 where item = any ($1)`, items, placed.Date)
	return changed(len(items), done, err)
}

// projectRevenue keeps one row per day, product and currency. Each row sums up many events.
func projectRevenue(ctx context.Context, tx pgx.Tx, e orderEvent) error {
	id := e.Stream.Key
	add := func(day order.Date, sign int) error { // 1 for paid, -1 for refunded
		done, err := tx.Exec(ctx, `
			insert into shop.revenue as r (day, item, currency, units, paid, refunded)
			select $2::text::date, item, currency, $3 * units,
			       case when $3 > 0 then amount else 0 end, case when $3 < 0 then amount else 0 end
			  from shop.revenue_lines
			 where id = $1
			on conflict (day, item, currency) do update
			   set units = r.units + excluded.units,
			       paid = r.paid + excluded.paid, refunded = r.refunded + excluded.refunded`,
			id, day, sign)
		return changed(max(1, int(done.RowsAffected())), done, err) // one row per line of the order, at least one
	}
	end := func(day order.Date, refunded int64) error {
		if refunded > 0 {
			if err := add(day, -1); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `delete from shop.revenue_lines where id = $1`, id)
		return err
	}
	switch data := e.Data.(type) {
	case order.Placed:
		_, err := tx.Exec(ctx, `
			insert into shop.revenue_lines (id, item, currency, units, amount)
			select $1, line ->> 'item', $2, (line ->> 'quantity')::bigint,
			       (line ->> 'quantity')::bigint * (line ->> 'price')::bigint
			  from json_array_elements($3) line`, id, data.Currency, data.Lines)
		return err
	case order.Paid:
		return add(data.Date, 1)
	case order.Cancelled:
		return end(data.Date, data.Refunded)
	case order.Returned:
		return end(data.Date, data.Refunded)
	}
	return nil
}

// one returns an error unless a statement has changed one row.
func one(done pgconn.CommandTag, err error) error { return changed(1, done, err) }

// changed returns an error unless a statement has changed the given number of rows. Any other number means that the
// table does not match the earlier events.
func changed(rows int, done pgconn.CommandTag, err error) error {
	if err == nil && done.RowsAffected() != int64(rows) {
		err = fmt.Errorf("%d rows were changed, not %d: was a read model changed by hand?", done.RowsAffected(), rows)
	}
	return err
}
