package snapshottest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// testNeverBack saves increasing versions of a few streams from several goroutines at once. Loads never go back to an
// earlier version, and the latest version is there in the end.
func testNeverBack(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	const writers, readers, each = 6, 2, 40
	keys := []string{"a", "b", "c"}
	versions := make([]atomic.Int64, len(keys))
	next := func(i int) snapshot.Snapshot { return made(keys[i], eventstore.Version(versions[i].Add(1)), kind) }

	var writing, reading sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				batch := []snapshot.Snapshot{next((w + n) % 3)}
				if rand.IntN(2) == 0 {
					batch = append(batch, next((w+n+1)%3), next((w+n+2)%3))
				}
				if err := store.Save(t.Context(), batch...); err != nil {
					t.Error(err)
					return
				}
				// From now on every load finds this snapshot or a later one.
				for _, saved := range batch {
					if got, ok, err := store.Load(t.Context(), saved.Stream, kind, latest); err != nil || !ok || got.Version < saved.Version {
						t.Errorf("saved %s at version %d, loaded %d, %v, %v", saved.Stream, saved.Version, got.Version, ok, err)
						return
					}
				}
			}
		})
	}
	done := make(chan struct{})
	for range readers {
		reading.Go(func() {
			seen := make(map[string]eventstore.Version)
			for {
				for _, key := range keys {
					got, ok, err := store.Load(t.Context(), stream(key), kind, latest)
					if err != nil || got.Version < seen[key] || !ok && seen[key] > 0 {
						t.Errorf("loaded %s at version %d, %v, %v; before it was %d", key, got.Version, ok, err, seen[key])
						return
					}
					seen[key] = got.Version
					if diff := compare(made(key, got.Version, kind), got); ok && diff != "" {
						t.Errorf("loaded (-want +got):\n%s", diff)
						return
					}
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
	for i, key := range keys {
		last := eventstore.Version(versions[i].Load())
		checkLoad(t, store, key, kind, latest, made(key, last, kind), true)
		mustSave(t, store, made(key, last+1, kind))
		check(t, store, key, made(key, last+1, kind)) // all older snapshots are deleted
	}
}

// testOneWinner: of several snapshots of one version, saved at once, one is stored and stays.
func testOneWinner(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	const writers = 6
	for round := range eventstore.Version(10) {
		var wg sync.WaitGroup
		loaded := make([]snapshot.Snapshot, writers)
		for w := range writers {
			wg.Go(func() {
				mine, own := made("hot", round+1, kind), made(fmt.Sprintf("own%d", w), round+1, kind)
				mine.Data = fmt.Append(nil, w)
				err := store.Save(t.Context(), own, mine)
				if err == nil {
					loaded[w], _, err = store.Load(t.Context(), mine.Stream, kind, latest)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for w := range writers {
			if diff := compare(loaded[0], loaded[w]); diff != "" {
				t.Fatalf("round %d: two writers loaded (-first +other):\n%s", round, diff)
			}
			check(t, store, fmt.Sprintf("own%d", w), made(fmt.Sprintf("own%d", w), round+1, kind))
		}
	}
}
