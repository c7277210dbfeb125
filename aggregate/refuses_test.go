package aggregate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/snapshot"
)

// TestDefinitionsRefuse: mistakes are refused where they are made, with a text that names the mistake. Definitions
// panic, constructors return an error.
func TestDefinitionsRefuse(t *testing.T) {
	t.Parallel()
	store := eventstoretest.NewMemory()
	with := func(config aggregate.Config) func() {
		return func() { made(aggregate.NewRepository(store, counters, &config)) }
	}
	for want, define := range map[string]func(){
		`Define: category "": `:                        func() { aggregate.Define[counter]("", counters.Codec()) },
		`Define: category "a-b": `:                     func() { aggregate.Define[counter]("a-b", counters.Codec()) },
		`Define: category "a": the codec is nil`:       func() { aggregate.Define[counter, *counter, event]("a", nil) },
		`Define: category "a": the codec has no event`: func() { aggregate.Define[counter]("a", codec.New(codec.Retired[event]("gone"))) },
		`Definition.WithSchema: counter: schema 0`:     func() { counters.WithSchema(0) },
		`Definition.WithEncoding: counter: encode or`:  func() { counters.WithEncoding(nil, nil) },
		`NewRepository: the definition is nil`:         func() { made(aggregate.NewRepository[counter, event](store, nil, nil)) },
		`NewRepository: counter: the store is nil`:     func() { made(aggregate.NewRepository(nil, counters, nil)) },
		`NewRepository: counter: the store is nil: p`:  func() { made(aggregate.NewRepository((*eventstore.Store)(nil), counters, nil)) },
		`counter: Config.MaxAttempts is -1`:            with(aggregate.Config{MaxAttempts: -1}),
		`counter: Config.MaxDelay is -1s`:              with(aggregate.Config{MaxDelay: -time.Second}),
		`counter: Config.MaxDelay is 2540400h`:         with(aggregate.Config{MaxDelay: 290 * 365 * 24 * time.Hour}),
		`counter: Config.CacheSize is -1`:              with(aggregate.Config{CacheSize: -1}),
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "aggregate: ") || !strings.Contains(got, want) {
					t.Errorf("panic %q, want one that says %q", got, want)
				}
			}()
			define()
		}()
	}
}

// TestCallsRefuse: a call that cannot work returns an error before anything is read.
func TestCallsRefuse(t *testing.T) {
	t.Parallel()
	ctx, store := t.Context(), eventstoretest.NewMemory()
	repo := made(aggregate.NewRepository(store, counters, nil))
	nothing := func(context.Context) ([]eventstore.Change, error) { return nil, nil }
	memory, err := snapshot.NewMemory(snapshot.Retention{})
	if err != nil {
		t.Fatal(err)
	}
	snapshots := made(snapshot.NewSnapshotter(memory, nil))
	t.Cleanup(snapshots.Close)
	saving := made(aggregate.NewRepository(store, counters, &aggregate.Config{Snapshots: snapshots}))
	for want, call := range map[string]func() error{
		"update counter-a: decide is nil":           func() error { _, err := repo.Update(ctx, "a", nil); return err },
		"update counter-b: decide is nil":           func() error { _, err := repo.UpdateAt(ctx, "b", 1, nil); return err },
		"update counter-a: version -3":              func() error { _, err := repo.UpdateAt(ctx, "a", -3, add(1)); return err },
		"load counter-a: version -1":                func() error { _, err := repo.LoadVersion(ctx, "a", -1); return err },
		"load counter-a: position -1":               func() error { _, err := repo.LoadThrough(ctx, "a", -1); return err },
		"load counter-a: the time":                  func() error { _, err := repo.LoadAsOf(ctx, "a", time.Time{}); return err },
		"warm up counter: the repository has":       func() error { _, err := repo.WarmUp(ctx, nil, eventstore.StreamID{}, nil); return err },
		"warm up counter: the Lister is nil":        func() error { _, err := saving.WarmUp(ctx, nil, eventstore.StreamID{}, nil); return err },
		"commit: the store or decide is nil":        func() error { _, err := aggregate.Commit(ctx, nil, nil, nothing); return err },
		"commit: the store or decide is nil: pass":  func() error { _, err := aggregate.Commit(ctx, (*eventstore.Store)(nil), nil, nothing); return err },
		"commit: the store or decide is nil: pass ": func() error { _, err := aggregate.Commit(ctx, store, nil, nil); return err },
		"commit: Config.MaxAttempts is -1": func() error {
			_, err := aggregate.Commit(ctx, store, &aggregate.Config{MaxAttempts: -1}, nothing)
			return err
		},
	} {
		if err := call(); !errors.Is(err, eventstore.ErrInvalid) || !strings.HasPrefix(err.Error(), "aggregate: "+want) {
			t.Errorf("%v, want ErrInvalid that says %q", err, want)
		}
	}
}

// TestConfigIsCopied: a later change of the config does not change the repository.
func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	config := &aggregate.Config{MaxAttempts: 1}
	store := eventstoretest.NewMemory()
	repo := made(aggregate.NewRepository(store, counters, config))
	config.MaxAttempts = 100
	decided := 0
	_, err := repo.Update(t.Context(), "a", func(*counter) ([]event, error) {
		decided++
		draft, _ := counters.Codec().Encode(limited{1}) // another append is always faster
		if _, err := store.Append(t.Context(), counters.Stream("a"), eventstore.Any, draft); err != nil {
			t.Fatal(err)
		}
		return []event{limited{1}}, nil
	})
	if decided != 1 || !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("decided %d times, %v; want once", decided, err)
	}
}
