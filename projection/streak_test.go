package projection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestHandlerThatAlwaysFails: a handler that always fails stops the projection after StopAfter keys, before all events
// of the log are parked. When the handler is fixed, the projection continues where it was.
func TestHandlerThatAlwaysFails(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		for _, stopAfter := range []int{0, 3} {
			t.Run(fmt.Sprint(k.name, stopAfter), func(t *testing.T) {
				t.Parallel()
				f := setup(t)
				var fixed atomic.Bool
				o := projection.Options{StopAfter: stopAfter, MaxAttempts: 1}
				r, _ := f.start(quiet, f.store, k.make(f, k.name, o, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
					if !fixed.Load() {
						return fmt.Errorf("no rate for event %d of %s", e.Position, e.ID)
					}
					return nil
				}))
				const keys = 30
				var last eventstore.Position
				for range 2 {
					for n := range keys {
						last = f.put(fmt.Sprint("k", n), 0)
					}
				}
				f.stopped(r, k.name, "different keys have failed one after another with the same reason")
				want := 9
				if stopAfter > 0 {
					want = stopAfter - 1
				}
				parked := f.statusOf(r, k.name).Parked
				if parked != want && parked != want-1 {
					t.Errorf("%d events are parked, want %d, or one less if the batch with the last of them was not committed", parked, want)
				}
				groups, err := r.Operator().DeadLetterGroups(t.Context(), projection.Ref{Name: k.name, Version: projection.Live})
				if err != nil || len(groups) != 1 || groups[0].Count != parked {
					t.Errorf("groups %+v, %v; want one", groups, err)
				}
				fixed.Store(true)
				if err := r.Operator().Resume(t.Context(), projection.Ref{Name: k.name, Version: projection.AllVersions}); err != nil {
					t.Fatal(err)
				}
				f.wait(r, last)
				f.retry(r, 2*parked, k.name)
				f.checkFold(k, r, k.name)
			})
		}
	}
}

// TestBadEventsAmongGoodOnes: bad events do not stop the projection while good events are handled between them. Bad
// events with different reasons do not stop it either.
func TestBadEventsAmongGoodOnes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var projections []*projection.Projection
	for _, k := range kinds {
		o := projection.Options{StopAfter: 3, MaxAttempts: 1}
		projections = append(projections, k.make(f, k.name, o, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
			if e.Data.N == bad {
				return errors.New("it is bad")
			} else if e.Data.N < bad {
				return fmt.Errorf("it is %s", strings.Repeat("very ", -e.Data.N)+"bad")
			}
			return nil
		}))
	}
	config := *quiet
	config.Parked = 5
	var last eventstore.Position
	for n := range 6 {
		f.put(fmt.Sprint("bad", n), bad)
		last = f.put(fmt.Sprint("good", n), 0)
	}
	f.put("worse1", bad)
	for n := range 6 {
		last = f.put(fmt.Sprint("differs", n), bad-1-n)
	}
	r, _ := f.start(&config, f.store, projections...) // all events are one batch
	f.wait(r, last)
	for _, k := range kinds {
		f.checkFold(k, r, k.name)
	}
	if err := r.Health(t.Context()); err == nil || !strings.Contains(err.Error(), "13 events are parked") {
		t.Errorf("health: %v, want it to say that 13 events are parked", err)
	}
}
