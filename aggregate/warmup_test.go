package aggregate_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// TestWarmUp takes snapshots of a category that has none. It does so again after streams have grown and snapshots were
// spoiled, deleted or outdated.
func TestWarmUp(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		ctx, lister := t.Context(), k.events.Store.(aggregate.Lister)
		plain := made(aggregate.NewRepository(k.events, counters, nil))
		const n = 450 // three pages
		key := func(i int) string { return fmt.Sprintf("%03d", i) }
		for i := range n {
			grow(t, plain, key(i), eventstore.Version(1+i%4))
		}
		if _, err := k.events.Commit(ctx, eventstore.Change{
			Stream: eventstore.StreamID{Category: "counters", Key: "other"}, Expected: eventstore.Any, Events: []eventstore.Draft{{Type: "t", Data: []byte(`{}`)}},
		}); err != nil {
			t.Fatal(err)
		}
		repo, snapshots, log := k.repository(t, snapshot.Config{Policy: snapshot.Never()}, 0)
		var reports []aggregate.WarmUp
		warm := func(repo *repository, after eventstore.StreamID) aggregate.WarmUp {
			t.Helper()
			reports = nil
			done, err := repo.WarmUp(ctx, lister, after, func(w aggregate.WarmUp) { reports = append(reports, w) })
			if err != nil {
				t.Fatal(err)
			}
			if last := reports[len(reports)-1]; last != done {
				t.Errorf("the last report is %+v, want %+v", last, done)
			}
			return done
		}
		want := aggregate.WarmUp{Last: counters.Stream(key(n - 1)), Saved: n}
		if done := warm(repo, eventstore.StreamID{}); done != want || len(reports) != 4 {
			t.Errorf("%+v in %d reports, want %+v in 4", done, len(reports), want)
		}
		for i := range n {
			last, ok := saved(t, k, key(i))
			if !ok || last.Version != eventstore.Version(1+i%4) {
				t.Fatalf("stream %d: snapshot of version %d, %t", i, last.Version, ok)
			}
		}
		checkLoad(t, k, repo, key(7))

		// One stream has grown, one has a spoiled snapshot, one has no snapshot, and one does not load.
		grow(t, plain, key(1), 9)
		spoiled, _ := saved(t, k, key(2))
		for i := 2; i <= 3; i++ {
			last, _ := saved(t, k, key(i))
			if err := k.snapshots.Delete(ctx, last.Stream, last.Version); err != nil {
				t.Fatal(err)
			}
		}
		spoiled.Data = []byte("?")
		if err := k.snapshots.Save(ctx, spoiled); err != nil {
			t.Fatal(err)
		}
		if _, err := k.events.Commit(ctx, eventstore.Change{Stream: counters.Stream(key(4)), Expected: eventstore.Any, Events: []eventstore.Draft{{Type: "from the future", Data: []byte(`{}`)}}}); err != nil {
			t.Fatal(err)
		}
		done := warm(repo, eventstore.StreamID{})
		if done.Saved != 3 || done.Current != n-4 || done.Failed != 1 || !errors.Is(done.Err, codec.ErrUnknownType) || done.Deleted != 0 {
			t.Errorf("again: %+v", done)
		}
		if stats := snapshots.Stats(); stats.Bad != 1 || !log.contains("does not decode") {
			t.Errorf("stats %+v", stats)
		}

		// A release with another schema, from the middle on.
		newer := made(aggregate.NewRepository(k.events, counters.WithSchema(2), &aggregate.Config{Snapshots: snapshots}))
		done = warm(newer, counters.Stream(key(n-11)))
		if done.Saved != 10 || done.Current != 0 || done.Deleted != n-10 {
			t.Errorf("another schema: %+v, want 10 saved and %d deleted", done, n-10)
		}
		if left, err := k.snapshots.DeleteOutdated(ctx, "counter", snapshot.Kind{Type: "none", Schema: 1}, 2*n); err != nil || left != 10 {
			t.Errorf("%d snapshots are left, %v; want 10", left, err)
		}
	})
}

// stopping cancels a context after some pages.
type stopping struct {
	aggregate.Lister
	pages int
	stop  func()
}

func (s *stopping) Streams(ctx context.Context, prefix string, after eventstore.StreamID, limit int) ([]eventstore.StreamInfo, error) {
	page, err := s.Lister.Streams(ctx, prefix, after, limit)
	if s.pages--; s.pages == 0 {
		s.stop()
	}
	return page, err
}

// TestWarmUpStops: a WarmUp that was stopped says where to continue.
func TestWarmUpStops(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		plain := made(aggregate.NewRepository(k.events, counters, nil))
		const n = 450
		for i := range n {
			grow(t, plain, fmt.Sprintf("%03d", i), 1)
		}
		repo, _, _ := k.repository(t, snapshot.Config{}, 0)
		ctx, stop := context.WithCancel(t.Context())
		lister := k.events.Store.(aggregate.Lister)
		done, err := repo.WarmUp(ctx, &stopping{lister, 2, stop}, eventstore.StreamID{}, nil)
		if !errors.Is(err, context.Canceled) || done.Saved != 200 || done.Last != counters.Stream("199") {
			t.Fatalf("stopped: %+v, %v", done, err)
		}
		if done, err = repo.WarmUp(t.Context(), lister, done.Last, nil); err != nil || done.Saved != 250 {
			t.Errorf("the rest: %+v, %v", done, err)
		}
		if _, err := plain.WarmUp(t.Context(), lister, eventstore.StreamID{}, nil); !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("without snapshots: %v, want ErrInvalid", err)
		}
	})
}
