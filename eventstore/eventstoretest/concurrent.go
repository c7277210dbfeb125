package eventstoretest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidemark-es/tidemark/eventstore"
)

func testKeyConcurrent(t *testing.T, s Store) {
	receipts := make([]eventstore.Receipt, 16)
	var wg sync.WaitGroup
	for i := range receipts {
		wg.Go(func() {
			ctx, err := eventstore.WithKey(t.Context(), "once", nil), error(nil)
			if receipts[i], err = s.Append(ctx, stream("a"), eventstore.Any, draft(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(collect(t, s.Read(t.Context(), stream("a"), eventstore.ReadOptions{}))); n != 1 {
		t.Errorf("stored %d times", n)
	}
	for _, receipt := range receipts {
		if receipt != receipts[0] || receipt.Version != 1 {
			t.Errorf("receipts differ: %v", receipts)
			break
		}
	}
}

func testOneWinner(t *testing.T, s Store) {
	for round := range eventstore.Version(20) {
		var mu sync.Mutex
		won := 0
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := s.Append(t.Context(), stream("hot"), round, draft(int(round)))
				var conflict *eventstore.ConflictError
				switch {
				case err == nil:
					mu.Lock()
					won++
					mu.Unlock()
				case !errors.As(err, &conflict):
					t.Errorf("loser: %v, want a conflict", err)
				case conflict.Actual != round+1:
					t.Errorf("loser: %v, want the actual version %d", err, round+1)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Fatalf("round %d: %d appends succeeded, want 1", round, won)
		}
	}
}

func testAnyQueues(t *testing.T, s Store) {
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := s.Append(t.Context(), stream("hot"), eventstore.Any, drafts(2)...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	checkLog(t, collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{})), writers*each*2)
}

// testCrossingCommits changes the same streams in opposite orders. These commits must not deadlock.
func testCrossingCommits(t *testing.T, s Store) {
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			names := []string{"a", "b", "c"}
			for range each {
				expected := []eventstore.Version{eventstore.Any, eventstore.Any, eventstore.Any}
				if w%4 == 0 { // some writers expect exact versions
					for i := range names {
						expected[i] = eventstore.Version(len(collect(t, s.Read(t.Context(), stream(names[i]), eventstore.ReadOptions{}))))
					}
				}
				var changes []eventstore.Change
				for i := range names {
					n := (i*(1+w%2) + w) % 3
					changes = append(changes, eventstore.Change{Stream: stream(names[n]), Expected: expected[n], Events: drafts(1)})
				}
				if _, err := s.Commit(t.Context(), changes...); err != nil && (w%4 != 0 || !errors.Is(err, eventstore.ErrConflict)) {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
	checkLog(t, collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{})), -1)
}

// checkLog checks that positions increase, that each stream's versions are 1, 2, 3 … in the
// order of positions, and how many events there are, unless want is negative.
func checkLog(t *testing.T, log []eventstore.Raw, want int) {
	t.Helper()
	if want >= 0 && len(log) != want {
		t.Errorf("%d events, want %d", len(log), want)
	}
	at := make(map[eventstore.StreamID]eventstore.Version)
	last := eventstore.Position(0)
	for _, event := range log {
		if event.Position <= last {
			t.Errorf("position %d comes after %d", event.Position, last)
		}
		last = event.Position
		if at[event.Stream]++; event.Version != at[event.Stream] {
			t.Fatalf("stream %s: version %d at position %d, want version %d", event.Stream, event.Version, event.Position, at[event.Stream])
		}
	}
}

// testFollowersSeeAll runs followers beside writers, and compares the events that they saw.
func testFollowersSeeAll(t *testing.T, s Store) {
	const writers, each, followers = 8, 25, 3
	var wg sync.WaitGroup
	seen := make([][]eventstore.Raw, followers)
	for f := range followers {
		wg.Go(func() {
			for event, err := range s.Follow(t.Context(), 0, eventstore.Filter{}) {
				if err != nil {
					t.Error(err)
					return
				}
				if seen[f] = append(seen[f], event); len(seen[f]) == writers*each {
					return
				}
			}
		})
	}
	for w := range writers {
		wg.Go(func() {
			for n := range eventstore.Version(each) {
				mustAppend(t, s, stream(fmt.Sprint(w)), n, draft(int(n)))
			}
		})
	}
	wg.Wait()
	log := collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{}))
	checkLog(t, log, writers*each)
	for f := range followers {
		if diff := cmp.Diff(log, seen[f], cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("follower %d saw another log (-want +got):\n%s", f, diff)
		}
	}
}
