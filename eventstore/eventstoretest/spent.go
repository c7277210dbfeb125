package eventstoretest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// isSpent reports whether err says that a key serves the first commit and not the second one.
func isSpent(err error, key string, first, second []eventstore.StreamID) bool {
	var spent *eventstore.KeySpentError
	return errors.As(err, &spent) && errors.Is(err, eventstore.ErrKeySpent) && !errors.Is(err, eventstore.ErrKeyReused) &&
		spent.Key == key && slices.Equal(spent.First, first) && slices.Equal(spent.Second, second)
}

// change is an append of new events to each of some streams.
func change(keys ...string) (changes []eventstore.Change) {
	for _, key := range keys {
		changes = append(changes, eventstore.Change{Stream: stream(key), Expected: eventstore.Any, Events: drafts(1)})
	}
	return changes
}

func streamsOf(keys ...string) (ids []eventstore.StreamID) {
	for _, key := range keys {
		ids = append(ids, stream(key))
	}
	return ids
}

// testKeySpent: a key serves one commit of an attempt. A second commit is refused, and changes nothing else.
func testKeySpent(t *testing.T, s Store) {
	attempt := func() context.Context { return eventstore.WithKey(t.Context(), "k", nil) }
	ctx := attempt()
	if _, err := s.Append(ctx, stream("a"), 7, draft(1)); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("%v, want a conflict", err)
	}
	if _, err := s.Append(ctx, stream("a"), eventstore.Any); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("%v, want ErrInvalid", err)
	}
	given := []eventstore.Change{{Stream: stream("a"), Expected: eventstore.NoStream, Events: []eventstore.Draft{{ID: uuid.New(), Type: "t", Data: []byte(`1`)}}}}
	first, err := s.Commit(ctx, given...) // another commit than the refused ones
	if err != nil {
		t.Fatal(err)
	}
	for _, second := range [][]string{{"b"}, {"a"}, {"a", "b"}, {"b", "c"}} {
		if _, err := s.Commit(ctx, change(second...)...); !isSpent(err, "k", streamsOf("a"), streamsOf(second...)) {
			t.Errorf("a second commit, to %v: %v, want a KeySpentError", second, err)
		}
	}
	if again, err := s.Commit(ctx, given...); err != nil || !slices.Equal(again, first) {
		t.Errorf("events with the same ids: %v, %v, want %v", again, err, first)
	}
	given[0].Events[0].ID = uuid.New() // the caller has put another event into its slice
	if _, err := s.Commit(ctx, given...); !isSpent(err, "k", streamsOf("a"), streamsOf("a")) {
		t.Errorf("other events in the same slice: %v, want a KeySpentError", err)
	}
	if receipts, ok, err := s.Receipts(ctx); err != nil || !ok || !slices.Equal(receipts, first) {
		t.Errorf("stored: %v, %v, %v", receipts, ok, err)
	}
	for name, other := range map[string]context.Context{
		"without a key": eventstore.WithoutKey(ctx), "another key": eventstore.WithKey(ctx, "l", nil),
	} {
		if _, ok, err := s.Receipts(other); ok || err != nil {
			t.Errorf("%s: stored before, %v", name, err)
		}
		if _, err := s.Commit(other, change("b")...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx = attempt() // a repeat of the request
	if again, err := s.Commit(ctx, change("a")...); err != nil || !slices.Equal(again, first) {
		t.Errorf("repeated: %v, %v, want %v", again, err, first)
	}
	if _, err := s.Commit(ctx, change("b")...); !isSpent(err, "k", streamsOf("a"), streamsOf("b")) {
		t.Errorf("a second commit of a repeat: %v, want a KeySpentError", err)
	}
	if n := len(collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{}))); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

// testKeyBranches: an attempt that takes another branch than the stored commit gets the receipts of the stored
// commit.
func testKeyBranches(t *testing.T, s Store) {
	attempt := func() context.Context { return eventstore.WithKey(t.Context(), "k", nil) }
	first, err := s.Commit(attempt(), change("b")...)
	if err != nil {
		t.Fatal(err)
	}
	for name, commits := range map[string][]string{
		"another branch": {"a"}, "then the one that was stored": {"a", "b"}, "the one that was stored": {"b"},
	} {
		ctx := attempt()
		for _, key := range commits {
			if got, err := s.Commit(ctx, change(key)...); err != nil || !slices.Equal(got, first) {
				t.Errorf("%s: %v, %v, want %v", name, got, err, first)
			}
		}
	}
	ctx := attempt()
	if _, err := s.Commit(ctx, change("a")...); err != nil {
		t.Error(err)
	}
	if _, err := s.Commit(ctx, change("c")...); !isSpent(err, "k", streamsOf("a"), streamsOf("c")) {
		t.Errorf("two other branches: %v, want a KeySpentError", err)
	}
}

// testKeyGoroutines: of the commits that goroutines make in one attempt, one is stored.
func testKeyGoroutines(t *testing.T, s Store) {
	ctx := eventstore.WithKey(t.Context(), "k", nil)
	keys := []string{"a", "b", "c", "d", "d"}
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() { _, errs[i] = s.Commit(ctx, change(key)...) })
	}
	wg.Wait()
	stored := collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{}))
	if len(stored) != 1 {
		t.Fatalf("%d events, want 1", len(stored))
	}
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
		} else if !isSpent(err, "k", []eventstore.StreamID{stored[0].Stream}, streamsOf(keys[i])) {
			t.Errorf("commit to %s: %v, want a KeySpentError", keys[i], err)
		}
	}
	if won != 1 {
		t.Errorf("%d commits succeeded, want 1", won)
	}
}
