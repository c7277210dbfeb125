package eventstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

func spentBy(err error, second eventstore.StreamID) bool {
	var spent *eventstore.KeySpentError
	return errors.As(err, &spent) && len(spent.Second) == 1 && spent.Second[0] == second
}

// TestKeyInTx: a transaction that is rolled back, completely or to a savepoint, makes the key free again. A transaction
// that is committed does not.
func TestKeyInTx(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	ctx := eventstore.WithKey(t.Context(), "k", nil)
	a, b := stream("a"), stream("b")
	errUndo := errors.New("undo")
	run := func(db interface {
		Begin(context.Context) (pgx.Tx, error)
	}, undo bool, ids ...eventstore.StreamID) (err error) {
		tx, beginErr := db.Begin(t.Context())
		if beginErr != nil {
			t.Fatal(beginErr)
		}
		defer func() { _ = tx.Rollback(context.Background()) }()
		for _, id := range ids {
			if _, err := store.WithTx(tx).Append(ctx, id, eventstore.Any, draft(1)); err != nil {
				return err
			}
		}
		if undo {
			return errUndo
		}
		return tx.Commit(t.Context())
	}
	for _, id := range []eventstore.StreamID{a, b, a} {
		if err := run(pool, true, id); err != errUndo {
			t.Errorf("%s: %v, want it stored until it is undone", id, err)
		}
	}
	if err := run(pool, true, a, b); !spentBy(err, b) {
		t.Errorf("two commits of a transaction: %v, want a KeySpentError", err)
	}
	if err := run(pool, true, a, a); !spentBy(err, a) {
		t.Errorf("two commits of a transaction to one stream: %v, want a KeySpentError", err)
	}
	outer, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outer.Rollback(context.Background()) }()
	if err := errors.Join(run(outer, true, a), run(outer, false, b), run(outer, true, a)); !errors.Is(err, errUndo) || !spentBy(err, a) {
		t.Errorf("savepoints: %v, want the first one undone, the second stored and a KeySpentError", err)
	}
	if err := outer.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := run(pool, false, a); err != nil {
		t.Error(err)
	}
	for _, id := range []eventstore.StreamID{a, b} {
		if err := run(pool, false, id); !spentBy(err, id) {
			t.Errorf("%s after the commit: %v, want a KeySpentError", id, err)
		}
		if _, err := store.Append(ctx, id, eventstore.Any, draft(1)); !spentBy(err, id) {
			t.Errorf("%s after the commit, by itself: %v, want a KeySpentError", id, err)
		}
	}
	if log, _ := keysAfter(t, store, 0); len(log) != 1 {
		t.Errorf("%v, want one event", log)
	}
}

// TestKeyUse: the outcome of a commit to stream a decides which later commits may use its key.
func TestKeyUse(t *testing.T) {
	t.Parallel()
	commit := func(keys ...string) (changes []eventstore.Change) {
		for _, key := range keys {
			changes = append(changes, eventstore.Change{Stream: stream(key), Events: []eventstore.Draft{draft(1)}})
		}
		return changes
	}
	for name, test := range map[string]struct {
		err            error
		free, repeated bool // whether commits to another stream, or to the same stream, may use the key
	}{
		"stored":   {nil, false, false},
		"refused":  {eventstore.ErrConflict, true, true},
		"canceled": {context.Canceled, true, true},
		"unknown":  {errors.Join(eventstore.ErrUnknownOutcome, context.Canceled), false, true},
	} {
		for _, second := range []string{"a", "b"} {
			key, _ := eventstore.KeyFrom(eventstore.WithKey(t.Context(), "k", nil))
			use, err := key.Use(commit("a")...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := key.Use(commit(second)...); !spentBy(err, stream(second)) {
				t.Errorf("%s: while it is under way: %v, want a KeySpentError", name, err)
			}
			if err := use.End(nil, test.err); err != test.err {
				t.Errorf("%s: %v", name, err)
			}
			allowed := second == "a" && test.repeated || second == "b" && test.free
			if got := key.Repeats(stream(second)); got != allowed {
				t.Errorf("%s: %s repeats: %v, want %v", name, second, got, allowed)
			}
			if use, err = key.Use(commit(second)...); (err == nil) != allowed || err != nil && !spentBy(err, stream(second)) {
				t.Errorf("%s, then %s: %v, want it allowed: %v", name, second, err, allowed)
			}
			if err != nil {
				continue
			}
			if err := use.End(nil, eventstore.ErrConflict); err != eventstore.ErrConflict || key.Doubtful() != (name == "unknown") {
				t.Errorf("%s, then refused: %v, doubtful %v", name, err, key.Doubtful())
			}
		}
	}
}
