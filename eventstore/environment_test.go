package eventstore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/snapshot"
)

// with returns a change of a pool's config: each new connection executes the statement.
func with(statement string) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, statement)
			return err
		}
	}
}

// role makes a role without rights, and returns its quoted name.
func role(t *testing.T, owner *pgxpool.Pool) string {
	t.Helper()
	name := pgx.Identifier{"stranger_" + uuid.NewString()}.Sanitize()
	if _, err := owner.Exec(t.Context(), "create role "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = owner.Exec(context.Background(), "drop role "+name) })
	return name
}

// TestEnvironment: an error whose cause is the database, the server or the role says what to do.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	migrated := func(change func(*pgxpool.Config)) func(*testing.T) *pgxpool.Pool {
		return func(t *testing.T) *pgxpool.Pool { return pgtest.Connect(t, pgtest.URL(t), change) }
	}
	for name, test := range map[string]struct {
		pool     func(*testing.T) *pgxpool.Pool
		schema   string
		sentinel error // of writes; nil for none
		reads    error // of reads
		want     string
	}{
		"not migrated": {
			func(t *testing.T) *pgxpool.Pool { return pgtest.Connect(t, pgtest.EmptyURL(t), nil) }, "",
			eventstore.ErrNotMigrated, eventstore.ErrNotMigrated, "call migrations.Up for its schema first, or correct ",
		},
		"another schema": {migrated(nil), "others", eventstore.ErrNotMigrated, eventstore.ErrNotMigrated, "or correct "},
		"no rights": {
			func(t *testing.T) *pgxpool.Pool {
				url := pgtest.URL(t)
				return pgtest.Connect(t, url, with("set role "+role(t, pgtest.Connect(t, url, nil))))
			}, "", eventstore.ErrDenied, eventstore.ErrDenied, "call migrations.CreateRoles",
		},
		"read-only": {migrated(with("set default_transaction_read_only = on")), "", eventstore.ErrReadOnly, nil, "target_session_attrs=read-write"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := test.pool(t)
			store, err := eventstore.New(pool, &eventstore.Config{Schema: test.schema})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(store.Close)
			snapshots, err := snapshot.NewPostgres(pool, &snapshot.PostgresConfig{Schema: test.schema})
			if err != nil {
				t.Fatal(err)
			}
			kind := snapshot.Kind{Type: "a", Shape: "b", Schema: 1}
			check := func(what string, err, sentinel error) {
				t.Helper()
				if sentinel == nil {
					return
				}
				if !errors.Is(err, sentinel) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: %v\nwant %v that says %q", what, err, sentinel, test.want)
				}
			}
			_, err = store.Append(t.Context(), stream("a"), eventstore.Any, draft(1))
			check("append", err, test.sentinel)
			_, err = store.Append(eventstore.WithKey(t.Context(), "key", nil), stream("a"), 0, draft(1), draft(2))
			check("append with a key", err, test.sentinel)
			check("read", firstErr(store.Read(t.Context(), stream("a"), eventstore.ReadOptions{})), test.reads)
			check("read all", firstErr(store.ReadAll(t.Context(), 0, eventstore.Filter{})), test.reads)
			_, err = store.Stat(t.Context(), stream("a"))
			check("stat", err, test.reads)
			_, _, err = snapshots.Load(t.Context(), stream("a"), kind, 1)
			check("load a snapshot", err, test.reads)
			check("delete a snapshot", snapshots.Delete(t.Context(), stream("a"), 1), test.sentinel)
			_, err = snapshots.DeleteOutdated(t.Context(), "a", kind, 1)
			check("delete snapshots", err, test.sentinel)
		})
	}
}

// TestTooManyConnections: the role may have no connection, and the errors say what to do.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
	owner := pgtest.Connect(t, url, nil)
	name := role(t, owner)
	if _, err := owner.Exec(t.Context(), "alter role "+name+" login connection limit 0 password 'secret'"); err != nil {
		t.Fatal(err)
	}
	pool := pgtest.Connect(t, url, func(c *pgxpool.Config) {
		c.ConnConfig.User, c.ConnConfig.Password = strings.Trim(name, `"`), "secret"
	})
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	_, appendErr := store.Append(t.Context(), stream("a"), eventstore.Any, draft(1))
	for what, err := range map[string]error{
		"append": appendErr, "read": firstErr(store.Read(t.Context(), stream("a"), eventstore.ReadOptions{})),
	} {
		if err == nil || !strings.Contains(err.Error(), "lower pool_max_conns") {
			t.Errorf("%s: %v, want an error that says what to do", what, err)
		}
	}
}

// TestStatementsMixed: behind a pooler, a session may lack the statement that the client has prepared. The error says
// what to do.
func TestStatementsMixed(t *testing.T) {
	t.Parallel()
	pool := pgtest.Connect(t, pgtest.URL(t), func(c *pgxpool.Config) { c.MaxConns = 1 })
	store, err := eventstore.New(pool, &eventstore.Config{PollOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if _, err := store.Stat(t.Context(), stream("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "deallocate all", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Stat(t.Context(), stream("a")); err == nil || !strings.Contains(err.Error(), "default_query_exec_mode=exec") {
		t.Errorf("%v, want an error that says what to do", err)
	}
}

// TestEncoding: a database with another encoding is refused before it holds events.
func TestEncoding(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		url := pgtest.EmptyURL(t)
		owner := pgtest.Connect(t, url, nil)
		name := "encoded_" + strings.ReplaceAll(uuid.NewString(), "-", "")
		if _, err := owner.Exec(t.Context(), "create database "+name+" encoding '"+encoding+"' lc_collate 'C' lc_ctype 'C' template template0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = owner.Exec(context.Background(), "drop database "+name+" with (force)") })
		pool := pgtest.Connect(t, url, func(c *pgxpool.Config) { c.ConnConfig.Database = name })
		err := migrations.Up(t.Context(), pool, nil)
		if !errors.Is(err, migrations.ErrEncoding) || !strings.Contains(err.Error(), encoding) || !strings.Contains(err.Error(), "UTF8") {
			t.Errorf("%v, want an error that says what to do about %s", err, encoding)
		}
	}
}
