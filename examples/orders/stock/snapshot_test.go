package stock_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
)

// TestSnapshot: with a snapshot at any point of its history, an item comes to the same state as without.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	aggregatetest.CheckSnapshot(t, stock.Definition, []stock.Event{
		received(10), reserved("1", 4), reserved("2", 3), released("1", 4), shippedOut("2", 3), received(5), reserved("3", 1),
	})
}

// TestApply: Apply has a case for every event.
func TestApply(t *testing.T) {
	t.Parallel()
	aggregatetest.CheckApply(t, stock.Definition, []stock.Event{received(10), reserved("1", 4), released("1", 4), reserved("2", 3), shippedOut("2", 3)})
}
