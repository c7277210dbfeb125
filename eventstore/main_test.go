package eventstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// open returns a store on a fresh database.
func open(t testing.TB) (*eventstore.Store, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.Pool(t)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	return store, pool
}

func stream(key string) eventstore.StreamID {
	return eventstore.StreamID{Category: "thing", Key: key}
}

func draft(n int) eventstore.Draft {
	return eventstore.Draft{Type: "thing.happened", Data: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))}
}

func mustAppend(t testing.TB, s *eventstore.Store, key string, expected eventstore.Version) eventstore.Receipt {
	t.Helper()
	receipt, err := s.Append(t.Context(), stream(key), expected, draft(1))
	if err != nil {
		t.Fatalf("append to %s: %v", stream(key), err)
	}
	return receipt
}

func mustExec(t testing.TB, db interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
}, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func begin(t testing.TB, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.Background()) })
	return tx
}

func mustCommit(t testing.TB, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// keysAfter reads the log after a position. It returns the key of each event's stream, and the last position.
func keysAfter(t testing.TB, s *eventstore.Store, after eventstore.Position) (keys []string, last eventstore.Position) {
	t.Helper()
	last = after
	for event, err := range s.ReadAll(t.Context(), after, eventstore.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, event.Stream.Key)
		last = event.Position
	}
	return keys, last
}
