package order_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/codec/codectest"
	"github.com/tidemark-es/tidemark/examples/orders/order"
)

// TestGolden: the events that any release has stored still have the same meaning.
func TestGolden(t *testing.T) {
	t.Parallel()
	line := order.Line{Item: "cup", Name: "Espresso cup", Quantity: 4, Price: 1250}
	codectest.Golden[order.Event](t, "testdata/events", order.Codec,
		order.Placed{Customer: "ada", Currency: "EUR", Lines: []order.Line{line}, Date: "2026-03-01"},
		order.Paid{Amount: 5000, Date: "2026-03-02"},
		order.Shipped{Carrier: "DHL", Tracking: "JD014600", Date: "2026-03-03"},
		order.Delivered{Date: "2026-03-04"},
		order.Cancelled{Reason: "changed my mind", Refunded: 5000, Date: "2026-03-02"},
		order.Returned{Reason: "broken", Refunded: 5000, Date: "2026-03-05"})
}
