package migrations_test

import (
	"context"
	"encoding/json"
	"iter"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// empty returns a pool on an empty database.
func empty(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return connect(t, pgtest.EmptyURL(t))
}

func connect(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func mustUp(t testing.TB, pool *pgxpool.Pool, config *migrations.Config) {
	t.Helper()
	if err := migrations.Up(t.Context(), pool, config); err != nil {
		t.Fatal(err)
	}
}

func mustDown(t testing.TB, pool *pgxpool.Pool, config *migrations.Config) {
	t.Helper()
	if err := migrations.Down(t.Context(), pool, config); err != nil {
		t.Fatal(err)
	}
}

func mustExec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func query[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) []T {
	t.Helper()
	rows, _ := pool.Query(t.Context(), sql, args...)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return values
}

// objectsSQL lists the schemas, relations, functions, triggers and types of a database, except
// those of Postgres itself.
const objectsSQL = `
with ours as (
    select oid, nspname
      from pg_namespace
     where nspname !~ '^pg_'
       and nspname <> 'information_schema')
select 'schema ' || nspname
  from ours
 where nspname <> 'public'
union all
select 'relation ' || n.nspname || '.' || c.relname
  from pg_class c
  join ours n on n.oid = c.relnamespace
union all
select 'function ' || p.oid::regprocedure
  from pg_proc p
  join ours n on n.oid = p.pronamespace
union all
select 'trigger ' || t.tgname || ' on ' || t.tgrelid::regclass
  from pg_trigger t
 where not t.tgisinternal
union all
select 'type ' || n.nspname || '.' || t.typname
  from pg_type t
  join ours n on n.oid = t.typnamespace
 order by 1`

func objects(t testing.TB, pool *pgxpool.Pool) []string {
	t.Helper()
	return query[string](t, pool, objectsSQL)
}

// versions returns the rows of schema_migrations.
func versions(t testing.TB, pool *pgxpool.Pool, schema string) []int {
	t.Helper()
	return query[int](t, pool, `select version from `+pgx.Identifier{schema, "schema_migrations"}.Sanitize()+` order by version`)
}

// open returns a store over a schema that has been migrated.
func open(t testing.TB, pool *pgxpool.Pool, schema string) *eventstore.Store {
	t.Helper()
	store, err := eventstore.New(pool, &eventstore.Config{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func mustAppend(t testing.TB, store *eventstore.Store, data string) {
	t.Helper()
	stream := eventstore.StreamID{Category: "thing", Key: "1"}
	draft := eventstore.Draft{Type: "thing.happened", Data: json.RawMessage(data)}
	if _, err := store.Append(t.Context(), stream, eventstore.Any, draft); err != nil {
		t.Fatal(err)
	}
}

// payloads reads the whole log.
func payloads(t testing.TB, store *eventstore.Store) []string {
	t.Helper()
	return collect(t, store.ReadAll(t.Context(), 0, eventstore.Filter{}))
}

func collect(t testing.TB, events iter.Seq2[eventstore.Raw, error]) (data []string) {
	t.Helper()
	for event, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, string(event.Data))
	}
	return data
}
