package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// toldLog collects the calls of an observer.
type toldLog struct {
	mu    sync.Mutex
	lines []string
	done  projection.BatchDone // sums of Events and Parked, and the highest Checkpoint
}

func (l *toldLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *toldLog) observer() projection.Observer {
	return projection.Observer{
		Batch: func(done projection.BatchDone) {
			if done.Took <= 0 {
				l.add("a batch of %s took %s", done.Projection.Name, done.Took)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.done.Events, l.done.Parked = l.done.Events+done.Events, l.done.Parked+done.Parked
			l.done.Checkpoint = max(l.done.Checkpoint, done.Checkpoint)
		},
		Event: func(done projection.EventDone) {
			l.add("event %d of %s %d: %v", done.Event.Position, done.Key, done.Projection.Version, done.Err)
		},
		Failure: func(f projection.Failure) {
			l.add("%s failure at %d, parked: %v", f.Class, f.Position, f.Parked)
		},
		Switch: func(live projection.Ref) { l.add("switch to %s %d", live.Name, live.Version) },
	}
}

// TestObserver: the observer is told of every event, batch and failure of every kind of projection, and of a switch.
func TestObserver(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	fails := func(e eventstore.Event[counted]) error {
		if e.Data.N < 0 {
			return bad
		}
		return nil
	}
	for name, test := range map[string]struct {
		make     func(version int) *projection.Projection
		attempts int
	}{
		"handler": {func(version int) *projection.Projection {
			return projection.New("p", &projection.Options{Version: version, Tables: []string{"p"}, DDL: `create table {p} (n int)`}, projection.On(counting,
				func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error { return fails(e) }))
		}, 3},
		"table": {func(version int) *projection.Projection {
			return projection.NewTable("p", &projection.Options{Version: version, DDL: tallyDDL("p")}, projection.Fold(counting,
				func(e eventstore.Event[counted]) string { return e.Stream.String() },
				func(_ *tally, e eventstore.Event[counted]) projection.Op {
					if err := fails(e); err != nil {
						return projection.Fail(err)
					}
					return projection.Skip
				}))
		}, 1},
		"effect": {func(version int) *projection.Projection {
			if version > 1 {
				return nil
			}
			return projection.NewSubscription("p", nil, projection.Effect(counting,
				func(_ context.Context, e eventstore.Event[counted]) error { return fails(e) }))
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			var told toldLog
			config := *quiet
			config.Observer = told.observer()
			r, stop := f.start(&config, f.store, test.make(1))
			f.wait(r, f.put("good", 1))
			f.wait(r, f.put("bad", -1, 2))
			if next := test.make(2); next != nil {
				stop()
				_, stop = f.start(&config, f.store, next)
				f.until("the second version is live", func() bool {
					told.mu.Lock()
					defer told.mu.Unlock()
					return slices.Contains(told.lines, "switch to p 2")
				})
			}
			stop()
			told.mu.Lock()
			defer told.mu.Unlock()
			n := 0
			for _, line := range []string{"event 1 of counter-good 1: <nil>", "event 2 of counter-bad 1: bad"} {
				if n = slices.Index(told.lines, line); n < 0 {
					t.Errorf("the observer was not told %q, only\n%q", line, told.lines)
				}
			}
			var failures []string
			for _, line := range told.lines {
				if len(line) > 7 && slices.Contains([]string{"unclear", "poison "}, line[:7]) {
					failures = append(failures, line)
				}
			}
			if len(failures) < test.attempts || failures[test.attempts-1] != "unclear failure at 2, parked: true" {
				t.Errorf("failures: %q", failures)
			}
			if told.done.Parked < 2 || told.done.Events < 1 || told.done.Checkpoint != 3 {
				t.Errorf("batches: %+v", told.done)
			}
		})
	}
}
