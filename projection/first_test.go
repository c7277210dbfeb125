package projection_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestBeforeTransient: while an event fails with a transient error, the events before it are committed.
func TestBeforeTransient(t *testing.T) {
	t.Parallel()
	for _, k := range append([]kind{batched[0]}, kinds...) {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			var back atomic.Bool
			last := f.put("a", 0, 0, bad, 0)
			r, _ := f.start(quiet, f.store, k.make(f, "p", projection.Options{}, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
				if e.Data.N == bad && !back.Load() {
					return projection.Transient(errors.New("it is away"))
				}
				return nil
			}))
			f.until("the events before it are committed", func() bool { return f.statusOf(r, "p").Checkpoint == last-2 })
			back.Store(true)
			f.wait(r, last)
			f.checkFold(k, r, "p")
		})
	}
}

// TestSlowEffects: while effects are slow, the checkpoint is written after a second, and not only after the whole page.
func TestSlowEffects(t *testing.T) {
	t.Parallel()
	f := setup(t)
	last := f.put("a", 1, 2, 3)
	noted := make(chan eventstore.Position, 3)
	r, _ := f.start(quiet, f.store, projection.NewSubscription("slow", nil, projection.Effect(counting,
		func(ctx context.Context, e eventstore.Event[counted]) error {
			if e.Data.N == 1 {
				select {
				case <-time.After(1100 * time.Millisecond):
				case <-ctx.Done():
				}
			}
			var at eventstore.Position
			err := f.pool.QueryRow(ctx, `select checkpoint from tidemark.projection_partitions`).Scan(&at)
			noted <- at
			return err
		})))
	f.wait(r, last)
	f.equal("checkpoints that the effects have seen", []eventstore.Position{0, 1, 1}, []eventstore.Position{<-noted, <-noted, <-noted})
}
