package aggregate_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/snapshot"
)

// isSpent reports whether err says that the key serves the commit to first, and not the one to second.
func isSpent(repo *aggregate.Repository[counter, event], err error, first, second string) bool {
	var spent *eventstore.KeySpentError
	return errors.As(err, &spent) && len(spent.First) == 1 && spent.First[0].Key == first &&
		len(spent.Second) == 1 && spent.Second[0].Key == second
}

// TestKeySpent: in each attempt, the second of two updates under one key returns an error. No update is lost silently.
func TestKeySpent(t *testing.T) {
	each(t, func(t *testing.T, store aggregate.Store, repo *aggregate.Repository[counter, event]) {
		for attempt := range 3 {
			ctx := eventstore.WithKey(t.Context(), "k", nil)
			receipt, err := repo.Update(ctx, "a", limit(10))
			if err != nil || receipt.Version != 1 {
				t.Fatalf("attempt %d: %+v, %v", attempt, receipt, err)
			}
			for _, second := range []string{"b", "a"} {
				if _, err := repo.Update(ctx, second, limit(10)); !isSpent(repo, err, "a", second) {
					t.Errorf("attempt %d: update of %s: %v, want a KeySpentError", attempt, second, err)
				}
				_, err := aggregate.Commit(ctx, store, nil, func(ctx context.Context) ([]eventstore.Change, error) {
					loaded, err := repo.Load(ctx, second)
					if err != nil {
						return nil, err
					}
					change, err := loaded.Change(limit(20)(loaded.State))
					return []eventstore.Change{change}, err
				})
				if !isSpent(repo, err, "a", second) {
					t.Errorf("attempt %d: commit to %s: %v, want a KeySpentError", attempt, second, err)
				}
			}
			if _, err := repo.Update(ctx, "b", add(100)); err == nil || errors.Is(err, eventstore.ErrKeySpent) {
				t.Errorf("attempt %d: a refusal: %v, want the decision's own error", attempt, err)
			}
			if _, err := repo.Update(eventstore.WithoutKey(ctx), "c", limit(10)); err != nil {
				t.Error(err)
			}
		}
		for key, want := range map[string]eventstore.Version{"a": 1, "b": 0, "c": 3} {
			if loaded, err := repo.Load(t.Context(), key); err != nil || loaded.Version != want {
				t.Errorf("%s is at version %d, %v, want %d", key, loaded.Version, err, want)
			}
		}
	})
}

// TestKeyAndNothingToDo: an update without events leaves the key to the next update, also when the request is repeated.
func TestKeyAndNothingToDo(t *testing.T) {
	each(t, func(t *testing.T, _ aggregate.Store, repo *aggregate.Repository[counter, event]) {
		nothing := func(*counter) ([]event, error) { return nil, nil }
		var first eventstore.Receipt
		for attempt := range 3 {
			ctx := eventstore.WithKey(t.Context(), "k", nil)
			if _, err := repo.Update(ctx, "a", nothing); err != nil {
				t.Errorf("attempt %d: %v", attempt, err)
			}
			receipt, err := repo.Update(ctx, "b", limit(10))
			if attempt == 0 {
				first = receipt
			}
			if err != nil || receipt != first || receipt.Version != 1 {
				t.Errorf("attempt %d: %+v, %v, want %+v", attempt, receipt, err, first)
			}
		}
	})
}

// TestBadKey: a key that no stream can have is refused before the snapshots are asked, without a log line.
func TestBadKey(t *testing.T) {
	t.Parallel()
	var output bytes.Buffer
	saved, err := snapshot.NewPostgres(pgtest.Pool(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	snapshots := made(snapshot.NewSnapshotter(saved, &snapshot.Config{Logger: slog.New(slog.NewTextHandler(&output, nil))}))
	repo := made(aggregate.NewRepository(eventstoretest.NewMemory(), counters, &aggregate.Config{Snapshots: snapshots, CacheSize: 10}))
	for _, key := range []string{"", "a\x00b", "a\xffb", "a\nb", strings.Repeat("x", 250)} {
		_, loadErr := repo.Load(t.Context(), key)
		_, updateErr := repo.Update(t.Context(), key, limit(10))
		_, versionErr := repo.LoadVersion(t.Context(), key, 3)
		_, atErr := repo.LoadAsOf(t.Context(), key, time.Now())
		_, positionErr := repo.LoadThrough(t.Context(), key, 3)
		for i, err := range []error{loadErr, updateErr, versionErr, atErr, positionErr} {
			if !errors.Is(err, eventstore.ErrInvalid) {
				t.Errorf("%.10q, %d: %v, want ErrInvalid", key, i, err)
			}
		}
		for _, err := range repo.History(t.Context(), key, 1, 0) {
			if !errors.Is(err, eventstore.ErrInvalid) {
				t.Errorf("%.10q: history: %v, want ErrInvalid", key, err)
			}
		}
	}
	if output.Len() > 0 {
		t.Errorf("the log says %s", &output)
	}
}
