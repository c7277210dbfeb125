//go:build !race

package eventstore_test

import (
	"context"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// TestObserverAllocates: calling an observer allocates nothing. The test does not run under the race detector, which
// adds allocations.
func TestObserverAllocates(t *testing.T) {
	pool := pgtest.Pool(t)
	allocates := func(o eventstore.Observer) float64 {
		store, err := eventstore.New(pool, &eventstore.Config{Observer: o})
		if err != nil {
			t.Fatal(err)
		}
		refused, drafts := stream(""), []eventstore.Draft{draft(1)}
		return testing.AllocsPerRun(100, func() { _, _ = store.Append(t.Context(), refused, eventstore.Any, drafts...) })
	}
	calls := 0
	without := allocates(eventstore.Observer{})
	with := allocates(eventstore.Observer{Append: func(context.Context, eventstore.AppendDone) { calls++ }})
	if with > without || calls == 0 {
		t.Errorf("%v allocations with an observer that was called %d times, %v without", with, calls, without)
	}
}
