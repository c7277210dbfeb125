package stock_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/codec/codectest"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
)

// TestGolden: the events that any release has stored still have the same meaning.
func TestGolden(t *testing.T) {
	t.Parallel()
	codectest.Golden[stock.Event](t, "testdata/events", stock.Codec,
		stock.Received{Name: "Espresso cup", Quantity: 10, Order: "1001"},
		stock.Reserved{Order: "1001", Quantity: 4},
		stock.Released{Order: "1001", Quantity: 4},
		stock.ShippedOut{Order: "1001", Quantity: 4})
}
