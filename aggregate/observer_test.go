package aggregate_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/snapshot"
)

// TestObserver: the observers are told where aggregates were loaded from, of conflicts, and of snapshots.
func TestObserver(t *testing.T) {
	t.Parallel()
	var seen []string
	tell := func(format string, args ...any) { seen = append(seen, fmt.Sprintf(format, args...)) }
	memory := made(snapshot.NewMemory(snapshot.Retention{}))
	snapshots := made(snapshot.NewSnapshotter(memory, &snapshot.Config{Sync: true, Policy: snapshot.Every(2), Observer: snapshot.Observer{
		Save: func(done snapshot.SaveDone) {
			tell("snapshot of %s at %d, %v bytes, %v", done.Stream, done.Version, done.Bytes > 0, done.Err)
		},
	}}))
	store := eventstoretest.NewMemory()
	config := &aggregate.Config{Snapshots: snapshots, CacheSize: 1, Observer: aggregate.Observer{
		Load: func(_ context.Context, done aggregate.LoadDone) {
			tell("%s at %d from %d, %d events, cached: %v, %v", done.Stream, done.Version, done.From, done.Events, done.Cached, done.Err)
		},
		Conflict: func(_ context.Context, attempt int, conflict *eventstore.ConflictError) {
			tell("conflict %d: %s is at %d", attempt, conflict.Stream, conflict.Actual)
		},
	}}
	repository := made(aggregate.NewRepository(store, counters, config))
	other := made(aggregate.NewRepository(store, counters, nil))
	update := func(r *aggregate.Repository[counter, event], decide func(*counter) ([]event, error)) {
		t.Helper()
		if _, err := r.Update(t.Context(), "a", decide); err != nil {
			t.Fatal(err)
		}
	}
	one := func(*counter) ([]event, error) { return []event{limited{100}, added{1}}, nil }
	update(repository, one)
	interfere := true
	update(repository, func(*counter) ([]event, error) {
		if interfere {
			interfere = false
			update(other, one)
		}
		return []event{added{1}}, nil
	})
	if _, err := made(aggregate.NewRepository(store, counters, &aggregate.Config{Observer: config.Observer})).Load(t.Context(), ""); err == nil {
		t.Error("the empty key was loaded")
	}
	want := []string{
		"counter-a at 0 from 0, 0 events, cached: false, <nil>",
		"snapshot of counter-a at 2, true bytes, <nil>",
		"counter-a at 2 from 0, 0 events, cached: true, <nil>",
		"conflict 1: counter-a is at 4",
		"counter-a at 4 from 2, 2 events, cached: false, <nil>",
		"snapshot of counter-a at 5, true bytes, <nil>",
	}
	for n, line := range want {
		if n >= len(seen) || seen[n] != line {
			t.Fatalf("told are\n%q, want\n%q", seen, want)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("told are also %q", seen[len(want):])
	}
}
