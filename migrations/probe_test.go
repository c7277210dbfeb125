package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

// TestUnsuitableServer: if the server's advisory locks or sequences are stubs, as on some servers that use the protocol
// of Postgres, Up returns the reason and leaves nothing behind. The stubs are in a schema that the search_path has
// before pg_catalog. The test shows that the probe asks the server. It does not show what a real server answers.
func TestUnsuitableServer(t *testing.T) {
	t.Parallel()
	for name, stub := range map[string]string{
		"locks do not show":   `create view stubs.pg_locks as select * from pg_catalog.pg_locks where false`,
		"locks have no keys":  `create view stubs.pg_locks as select locktype, database, null::oid as classid, objid, objsubid, granted from pg_catalog.pg_locks`,
		"no shared locks":     `create function stubs.pg_advisory_xact_lock_shared(int, int) returns void language sql as ''`,
		"all locks are given": `create function stubs.pg_try_advisory_xact_lock(int, int) returns bool language sql as 'select true'`,
		"sequences are late":  `create function stubs.pg_sequence_last_value(regclass) returns bigint language sql as 'select null::bigint'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.EmptyURL(t)
			setup := connect(t, url)
			mustExec(t, setup, `create schema stubs`)
			mustExec(t, setup, stub)
			mustExec(t, setup, `do $$ begin
				execute format('alter database %I set search_path = stubs, pg_catalog, public', current_database()); end $$`)
			pool := connect(t, url)
			if err := migrations.Up(t.Context(), pool, nil); !errors.Is(err, migrations.ErrUnsuitable) {
				t.Fatalf("%v, want ErrUnsuitable", err)
			} else {
				t.Log(err)
			}
			left := query[string](t, setup, `
				select nspname::text
				  from pg_catalog.pg_namespace
				 where nspname like 'tidemark%'`)
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestUnsuitableLater: Up also refuses a store that was restored onto such a server, although nothing is pending.
func TestUnsuitableLater(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	setup := connect(t, url)
	mustUp(t, setup, nil)
	mustExec(t, setup, `create schema stubs`)
	mustExec(t, setup, `create view stubs.pg_locks as select * from pg_catalog.pg_locks where false`)
	mustExec(t, setup, `do $$ begin
		execute format('alter database %I set search_path = stubs, pg_catalog, public', current_database()); end $$`)
	if err := migrations.Up(t.Context(), connect(t, url), nil); !errors.Is(err, migrations.ErrUnsuitable) {
		t.Errorf("%v, want ErrUnsuitable", err)
	}
}

// TestProbeProblem: each fault of a server has its own error text, and a server without a fault has none.
func TestProbeProblem(t *testing.T) {
	t.Parallel()
	if locks, sequences := migrations.LockProblem(true, false, true, false, true), migrations.SequenceProblem(1, 1); locks+sequences != "" {
		t.Errorf("nothing is wrong: %q, %q", locks, sequences)
	}
	said := make(map[string]string)
	for name, problem := range map[string]string{
		"not seen":      migrations.LockProblem(false, false, true, false, true),
		"excluded":      migrations.LockProblem(true, true, true, false, true),
		"not shared":    migrations.LockProblem(true, false, false, false, true),
		"still seen":    migrations.LockProblem(true, false, true, true, true),
		"not freed":     migrations.LockProblem(true, false, true, false, false),
		"late sequence": migrations.SequenceProblem(0, 1),
		"cached values": migrations.SequenceProblem(32, 32),
		"rolled back":   migrations.SequenceProblem(1, 0),
	} {
		if problem == "" || said[problem] != "" {
			t.Errorf("%s: %q, which is said of %q too", name, problem, said[problem])
		}
		said[problem] = name
	}
}

// TestUpWithBusyPool: Up migrates a store although all connections of the pool are in use.
func TestUpWithBusyPool(t *testing.T) {
	t.Parallel()
	pool := pgtest.Connect(t, pgtest.EmptyURL(t), func(c *pgxpool.Config) { c.MaxConns = 1 })
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := migrations.Up(ctx, pool, nil); err != nil {
		t.Error(err)
	}
}

// TestUpWithFewRights: the owner of the schema can migrate without the right to make schemas. Once the store is made, a
// single connection is enough.
func TestUpWithFewRights(t *testing.T) {
	t.Parallel()
	url := pgtest.EmptyURL(t)
	setup := connect(t, url)
	role := pgx.Identifier{setup.Config().ConnConfig.Database + "_owner"}.Sanitize()
	mustExec(t, setup, `create role `+role+` login password 'secret' connection limit 2`) // containers ask for a password
	t.Cleanup(func() {
		_, _ = setup.Exec(context.Background(), fmt.Sprintf("drop owned by %s; drop role %[1]s", role))
	})
	mustExec(t, setup, `create schema tidemark authorization `+role)
	pool := pgtest.Connect(t, url, func(c *pgxpool.Config) {
		c.ConnConfig.User, c.ConnConfig.Password, c.MaxConns = strings.Trim(role, `"`), "secret", 1
	})
	mustUp(t, pool, nil)
	mustExec(t, setup, `alter role `+role+` connection limit 1`)
	pool.Reset()
	for retry := time.NewTicker(10 * time.Millisecond); ; <-retry.C { // a backend ends some time after its connection
		if n := query[int](t, setup, `select count(*) from pg_stat_activity where usename = `+"'"+strings.Trim(role, `"`)+"'"); n[0] == 0 {
			break
		}
	}
	mustUp(t, pool, nil)
	left := query[string](t, setup, `select relname::text from pg_class where relname like '%probe%'`)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
