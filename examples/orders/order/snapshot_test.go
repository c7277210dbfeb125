package order_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/examples/orders/order"
)

// TestSnapshot: with a snapshot at any point of its history, an order comes to the same state as without.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	aggregatetest.CheckSnapshot(t, order.Definition, []order.Event{
		order.Placed{Customer: "Ada", Currency: "EUR", Lines: []order.Line{{Item: "cup", Name: "Cup", Quantity: 2, Price: 150}}, Date: "2026-03-01"},
		order.Paid{Amount: 300, Date: "2026-03-02"},
		order.Shipped{Carrier: "Post", Tracking: "1", Date: "2026-03-03"},
		order.Delivered{Date: "2026-03-04"},
		order.Returned{Reason: "broken", Refunded: 300, Date: "2026-03-05"},
	})
}

// TestApply: Apply has a case for every event.
func TestApply(t *testing.T) {
	t.Parallel()
	aggregatetest.CheckApply(t, order.Definition, []order.Event{placed, paid, shipped, delivered, cancelled(due), returned(due)})
}
