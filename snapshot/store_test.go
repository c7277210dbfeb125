package snapshot_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/snapshot"
	"github.com/tidemark-es/tidemark/snapshot/snapshottest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	snapshottest.Run(t, func(t *testing.T, retention snapshot.Retention) snapshot.Store {
		store, err := snapshot.NewMemory(retention)
		if err != nil {
			t.Fatal(err)
		}
		return store
	})
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	snapshottest.Run(t, newPostgres("", func(t *testing.T) *pgxpool.Pool { return pgtest.Pool(t) }))
}

// TestExecModes runs the suite in the query modes for poolers in front of Postgres. These modes keep no prepared
// statements. One of the runs is in another schema, beside a store in the default one.
func TestExecModes(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, mode pgx.QueryExecMode) *pgxpool.Pool {
		return pgtest.Connect(t, pgtest.URL(t), func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode })
	}
	t.Run("simple protocol", func(t *testing.T) {
		t.Parallel()
		snapshottest.Run(t, newPostgres("", func(t *testing.T) *pgxpool.Pool { return open(t, pgx.QueryExecModeSimpleProtocol) }))
	})
	t.Run("exec, in another schema", func(t *testing.T) {
		t.Parallel()
		snapshottest.Run(t, newPostgres("my_own", func(t *testing.T) *pgxpool.Pool {
			pool := open(t, pgx.QueryExecModeExec)
			if err := migrations.Up(t.Context(), pool, &migrations.Config{Schema: "my_own"}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if n := count(t, pool, `select count(*) from tidemark.snapshots`); n != 0 {
					t.Errorf("%d snapshots are in the default schema", n)
				}
			})
			return pool
		}))
	})
}

// newPostgres gives each test of the suite a database, which all of its stores share.
func newPostgres(schema string, open func(*testing.T) *pgxpool.Pool) snapshottest.NewStore {
	var pools sync.Map // of *testing.T
	return func(t *testing.T, retention snapshot.Retention) snapshot.Store {
		pool, ok := pools.Load(t)
		if !ok {
			pool = open(t)
			pools.Store(t, pool)
		}
		return mustPostgres(t, pool.(*pgxpool.Pool), snapshot.PostgresConfig{Schema: schema, Retention: retention})
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	for name, retention := range map[string]snapshot.Retention{
		"negative latest": {Latest: -1},
		"negative period": {Period: -time.Hour},
		"short period":    {Period: time.Second - 1},
	} {
		if store, err := snapshot.NewPostgres(pool, &snapshot.PostgresConfig{Retention: retention}); !errors.Is(err, snapshot.ErrInvalid) || store != nil {
			t.Errorf("postgres, %s: %v, %v, want ErrInvalid", name, store, err)
		}
		if store, err := snapshot.NewMemory(retention); !errors.Is(err, snapshot.ErrInvalid) || store != nil {
			t.Errorf("memory, %s: %v, %v, want ErrInvalid", name, store, err)
		}
	}
	for _, schema := range []string{`x"; drop table y`, "Upper", "pg_mine", strings.Repeat("x", 64)} {
		if store, err := snapshot.NewPostgres(pool, &snapshot.PostgresConfig{Schema: schema}); !errors.Is(err, snapshot.ErrInvalid) || store != nil {
			t.Errorf("schema %q: %v, %v, want ErrInvalid", schema, store, err)
		}
	}
	if store, err := snapshot.NewPostgres(nil, nil); !errors.Is(err, snapshot.ErrInvalid) || store != nil {
		t.Errorf("nil pool: %v, %v, want ErrInvalid", store, err)
	}
}

// TestNotMigrated: without the table every method fails, and the error names the stream or category.
func TestNotMigrated(t *testing.T) {
	t.Parallel()
	store := mustPostgres(t, pgtest.Connect(t, pgtest.EmptyURL(t), nil), snapshot.PostgresConfig{})
	one := made("a", 1)
	_, _, loadErr := store.Load(t.Context(), one.Stream, one.Kind, 1)
	_, outdatedErr := store.DeleteOutdated(t.Context(), "thing", one.Kind, 1)
	for what, err := range map[string]error{
		"load": loadErr, "save": store.Save(t.Context(), one), "delete": store.Delete(t.Context(), one.Stream, 1), "outdated": outdatedErr,
	} {
		if err == nil || !strings.Contains(err.Error(), "thing") || errors.Is(err, snapshot.ErrInvalid) {
			t.Errorf("%s: %v, want an error of Postgres that names the stream", what, err)
		}
	}
}

// TestAppRole: a service's rights suffice for everything a store does.
func TestAppRole(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	owner := pgtest.Connect(t, url, nil)
	// Roles belong to the whole server, so they are named after the database.
	database := owner.Config().ConnConfig.Database
	names := migrations.Roles{App: database + "_app", Operator: database + "_operator"}
	if err := migrations.CreateRoles(t.Context(), owner, nil, names); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{names.App, names.Operator} {
			role := pgx.Identifier{name}.Sanitize()
			if _, err := owner.Exec(context.Background(), "drop owned by "+role+"; drop role "+role); err != nil {
				t.Error(err)
			}
		}
	})
	app := pgtest.Connect(t, url, func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "set role "+pgx.Identifier{names.App}.Sanitize())
			return err
		}
	})
	store := mustPostgres(t, app, snapshot.PostgresConfig{Retention: snapshot.Retention{Period: time.Hour}})
	for version := range eventstore.Version(3) {
		mustSave(t, store, made("a", version+1), made("b", version+1))
	}
	if got, ok, err := store.Load(t.Context(), stream("a"), kind, 9); !ok || got.Version != 3 || err != nil {
		t.Errorf("load: version %d, %v, %v", got.Version, ok, err)
	}
	if err := store.Delete(t.Context(), stream("a"), 3); err != nil {
		t.Errorf("delete: %v", err)
	}
	if n, err := store.DeleteOutdated(t.Context(), "thing", snapshot.Kind{Type: kind.Type, Schema: kind.Schema + 1}, 10); n != 1 || err != nil {
		t.Errorf("delete outdated: %d, %v", n, err)
	}
	if n := count(t, owner, `select count(*) from tidemark.snapshots`); n != 0 {
		t.Errorf("%d are left, want none", n)
	}
}

// TestNoDeadlock: several processes save snapshots of the same streams at once, in opposite orders. They are of one
// release, or of two as during a rollout. At the same time another process deletes outdated snapshots.
func TestNoDeadlock(t *testing.T) {
	t.Parallel()
	const rounds, streams = 100, 40
	next := snapshot.Kind{Type: kind.Type, Schema: kind.Schema + 1}
	for name, kinds := range map[string][]snapshot.Kind{"same kind": {kind, kind}, "rollout": {kind, next, kind, next}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.URL(t)
			var wg sync.WaitGroup
			for p, of := range kinds {
				process := mustPostgres(t, pgtest.Connect(t, url, nil), snapshot.PostgresConfig{})
				wg.Go(func() {
					for round := range rounds {
						// Some versions are also saved by the other processes, or are already stored.
						var batch []snapshot.Snapshot
						for i := range streams {
							s := made(fmt.Sprintf("%c%d", "aB"[i%2], i), eventstore.Version(round/2+1+rand.IntN(3)))
							s.Kind = of
							batch = append(batch, s)
						}
						if p%2 == 1 {
							slices.Reverse(batch)
						}
						if err := process.Save(t.Context(), batch...); err != nil {
							t.Errorf("process %d, round %d: %v", p, round, err)
							return
						}
					}
				})
			}
			cleaner := mustPostgres(t, pgtest.Connect(t, url, nil), snapshot.PostgresConfig{})
			wg.Go(func() {
				for range rounds {
					if _, err := cleaner.DeleteOutdated(t.Context(), "thing", next, streams/2); err != nil {
						t.Errorf("delete outdated: %v", err)
						return
					}
				}
			})
			wg.Wait()
		})
	}
}

// TestCommitIsNotFlushed: no commit of a snapshot waits for the disk. Later commits on the same connection wait for it
// again.
func TestCommitIsNotFlushed(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Connect(t, pgtest.URL(t), func(c *pgxpool.Config) {
				c.MaxConns = 1
				c.ConnConfig.DefaultQueryExecMode = mode
				c.ConnConfig.RuntimeParams["synchronous_commit"] = "on" // the tests' server has it off
			})
			mustExec(t, pool, `create table seen (setting text, transaction xid8)`)
			mustExec(t, pool, `create function see() returns trigger language plpgsql as
				$$begin insert into public.seen values (current_setting('synchronous_commit'), pg_current_xact_id()); return null; end$$`)
			// A deferred trigger runs during the commit, so it sees the setting that holds for the commit.
			mustExec(t, pool, `create constraint trigger see after insert or delete on tidemark.snapshots
				deferrable initially deferred for each row execute function see()`)
			store := mustPostgres(t, pool, snapshot.PostgresConfig{})
			for version := range eventstore.Version(3) {
				mustSave(t, store, made("a", version+1), made("b", version+1))
				var after string
				if err := pool.QueryRow(t.Context(), `show synchronous_commit`).Scan(&after); err != nil || after != "on" {
					t.Errorf("after saving it is %q, %v, want on", after, err)
				}
			}
			// Three times two are inserted, and two times two pruned.
			if n := count(t, pool, `select count(*) from seen where setting = 'off'`); n != 10 {
				t.Errorf("%d changes were committed without a flush, want 10", n)
			}
			if n := count(t, pool, `select count(distinct transaction) from seen`); n != 3 {
				t.Errorf("3 saves were %d transactions", n)
			}
		})
	}
}

// TestAllOrNone: when Postgres refuses one snapshot of a batch, nothing of the batch is stored.
func TestAllOrNone(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	mustExec(t, pool, `alter table tidemark.snapshots add check (stream <> 'thing-b' or version < 2)`)
	store := mustPostgres(t, pool, snapshot.PostgresConfig{})
	mustSave(t, store, made("a", 1), made("b", 1), made("c", 1))
	if err := store.Save(t.Context(), made("a", 2), made("b", 2), made("c", 2)); err == nil || errors.Is(err, snapshot.ErrInvalid) {
		t.Errorf("%v, want an error of Postgres", err)
	}
	if n := count(t, pool, `select count(*) from tidemark.snapshots where version = 1`); n != 3 {
		t.Errorf("%d are as they were, want 3", n)
	}
	if n := count(t, pool, `select count(*) from tidemark.snapshots`); n != 3 {
		t.Errorf("%d are there, want 3", n)
	}
}

// TestLoadIsIndexed: loading reads one row of the primary key, however many there are.
func TestLoadIsIndexed(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	mustExec(t, pool, `insert into tidemark.snapshots (stream, version, event_id, recorded_at, type, shape, schema, data)
		select 'thing-' || s, v, gen_random_uuid(), now(), $1, $2, $3, 'x' from generate_series(1, 20) s, generate_series(1, 500) v`, kind.Type, kind.Shape, kind.Schema)
	mustExec(t, pool, `analyze tidemark.snapshots`)
	loads := recordQueries(t, pool, func(store *snapshot.Postgres) {
		if got, ok, err := store.Load(t.Context(), stream("7"), kind, 250); !ok || got.Version != 250 || err != nil {
			t.Errorf("version %d, %v, %v", got.Version, ok, err)
		}
	})
	if len(loads) != 1 {
		t.Fatalf("a load is %d queries, want 1", len(loads))
	}
	var raw []byte
	if err := pool.QueryRow(t.Context(), "explain (analyze, format json) "+loads[0].sql, loads[0].args...).Scan(&raw); err != nil {
		t.Fatal(err)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal(raw, &plans); err != nil {
		t.Fatal(err)
	}
	for i, scan := range plans[0].Plan.scans() {
		first := scan.Index == "snapshots_pkey" && scan.Rows == 1 && scan.Loops == 1 && scan.Removed == 0
		if i == 0 && !first || i > 0 && scan.Loops > 0 { // the other scans run only if there is none of the kind
			t.Errorf("more than one row of the primary key was read:\n%s", raw)
		}
	}
}

// plan is a node of a query plan.
type plan struct {
	Node    string  `json:"Node Type"`
	Index   string  `json:"Index Name"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Removed float64 `json:"Rows Removed by Filter"`
	Plans   []plan
}

func (p plan) scans() (found []plan) {
	if strings.Contains(p.Node, "Scan") {
		found = append(found, p)
	}
	for _, child := range p.Plans {
		found = append(found, child.scans()...)
	}
	return found
}

type query struct {
	sql  string
	args []any
}

// tracer records queries, one after the other.
type tracer struct{ queries []query }

func (r *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.queries = append(r.queries, query{data.SQL, data.Args})
	return ctx
}

func (*tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// recordQueries returns the queries that a store sends to the database of a pool.
func recordQueries(t *testing.T, pool *pgxpool.Pool, do func(*snapshot.Postgres)) []query {
	t.Helper()
	var recorded tracer
	config := pool.Config()
	config.ConnConfig.Tracer = &recorded
	traced, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer traced.Close()
	do(mustPostgres(t, traced, snapshot.PostgresConfig{}))
	return recorded.queries
}

var kind = snapshot.Kind{Type: "thing/state", Schema: 1}

func stream(key string) eventstore.StreamID {
	return eventstore.StreamID{Category: "thing", Key: key}
}

func made(key string, version eventstore.Version) snapshot.Snapshot {
	return snapshot.Snapshot{
		Stream: stream(key), Version: version, EventID: uuid.New(), Kind: kind, Data: []byte("the state"),
		RecordedAt: time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC),
	}
}

func mustSave(t testing.TB, store snapshot.Store, snapshots ...snapshot.Snapshot) {
	t.Helper()
	if err := store.Save(t.Context(), snapshots...); err != nil {
		t.Fatal(err)
	}
}

func mustPostgres(t testing.TB, pool *pgxpool.Pool, config snapshot.PostgresConfig) *snapshot.Postgres {
	t.Helper()
	store, err := snapshot.NewPostgres(pool, &config)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func mustExec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// count also works while the test is cleaned up.
func count(t testing.TB, pool *pgxpool.Pool, sql string) (n int) {
	t.Helper()
	if err := pool.QueryRow(context.WithoutCancel(t.Context()), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
