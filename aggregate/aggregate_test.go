package aggregate_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// A counter that never exceeds its limit.
type counter struct{ Value, Limit int }

type event interface{ isEvent() }

type limited struct{ Limit int }
type added struct{ N int }

func (limited) isEvent() {}
func (added) isEvent()   {}

func (c *counter) Apply(e event) {
	switch e := e.(type) {
	case limited:
		c.Limit = e.Limit
	case added:
		c.Value += e.N
	}
}

var errLimit = errors.New("over the limit")

func (c *counter) add(n int) ([]event, error) {
	switch {
	case c.Value+n > c.Limit:
		return nil, errLimit
	case n == 0:
		return nil, nil
	}
	return []event{added{n}}, nil
}

func add(n int) func(*counter) ([]event, error) {
	return func(c *counter) ([]event, error) { return c.add(n) }
}

var counters = aggregate.Define[counter]("counter", codec.New(
	codec.Of("limited", func(e limited) event { return e }),
	codec.Of("added", func(e added) event { return e }),
))

func limit(n int) func(*counter) ([]event, error) {
	return func(*counter) ([]event, error) { return []event{limited{n}}, nil }
}

// stores returns the stores that a repository is tested over.
func stores(t *testing.T) map[string]aggregate.Store {
	store, err := eventstore.New(pgtest.Pool(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]aggregate.Store{"postgres": store, "memory": eventstoretest.NewMemory()}
}

func each(t *testing.T, run func(*testing.T, aggregate.Store, *aggregate.Repository[counter, event])) {
	t.Parallel()
	for name, store := range stores(t) {
		t.Run(name, func(t *testing.T) { run(t, store, made(aggregate.NewRepository(store, counters, nil))) })
	}
}

func TestUpdate(t *testing.T) {
	each(t, func(t *testing.T, _ aggregate.Store, repo *aggregate.Repository[counter, event]) {
		ctx := t.Context()
		loaded, err := repo.Load(ctx, "a")
		if err != nil || loaded.Version != eventstore.NoStream || *loaded.State != (counter{}) {
			t.Fatalf("what does not exist: %+v, %v; want the zero state", loaded, err)
		}
		if _, err := repo.Update(ctx, "a", limit(10)); err != nil {
			t.Fatal(err)
		}
		receipt, err := repo.Update(ctx, "a", add(7))
		if err != nil || receipt.Version != 2 {
			t.Fatalf("update: %+v, %v", receipt, err)
		}
		if _, err := repo.Update(ctx, "a", add(7)); err != errLimit {
			t.Errorf("a broken rule: %v, want the decision's own error", err)
		}
		if again, err := repo.Update(ctx, "a", add(0)); err != nil || again != receipt {
			t.Errorf("no events: %+v, %v; want the receipt of the state, %+v", again, err, receipt)
		}
		loaded, err = repo.Load(ctx, "a")
		if err != nil || *loaded.State != (counter{7, 10}) || loaded.Version != 2 || loaded.Position != receipt.Position {
			t.Errorf("loaded %+v, %v", loaded, err)
		}
	})
}

func TestUpdateAt(t *testing.T) {
	each(t, func(t *testing.T, _ aggregate.Store, repo *aggregate.Repository[counter, event]) {
		ctx := t.Context()
		if _, err := repo.UpdateAt(ctx, "a", eventstore.NoStream, limit(10)); err != nil {
			t.Fatal(err)
		}
		if _, err := repo.UpdateAt(ctx, "a", 1, add(1)); err != nil {
			t.Fatal(err)
		}
		_, err := repo.UpdateAt(ctx, "a", 1, func(*counter) ([]event, error) {
			t.Error("it decided on a version that the caller has not seen")
			return nil, nil
		})
		var conflict *eventstore.ConflictError
		if !errors.As(err, &conflict) || conflict.Actual != 2 || conflict.Expected != 1 {
			t.Errorf("%v, want a conflict", err)
		}
	})
}

// TestNoLostUpdate: with many writers the counter reaches its limit exactly, never more.
func TestNoLostUpdate(t *testing.T) {
	each(t, func(t *testing.T, store aggregate.Store, _ *aggregate.Repository[counter, event]) {
		repo := made(aggregate.NewRepository(store, counters, &aggregate.Config{MaxAttempts: 1000, MaxDelay: 5 * time.Millisecond}))
		if _, err := repo.Update(t.Context(), "a", limit(50)); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					if _, err := repo.Update(t.Context(), "a", add(1)); err != nil {
						if err != errLimit {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		wg.Wait()
		loaded, err := repo.Load(t.Context(), "a")
		if err != nil || loaded.State.Value != 50 || loaded.Version != 51 {
			t.Errorf("loaded %+v, %v; want 50 at version 51", loaded, err)
		}
	})
}

func TestRetriesAreBounded(t *testing.T) {
	each(t, func(t *testing.T, store aggregate.Store, _ *aggregate.Repository[counter, event]) {
		repo := made(aggregate.NewRepository(store, counters, &aggregate.Config{MaxAttempts: 3, MaxDelay: time.Millisecond}))
		decided := 0
		_, err := repo.Update(t.Context(), "a", func(*counter) ([]event, error) {
			decided++
			change, _ := (&counter{Limit: 1}).add(1)
			draft, _ := counters.Codec().Encode(change[0])
			// Another append is always faster.
			if _, err := store.Commit(t.Context(), eventstore.Change{Stream: counters.Stream("a"), Expected: eventstore.Any, Events: []eventstore.Draft{draft}}); err != nil {
				t.Fatal(err)
			}
			return change, nil
		})
		if decided != 3 || !errors.Is(err, eventstore.ErrConflict) {
			t.Errorf("decided %d times, %v; want 3 times and a conflict", decided, err)
		}
	})
}

// TestCommit moves a value between two counters from many goroutines: the sum stays.
func TestCommit(t *testing.T) {
	each(t, func(t *testing.T, store aggregate.Store, repo *aggregate.Repository[counter, event]) {
		for _, key := range []string{"a", "b"} {
			if _, err := repo.Update(t.Context(), key, limit(1000)); err != nil {
				t.Fatal(err)
			}
		}
		move := func(ctx context.Context, from, to string) error {
			receipt, err := aggregate.Commit(ctx, store, &aggregate.Config{MaxAttempts: 1000, MaxDelay: 5 * time.Millisecond}, func(ctx context.Context) ([]eventstore.Change, error) {
				var changes []eventstore.Change
				for i, key := range []string{from, to} {
					loaded, err := repo.Load(ctx, key)
					if err != nil {
						return nil, err
					}
					change, err := loaded.Change([]event{added{1 - 2*i}}, nil)
					if err != nil {
						return nil, err
					}
					changes = append(changes, change)
				}
				return changes, nil
			})
			if err != nil {
				return err
			}
			first, err := repo.Load(ctx, from)
			if err == nil && (receipt.Version > first.Version || receipt.Position < 1) {
				err = fmt.Errorf("receipt %+v, but %s is at version %d", receipt, from, first.Version)
			}
			return err
		}
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				for range 10 {
					from, to := "a", "b"
					if i%2 == 0 {
						from, to = to, from
					}
					if err := move(t.Context(), from, to); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		a, _ := repo.Load(t.Context(), "a")
		b, _ := repo.Load(t.Context(), "b")
		if a.State.Value != 0 || b.State.Value != 0 || a.Version != 61 || b.Version != 61 {
			t.Errorf("a %+v at %d, b %+v at %d; want both 0 at 61", a.State, a.Version, b.State, b.Version)
		}
	})
}

// TestCommitReceipt: the receipt has the version of the first change and the position of the last one, also when the
// commit is repeated.
func TestCommitReceipt(t *testing.T) {
	each(t, func(t *testing.T, store aggregate.Store, repo *aggregate.Repository[counter, event]) {
		for range 2 { // so that their versions differ
			if _, err := repo.Update(t.Context(), "a", limit(10)); err != nil {
				t.Fatal(err)
			}
		}
		var receipts [2]eventstore.Receipt
		for i := range receipts {
			ctx := eventstore.WithKey(t.Context(), "both", nil)
			var err error
			receipts[i], err = aggregate.Commit(ctx, store, nil, func(ctx context.Context) (changes []eventstore.Change, err error) {
				for _, key := range []string{"a", "b"} {
					loaded, err := repo.Load(ctx, key)
					if err != nil {
						return nil, err
					}
					change, err := loaded.Change(limit(20)(loaded.State))
					if err != nil {
						return nil, err
					}
					changes = append(changes, change)
				}
				return changes, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		last, err := repo.Load(t.Context(), "b")
		want := eventstore.Receipt{Version: 3, Position: last.Position}
		if err != nil || last.Version != 1 || receipts[0] != want || receipts[1] != want {
			t.Errorf("receipts %+v, %v; want twice %+v", receipts, err, want)
		}
		none, err := aggregate.Commit(t.Context(), store, nil, func(context.Context) ([]eventstore.Change, error) { return nil, nil })
		if err != nil || none != (eventstore.Receipt{}) {
			t.Errorf("without changes: %+v, %v", none, err)
		}
		// A decision without events is no change.
		one, err := aggregate.Commit(t.Context(), store, nil, func(ctx context.Context) (changes []eventstore.Change, err error) {
			for key, n := range map[string]int{"a": 0, "b": 1} {
				loaded, err := repo.Load(ctx, key)
				if err != nil {
					return nil, err
				}
				change, err := loaded.Change(loaded.State.add(n))
				if err != nil {
					return nil, err
				}
				changes = append(changes, change)
			}
			return changes, nil
		})
		if a, _ := repo.Load(t.Context(), "a"); err != nil || one.Version != 2 || a.Version != 3 {
			t.Errorf("one of two decisions without events: %+v, %v; a is at version %d", one, err, a.Version)
		}
	})
}

// TestRefusalOnTornStates: other updates change both aggregates between the two loads. A decision that refuses because
// the states do not fit together is made again.
func TestRefusalOnTornStates(t *testing.T) {
	each(t, func(t *testing.T, store aggregate.Store, repo *aggregate.Repository[counter, event]) {
		errTorn := errors.New("the two limits differ")
		for _, test := range []struct {
			others int // how many commits come in between
			config *aggregate.Config
			want   error
			tries  int
		}{
			{1, nil, errLimit, 2},
			{0, nil, errLimit, 1},
			{9, &aggregate.Config{MaxAttempts: 3}, eventstore.ErrConflict, 3},
		} {
			tries := 0
			_, err := aggregate.Commit(t.Context(), store, test.config, func(ctx context.Context) ([]eventstore.Change, error) {
				tries++
				a, err := repo.Load(ctx, "a")
				if err != nil {
					return nil, err
				}
				if tries <= test.others {
					for _, key := range []string{"a", "b"} {
						if _, err := repo.Update(t.Context(), key, limit(a.State.Limit+1)); err != nil {
							return nil, err
						}
					}
				}
				b, err := repo.Load(ctx, "b")
				if err != nil {
					return nil, err
				}
				if a.State.Limit != b.State.Limit {
					return nil, errTorn
				}
				return nil, errLimit
			})
			if !errors.Is(err, test.want) || tries != test.tries {
				t.Errorf("%d others: %v after %d tries, want %v after %d", test.others, err, tries, test.want, test.tries)
			}
		}
	})
}

// TestChangeRefuses: Change returns the decision's error as it is.
func TestChangeRefuses(t *testing.T) {
	each(t, func(t *testing.T, _ aggregate.Store, repo *aggregate.Repository[counter, event]) {
		loaded, err := repo.Load(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := loaded.Change(loaded.State.add(1)); err != errLimit {
			t.Errorf("%v, want the decision's own error", err)
		}
	})
}

// TestKey: a repeated request gets the first answer, even if the decision would be different now.
func TestKey(t *testing.T) {
	each(t, func(t *testing.T, _ aggregate.Store, repo *aggregate.Repository[counter, event]) {
		if _, err := repo.Update(t.Context(), "a", limit(10)); err != nil {
			t.Fatal(err)
		}
		ctx := eventstore.WithKey(t.Context(), "add 7", nil)
		first, err := repo.Update(ctx, "a", add(7))
		if err != nil {
			t.Fatal(err)
		}
		again, err := repo.Update(eventstore.WithKey(t.Context(), "add 7", nil), "a", add(7))
		if err != nil || again != first {
			t.Errorf("repeated: %+v, %v; want %+v", again, err, first)
		}
	})
}

// TestKeyConcurrent: a repeat is stored after the key was looked up and before the decision. It is found, although it
// has made the decision impossible.
func TestKeyConcurrent(t *testing.T) {
	each(t, func(t *testing.T, _ aggregate.Store, repo *aggregate.Repository[counter, event]) {
		if _, err := repo.Update(t.Context(), "a", limit(10)); err != nil {
			t.Fatal(err)
		}
		ctx := eventstore.WithKey(t.Context(), "add 7", nil)
		var first eventstore.Receipt
		again, err := repo.Update(ctx, "a", func(*counter) (_ []event, err error) {
			if first, err = repo.Update(eventstore.WithKey(t.Context(), "add 7", nil), "a", add(7)); err != nil {
				t.Fatal(err)
			}
			return nil, errLimit
		})
		if err != nil || again != first || first.Version != 2 {
			t.Errorf("the slower request: %+v, %v; want %+v", again, err, first)
		}
	})
}

// TestConflictInTransaction: in a caller's transaction a conflict is returned at once, without another attempt.
func TestConflictInTransaction(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	outside := made(aggregate.NewRepository(store, counters, nil))
	inside := made(aggregate.NewRepository(store.WithTx(tx), counters, nil))
	decided := 0
	_, err = inside.Update(t.Context(), "a", func(*counter) ([]event, error) {
		decided++
		if _, err := outside.Update(t.Context(), "a", limit(1)); err != nil {
			t.Fatal(err)
		}
		return []event{limited{2}}, nil
	})
	if decided != 1 || !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("decided %d times, %v; want once and a conflict", decided, err)
	}
}

// TestDecisionIsFinal: an error of a decision is returned as it is, even one that says conflict.
func TestDecisionIsFinal(t *testing.T) {
	each(t, func(t *testing.T, _ aggregate.Store, repo *aggregate.Repository[counter, event]) {
		decided, own := 0, fmt.Errorf("my own: %w", eventstore.ErrConflict)
		_, err := repo.Update(t.Context(), "a", func(*counter) ([]event, error) {
			decided++
			return nil, own
		})
		if decided != 1 || err != own {
			t.Errorf("decided %d times, %v; want once and the decision's own error", decided, err)
		}
	})
}

func TestUnknownEvent(t *testing.T) {
	each(t, func(t *testing.T, store aggregate.Store, repo *aggregate.Repository[counter, event]) {
		_, err := store.Commit(t.Context(), eventstore.Change{Stream: counters.Stream("a"), Expected: eventstore.Any,
			Events: []eventstore.Draft{{Type: "from the future", Data: []byte(`{}`)}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := repo.Update(t.Context(), "a", add(1)); !errors.Is(err, codec.ErrUnknownType) {
			t.Errorf("%v, want ErrUnknownType", err)
		}
		if _, err := repo.Load(t.Context(), ""); !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("empty key: %v, want ErrInvalid", err)
		}
	})
}

func TestDefineRefuses(t *testing.T) {
	t.Parallel()
	for _, category := range []string{"", "a-b"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("category %q: no panic", category)
				}
			}()
			aggregate.Define[counter](category, counters.Codec())
		}()
	}
}

func TestScenario(t *testing.T) {
	t.Parallel()
	aggregatetest.New(t, counters).Given(limited{10}, added{3}).When(add(7)).Then(added{7})
	aggregatetest.New(t, counters).Given(limited{10}, added{3}).When(add(0)).Then()
	if err := aggregatetest.New(t, counters).Given(limited{10}, added{3}).When(add(8)).ThenError(errLimit); err != errLimit {
		t.Errorf("ThenError returned %v, want the decision's error", err)
	}
	aggregatetest.New(t, counters).Given(limited{10}).When(add(7)).ThenState(func(c *counter) {
		if c.Value != 7 {
			t.Errorf("value %d, want 7", c.Value)
		}
	})
}

// TestScenarioFails: each of the checks fails a test when it should.
func TestScenarioFails(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(t testing.TB){
		"other event": func(t testing.TB) { aggregatetest.New(t, counters).Given(limited{10}).When(add(7)).Then(added{8}) },
		"no event":    func(t testing.TB) { aggregatetest.New(t, counters).Given(limited{10}).When(add(7)).Then() },
		"no error": func(t testing.TB) {
			_ = aggregatetest.New(t, counters).Given(limited{10}).When(add(7)).ThenError(errLimit)
		},
		"other error": func(t testing.TB) {
			_ = aggregatetest.New(t, counters).Given().When(add(7)).ThenError(context.Canceled)
		},
		"unwanted err": func(t testing.TB) { aggregatetest.New(t, counters).Given().When(add(7)).Then(added{7}) },
		"not in codec": func(t testing.TB) { aggregatetest.New(t, counters).Given(unknown{}).When(add(0)).Then() },
		"changes state": func(t testing.TB) {
			aggregatetest.New(t, counters).Given().When(func(c *counter) ([]event, error) { c.Value++; return nil, nil }).Then()
		},
	} {
		if !failsIn(t, run) {
			t.Errorf("%s: the scenario passed", name)
		}
	}
}

// failsIn reports whether a test fails.
func failsIn(t *testing.T, run func(testing.TB)) bool {
	failed := make(chan bool)
	go func() { // Fatal ends the goroutine
		r := &recorder{TB: t}
		defer func() { failed <- r.failed }()
		run(r)
	}()
	return <-failed
}

type unknown struct{}

func (unknown) isEvent() {}

// recorder is a test that may fail without failing the real one.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper()                   {}
func (r *recorder) Errorf(string, ...any)     { r.failed = true }
func (r *recorder) Fatal(...any)              { r.failed = true; runtime.Goexit() }
func (r *recorder) Fatalf(_ string, _ ...any) { r.failed = true; runtime.Goexit() }

func Example() {
	ctx := context.Background()
	repo := made(aggregate.NewRepository(eventstoretest.NewMemory(), counters, nil))
	for _, decide := range []func(*counter) ([]event, error){limit(10), add(7), add(7)} {
		receipt, err := repo.Update(ctx, "a", decide)
		fmt.Println(receipt.Version, err)
	}
	loaded, _ := repo.Load(ctx, "a")
	fmt.Println("value", loaded.State.Value)
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 0 over the limit
	// value 7
}

// made returns the value that a constructor returned, and panics if it returned an error.
func made[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
