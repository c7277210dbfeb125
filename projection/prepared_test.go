//go:build unix

package projection_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

// TestHeldByPrepared: a prepared transaction that was never finished holds the tidemark back. The status names it,
// before and after a restart of the server.
func TestHeldByPrepared(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	node := pgtest.NewNode(t, map[string]string{"max_prepared_transactions": "3"})
	pool, err := pgxpool.New(context.Background(), node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := migrations.Up(ctx, pool, nil); err != nil {
		t.Fatal(err)
	}
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	add := func(store *eventstore.Store, key string) {
		t.Helper()
		_, err := store.Append(ctx, eventstore.StreamID{Category: "held", Key: key}, eventstore.Any,
			eventstore.Draft{Type: "held.happened", Data: []byte("{}")})
		if err != nil {
			t.Fatal(err)
		}
	}
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	add(store.WithTx(tx), "prepared")
	if _, err := tx.Exec(ctx, `prepare transaction 'the ''forgotten'' one'`); err != nil {
		t.Fatal(err)
	}
	_ = tx.Rollback(ctx) // does not end the prepared transaction
	add(store, "after")

	runner, err := projection.NewRunner(pool, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		status, err := runner.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		h := status.Held
		if h == nil || h.PID != 0 || h.GID != "the 'forgotten' one" || h.Owner != "postgres" || h.Age <= 0 {
			t.Errorf("%s: held by %+v, want the prepared transaction, its owner and its age", when, h)
		}
	}
	check("before a restart")
	pool.Reset()
	if err := node.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	add(store, "restarted")
	check("after a restart")
	if _, err := pool.Exec(ctx, `rollback prepared 'the ''forgotten'' one'`); err != nil {
		t.Fatal(err)
	}
	if status, err := runner.Status(ctx); err != nil || status.Held != nil || status.Tidemark < status.LogEnd {
		t.Errorf("after the rollback of the prepared transaction: %+v, %v; want the tidemark not held back", status, err)
	}
}
