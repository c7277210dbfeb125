package aggregate_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

var ctxForever = context.Background()

// cached returns a repository with a cache over a pair of stores, without snapshots.
func (k kept) cached(size int) *repository {
	return made(aggregate.NewRepository(k.events, counters, &aggregate.Config{CacheSize: size}))
}

// TestCacheSparesReading: an update of an aggregate that was just updated reads nothing.
func TestCacheSparesReading(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		repo := k.cached(2)
		grow(t, repo, "a", 5)
		k.events.since()
		grow(t, repo, "a", 20) // one of which changes the limit
		if _, reads := k.events.since(); reads != 0 {
			t.Errorf("%d reads, want none", reads)
		}
		if _, err := repo.Update(t.Context(), "a", add(2_000_000)); err != errLimit {
			t.Errorf("%v, want the decision's own error", err)
		}
		if _, reads := k.events.since(); reads != 1 {
			t.Errorf("a refusal: %d reads, want one, which looks for later events", reads)
		}
		if receipt, err := repo.Update(t.Context(), "a", add(0)); err != nil || receipt.Version < 20 || receipt.Position == 0 {
			t.Errorf("nothing to do: %+v, %v", receipt, err)
		}
		// The least recently used aggregate is dropped.
		grow(t, repo, "b", 2)
		grow(t, repo, "c", 2)
		k.events.since()
		grow(t, repo, "a", 2)
		if _, reads := k.events.since(); reads == 0 {
			t.Error("the cache of two keeps three")
		}
		checkLoad(t, k, repo, "a")
		checkLoad(t, k, repo, "b")
	})
}

// TestCacheIsNeverWrong: whatever another repository appends, an update on a cached state never stores events that the
// new state forbids, and never refuses events that the new state allows.
func TestCacheIsNeverWrong(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		here, there := k.cached(10), k.cached(10)
		must := func(repo *repository, decide func(*counter) ([]event, error)) eventstore.Receipt {
			t.Helper()
			receipt, err := repo.Update(t.Context(), "a", decide)
			if err != nil {
				t.Fatal(err)
			}
			return receipt
		}
		must(here, limit(10))
		must(there, add(9))
		if _, err := here.Update(t.Context(), "a", add(2)); err != errLimit {
			t.Errorf("what the cached state allows: %v, want %v", err, errLimit)
		}
		must(there, limit(20))
		must(here, add(11)) // which the cached state forbids
		receipt := must(there, limit(30))
		if unchanged := must(here, add(0)); unchanged != receipt {
			t.Errorf("nothing to do at %+v, want %+v", unchanged, receipt)
		}
		receipt = must(there, limit(40))
		if _, err := here.UpdateAt(t.Context(), "a", receipt.Version, add(1)); err != nil {
			t.Errorf("at the version that the cache has not seen: %v", err)
		}
		must(there, limit(50))
		if _, err := here.UpdateAt(t.Context(), "a", receipt.Version+1, add(1)); !errors.Is(err, eventstore.ErrConflict) {
			t.Errorf("at the version of the cache: %v, want a conflict", err)
		}
		// A repository with a single attempt does not use the cache.
		once := made(aggregate.NewRepository(k.events, counters, &aggregate.Config{CacheSize: 10, MaxAttempts: 1}))
		must(once, limit(60))
		must(here, add(1))
		must(once, add(1))
		checkLoad(t, k, here, "a")
	})
}

// TestCacheAndKeys: events that a request with an idempotency key has appended are read again, because the receipt may
// be that of another attempt.
func TestCacheAndKeys(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		repo := k.cached(10)
		grow(t, repo, "a", 3)
		keyed := func(name string) context.Context { return eventstore.WithKey(t.Context(), name, nil) }
		for _, name := range []string{"one", "two", "one", "three"} {
			if _, err := repo.Update(keyed(name), "a", add(5)); err != nil {
				t.Fatal(err)
			}
		}
		k.events.since()
		receipt, err := repo.Update(t.Context(), "a", add(1))
		if err != nil || receipt.Version != 7 {
			t.Errorf("%+v, %v; want version 7", receipt, err)
		}
		if events, _ := k.events.since(); events > 2 {
			t.Errorf("%d events read, want the last one of the cached state and what came after it", events)
		}
		if loaded := checkLoad(t, k, repo, "a"); loaded.State.Value != 2+3*5+1 {
			t.Errorf("loaded %+v", loaded.State)
		}
	})
}

// TestCacheAndKeyOfAnother: while a request decides, a repeat of it with another decision is stored. Both get the
// receipt of the repeat, and the cached state has the events of the repeat.
func TestCacheAndKeyOfAnother(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		here, there := k.cached(10), k.cached(10)
		grow(t, here, "a", 3)
		attempt := func() context.Context { return eventstore.WithKey(t.Context(), "once", nil) }
		receipt, err := here.Update(attempt(), "a", func(*counter) ([]event, error) {
			if _, err := there.Update(attempt(), "a", add(500)); err != nil {
				t.Fatal(err)
			}
			return []event{added{3}}, nil
		})
		if err != nil || receipt.Version != 4 {
			t.Fatalf("%+v, %v; want version 4", receipt, err)
		}
		_, err = here.Update(t.Context(), "a", func(c *counter) ([]event, error) {
			if c.Value != 502 {
				t.Errorf("the next decision is made on %d, want 502", c.Value)
			}
			return []event{added{1}}, nil
		})
		if err != nil {
			t.Error(err)
		}
		checkLoad(t, k, here, "a")
	})
}

// deaf is a store that cannot be read.
type deaf struct{ aggregate.Store }

func (deaf) Read(context.Context, eventstore.StreamID, eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error] {
	return func(yield func(eventstore.Raw, error) bool) { yield(eventstore.Raw{}, errBroken) }
}

// switched reads from the store that now points to.
type switched struct {
	aggregate.Store
	now *aggregate.Store
}

func (s switched) Read(ctx context.Context, stream eventstore.StreamID, options eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error] {
	return (*s.now).Read(ctx, stream, options)
}

// TestCacheCannotCheck: if a refusal on a cached state, or a decision without events, cannot be checked, Update returns
// the error of the check.
func TestCacheCannotCheck(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		now := aggregate.Store(k.events)
		repo := made(aggregate.NewRepository(switched{k.events, &now}, counters, &aggregate.Config{CacheSize: 10}))
		if _, err := repo.Update(t.Context(), "a", limit(10)); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 11} {
			now = deaf{k.events}
			if receipt, err := repo.Update(t.Context(), "a", add(n)); !errors.Is(err, errBroken) {
				t.Errorf("add %d: %+v, %v; want that it could not be checked", n, receipt, err)
			}
			now = k.events
			if _, err := repo.Update(t.Context(), "a", limit(10)); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestCacheOfNothingToDo: updates that change nothing, beside others of the same aggregate, get the receipt
// of the state they were decided on.
func TestCacheOfNothingToDo(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		repo, _, _ := k.repository(t, snapshot.Config{}, 10)
		grow(t, repo, "a", 1)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for range 100 {
					seen := -1
					receipt, err := repo.Update(t.Context(), "a", func(c *counter) ([]event, error) {
						seen = c.Value
						return c.add(g % 2)
					})
					if want := eventstore.Version(seen + 1 + g%2); err != nil || receipt.Version != want {
						t.Errorf("receipt %+v, %v; want version %d", receipt, err, want)
					}
				}
			})
		}
		wg.Wait()
		checkLoad(t, k, repo, "a")
	})
}

// lossy stores every commit, but reports an unknown outcome for every third one.
type lossy struct {
	aggregate.Store
	mu sync.Mutex
	n  int
}

func (l *lossy) Commit(ctx context.Context, changes ...eventstore.Change) ([]eventstore.Receipt, error) {
	receipts, err := l.Store.Commit(ctx, changes...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n++; err == nil && l.n%3 == 0 {
		return nil, fmt.Errorf("lost: %w", eventstore.ErrUnknownOutcome)
	}
	return receipts, err
}

// TestCacheForgetsUnknownOutcomes: after an append with an unknown outcome the state is loaded again.
func TestCacheForgetsUnknownOutcomes(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		repo := made(aggregate.NewRepository(&lossy{Store: k.events}, counters, &aggregate.Config{CacheSize: 10}))
		for range 20 {
			_, err := repo.Update(t.Context(), "a", func(c *counter) ([]event, error) { return []event{limited{c.Limit + 1}}, nil })
			if err != nil && !errors.Is(err, eventstore.ErrUnknownOutcome) {
				t.Fatal(err)
			}
		}
		if loaded := checkLoad(t, k, repo, "a"); loaded.State.Limit != 20 {
			t.Errorf("limit %d, want 20: a decision was made on a state that is past", loaded.State.Limit)
		}
	})
}

// TestCacheConcurrent: many goroutines of two processes update a few aggregates, with caches that are too
// small, and snapshots.
func TestCacheConcurrent(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		const goroutines, updates = 8, 60
		var wg sync.WaitGroup
		var repos []*repository
		for range 2 {
			repo, _, _ := k.repository(t, snapshot.Config{Policy: snapshot.Every(7)}, 2)
			repos = append(repos, repo)
		}
		keys := []string{"a", "b", "c"}
		for _, key := range keys {
			grow(t, repos[0], key, 1)
		}
		for i := range goroutines {
			wg.Go(func() {
				for n := range updates {
					if _, err := repos[i%2].Update(t.Context(), keys[(i+n)%3], add(1)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		sum := 0
		for _, key := range keys {
			sum += checkLoad(t, k, repos[0], key).State.Value
			checkLoad(t, k, repos[1], key)
		}
		if sum != goroutines*updates {
			t.Errorf("the counters come to %d, want %d", sum, goroutines*updates)
		}
	})
}
