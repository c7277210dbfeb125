package order_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/orders/order"
)

// release1 returns the events of the orders in a log that the first release has stored, as a store reads
// them.
func release1(t *testing.T) (events []eventstore.Raw) {
	t.Helper()
	text, err := os.ReadFile("testdata/release1.json")
	if err != nil {
		t.Fatal(err)
	}
	var log []struct {
		Stream, Type string
		Schema       int
		Data         json.RawMessage
	}
	if err := json.Unmarshal(text, &log); err != nil {
		t.Fatal(err)
	}
	for n, e := range log {
		stream, err := eventstore.ParseStreamID(e.Stream)
		if err != nil {
			t.Fatal(err)
		}
		if stream.Category == "order" {
			events = append(events, eventstore.Raw{Stream: stream, Type: e.Type, Schema: e.Schema, Data: e.Data, Position: eventstore.Position(n + 1)})
		}
	}
	return events
}

func decode(t *testing.T, raw eventstore.Raw) order.Event {
	t.Helper()
	events, err := order.Codec.Decode(raw)
	if err != nil || len(events) != 1 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	return events[0].Data
}

// fields returns all fields of a payload.
func fields(t *testing.T, data []byte) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRelease1 decodes the events that the first release has stored: no field is lost, and only the
// currency is new.
func TestRelease1(t *testing.T) {
	t.Parallel()
	histories := make(map[string][]order.Event)
	for _, raw := range release1(t) {
		event := decode(t, raw)
		histories[raw.Stream.Key] = append(histories[raw.Stream.Key], event)
		want := fields(t, raw.Data)
		if raw.Type == "order.placed" {
			if raw.Schema != 1 || want["currency"] != nil {
				t.Errorf("position %v is not of the first release: schema %d, %s", raw.Position, raw.Schema, raw.Data)
			}
			want["currency"] = "EUR"
		}
		draft, err := order.Codec.Encode(event)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, fields(t, draft.Data)); diff != "" || draft.Type != raw.Type {
			t.Errorf("position %v, %s, now %s (-want +got):\n%s", raw.Position, raw.Type, draft.Type, diff)
		}
	}

	want := map[string]order.Status{"1001": order.StatusDelivered, "1002": order.StatusPlaced, "1003": order.StatusCancelled}
	got := make(map[string]order.Status)
	for key, history := range histories {
		got[key] = order.Definition.Fold(history...).Status
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the orders (-want +got):\n%s", diff)
	}
}

// TestRelease1GoesOn pays an order that was placed before orders had a currency.
func TestRelease1GoesOn(t *testing.T) {
	t.Parallel()
	var old []order.Event
	for _, raw := range release1(t) {
		if raw.Stream.Key == "1002" {
			old = append(old, decode(t, raw))
		}
	}
	bobs := func() *aggregatetest.Scenario[order.Order, order.Event] {
		return aggregatetest.New(t, order.Definition).Given(old...)
	}
	bobs().When(pay("EUR", 7500)).Then(order.Paid{Amount: 7500, Date: paid.Date})
	bobs().When(pay("USD", 7500)).ThenError(order.ErrWrongPayment)
}

// TestWrittenToday: a new event has the present schema, and an event with a later schema is not decoded.
func TestWrittenToday(t *testing.T) {
	t.Parallel()
	draft, err := order.Codec.Encode(placed)
	if err != nil {
		t.Fatal(err)
	}
	if draft.Type != "order.placed" || draft.Schema != 2 {
		t.Errorf("encoded as %s at schema %d, want order.placed at 2", draft.Type, draft.Schema)
	}
	names := slices.Sorted(maps.Keys(fields(t, draft.Data)))
	if diff := cmp.Diff([]string{"currency", "customer", "date", "lines"}, names); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	raw := eventstore.Raw{Type: draft.Type, Schema: draft.Schema, Data: draft.Data}
	if diff := cmp.Diff(order.Event(placed), decode(t, raw)); diff != "" {
		t.Errorf("encoded and decoded (-want +got):\n%s", diff)
	}
	raw.Schema = 3
	if events, err := order.Codec.Decode(raw); !errors.Is(err, codec.ErrUnknownType) {
		t.Errorf("schema 3: %+v, %v, want %v", events, err, codec.ErrUnknownType)
	}
}
