package migrations_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

func TestUp(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	mustUp(t, pool, nil)
	if err := migrations.Validate(t.Context(), pool, nil); err != nil {
		t.Errorf("after Up: %v", err)
	}
	pending, err := migrations.Pending(t.Context(), pool, nil)
	if len(pending) > 0 || err != nil {
		t.Errorf("after Up: pending %v, %v", pending, err)
	}
	store := open(t, pool, migrations.DefaultSchema)
	mustAppend(t, store, `1`)

	before := objects(t, pool)
	mustUp(t, pool, nil)
	if diff := cmp.Diff(before, objects(t, pool)); diff != "" {
		t.Errorf("a second Up changed something (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`1`}, payloads(t, store)); diff != "" {
		t.Errorf("after a second Up (-want +got):\n%s", diff)
	}
}

// TestTables: every table that the framework needs is there after Up.
func TestTables(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	mustUp(t, pool, nil)
	got := query[string](t, pool, `select tablename::text from pg_tables where schemaname = 'tidemark' order by 1`)
	want := []string{
		"append_keys", "dead_letters", "events", "projections", "schema_migrations", "snapshots",
	}
	for _, table := range want {
		if !slices.Contains(got, table) {
			t.Errorf("no table %s, only %v", table, got)
		}
	}
}

// TestRecords: schema_migrations names each file once, in order.
func TestRecords(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	steps, err := migrations.Pending(t.Context(), pool, nil)
	if err != nil || len(steps) == 0 {
		t.Fatalf("on an empty database: pending %v, %v", steps, err)
	}
	if before := objects(t, pool); len(before) > 0 {
		t.Errorf("Pending created %v", before)
	}
	mustUp(t, pool, nil)
	var names []string
	for i, step := range steps {
		if step.Version != i+1 {
			t.Errorf("migration %d is %s with version %d", i+1, step.Name, step.Version)
		}
		names = append(names, step.Name)
	}
	got := query[string](t, pool, `select name from tidemark.schema_migrations order by version`)
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestValidateUnmigrated(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	err := migrations.Validate(t.Context(), pool, nil)
	if !errors.Is(err, migrations.ErrPending) || !strings.Contains(err.Error(), "001_events.sql") {
		t.Errorf("%v, want ErrPending that names the first migration", err)
	}
	if got := objects(t, pool); len(got) > 0 {
		t.Errorf("Validate created %v", got)
	}
}

// TestConcurrentUp: if many processes start at once, one of them migrates.
func TestConcurrentUp(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	race(t, url, func(_ int, pool *pgxpool.Pool) error {
		return migrations.Up(t.Context(), pool, nil)
	})
	pool := connect(t, url)
	if err := migrations.Validate(t.Context(), pool, nil); err != nil {
		t.Error(err)
	}
	steps, err := migrations.Pending(t.Context(), empty(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := versions(t, pool, migrations.DefaultSchema); len(got) != len(steps) {
		t.Errorf("versions %v, want one of each of %d", got, len(steps))
	}
}

// TestConcurrentUpAndDown: in any order of the calls, each call finds a complete schema or none.
func TestConcurrentUpAndDown(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	race(t, url, func(i int, pool *pgxpool.Pool) error {
		if i%2 == 0 {
			return migrations.Up(t.Context(), pool, nil)
		}
		return migrations.Down(t.Context(), pool, nil)
	})
	pool := connect(t, url)
	mustUp(t, pool, nil)
	mustAppend(t, open(t, pool, migrations.DefaultSchema), `1`)
	mustDown(t, pool, nil)
	if got := objects(t, pool); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

// race calls do twenty times at once, each time with a pool of its own.
func race(t *testing.T, url string, do func(int, *pgxpool.Pool) error) {
	t.Helper()
	pools := make([]*pgxpool.Pool, 20)
	for i := range pools {
		pools[i] = connect(t, url)
		if err := pools[i].Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i, pool := range pools {
		wg.Go(func() {
			<-start
			if err := do(i, pool); err != nil {
				t.Errorf("process %d: %v", i, err)
			}
		})
	}
	close(start)
	wg.Wait()
}

// TestUpGivesItsConnectionBack: Up and Down need one connection of the pool, and return it. They release their lock
// although the pool stays open.
func TestUpGivesItsConnectionBack(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	var pools []*pgxpool.Pool
	for range 2 {
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		config.MaxConns = 1
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		pools = append(pools, pool)
	}
	for range 3 {
		for _, pool := range pools {
			mustUp(t, pool, nil)
			mustDown(t, pool, nil)
		}
	}
}

func TestDown(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	mustDown(t, pool, nil) // without migrations to take back, Down returns no error
	mustUp(t, pool, nil)
	up := objects(t, pool)
	mustAppend(t, open(t, pool, migrations.DefaultSchema), `1`)

	mustDown(t, pool, nil)
	if got := objects(t, pool); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
	if err := migrations.Validate(t.Context(), pool, nil); !errors.Is(err, migrations.ErrPending) {
		t.Errorf("after Down: %v, want ErrPending", err)
	}

	mustUp(t, pool, nil)
	if diff := cmp.Diff(up, objects(t, pool)); diff != "" {
		t.Errorf("Up after Down (-first +second):\n%s", diff)
	}
	store := open(t, pool, migrations.DefaultSchema)
	if got := payloads(t, store); len(got) > 0 {
		t.Errorf("events survived Down: %v", got)
	}
	mustAppend(t, store, `2`)
}

// TestDownLeavesOthersAlone: a schema with other objects in it is not dropped.
func TestDownLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	mustUp(t, pool, nil)
	mustExec(t, pool, `create table tidemark.theirs (x int)`)
	mustExec(t, pool, `insert into tidemark.theirs values (7)`)

	mustDown(t, pool, nil)
	want := []string{"relation tidemark.theirs", "schema tidemark", "type tidemark._theirs", "type tidemark.theirs"}
	if diff := cmp.Diff(want, objects(t, pool)); diff != "" {
		t.Errorf("left behind (-want +got):\n%s", diff)
	}
	if got := query[int](t, pool, `select x from tidemark.theirs`); !slices.Equal(got, []int{7}) {
		t.Errorf("their rows: %v", got)
	}
	mustUp(t, pool, nil)
}

// TestDownOfNothing: without an Up before it, Down changes nothing. It does not drop a schema that happens to be
// empty.
func TestDownOfNothing(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	mustExec(t, pool, `create schema theirs`)
	mustDown(t, pool, &migrations.Config{Schema: "theirs"})
	mustDown(t, pool, &migrations.Config{Schema: "public"})
	got := query[string](t, pool, `select nspname::text from pg_namespace where nspname in ('theirs', 'public') order by 1`)
	if diff := cmp.Diff([]string{"public", "theirs"}, got); diff != "" {
		t.Errorf("schemas (-before +after):\n%s", diff)
	}
}

// TestNewer: a database that a newer release has migrated is not touched.
func TestNewer(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	mustUp(t, pool, nil)
	mustExec(t, pool, `insert into tidemark.schema_migrations (version, name) values (9999, '9999_future.sql')`)
	mustAppend(t, open(t, pool, migrations.DefaultSchema), `1`)
	before, beforeVersions := objects(t, pool), versions(t, pool, migrations.DefaultSchema)

	_, pendingErr := migrations.Pending(t.Context(), pool, nil)
	for what, err := range map[string]error{
		"Up":       migrations.Up(t.Context(), pool, nil),
		"Down":     migrations.Down(t.Context(), pool, nil),
		"Validate": migrations.Validate(t.Context(), pool, nil),
		"Pending":  pendingErr,
	} {
		if !errors.Is(err, migrations.ErrNewer) {
			t.Errorf("%s: %v, want ErrNewer", what, err)
		}
	}
	if diff := cmp.Diff(before, objects(t, pool)); diff != "" {
		t.Errorf("something changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(beforeVersions, versions(t, pool, migrations.DefaultSchema)); diff != "" {
		t.Errorf("versions changed (-before +after):\n%s", diff)
	}
	if got := payloads(t, open(t, pool, migrations.DefaultSchema)); len(got) != 1 {
		t.Errorf("events: %v", got)
	}
}

// TestHalfWay: a migration that fails in the middle leaves nothing behind.
func TestHalfWay(t *testing.T) {
	t.Parallel()
	// The obstacle is early or late in the first migration, or in the last one.
	for obstacle, at := range map[string]struct {
		file string
		done int // how many migrations are applied before the file
	}{
		"store": {"001_events.sql", 0}, "append_keys": {"001_events.sql", 0}, "projection_audit": {"003_projections.sql", 2},
	} {
		t.Run(obstacle, func(t *testing.T) {
			t.Parallel()
			pool := empty(t)
			mustExec(t, pool, `create schema tidemark`)
			mustExec(t, pool, `create table tidemark.`+obstacle+` (x int)`)
			before := objects(t, pool)

			err := migrations.Up(t.Context(), pool, nil)
			if err == nil || !strings.Contains(err.Error(), at.file) {
				t.Errorf("%v, want an error that names migration %s", err, at.file)
			}
			if at.done > 0 {
				if got := versions(t, pool, migrations.DefaultSchema); len(got) != at.done {
					t.Errorf("migrations %v are applied, want %d", got, at.done)
				}
				before = objects(t, pool)
				if err := migrations.Up(t.Context(), pool, nil); err == nil {
					t.Error("the obstacle is gone")
				}
			}
			if diff := cmp.Diff(before, objects(t, pool)); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
			if left := query[int](t, pool, `select count(*)::int from pg_tables where schemaname = 'tidemark' and tablename in ('projections', 'inbox')`); left[0] != 0 {
				t.Errorf("%d tables of the file that failed are left", left[0])
			}
			if err := migrations.Validate(t.Context(), pool, nil); !errors.Is(err, migrations.ErrPending) {
				t.Errorf("after the failure: %v, want ErrPending", err)
			}

			mustExec(t, pool, `drop table tidemark.`+obstacle)
			mustUp(t, pool, nil)
			mustAppend(t, open(t, pool, migrations.DefaultSchema), `1`)
		})
	}
}
