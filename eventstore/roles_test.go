package eventstore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

// roles creates the roles of a store on a fresh database. It returns a pool of the owner, and a pool of each role.
// Roles belong to the whole server, so their names begin with the name of the database.
func roles(t *testing.T) (owner, app, operator *pgxpool.Pool) {
	t.Helper()
	url := pgtest.URL(t)
	connect := func(role string) *pgxpool.Pool {
		config, err := pgxpool.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		if role != "" {
			config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, "set role "+pgx.Identifier{role}.Sanitize())
				return err
			}
		}
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
	owner = connect("")
	database := owner.Config().ConnConfig.Database
	names := migrations.Roles{App: database + " app", Operator: database + "_operator"}
	for range 2 { // the second time changes nothing
		if err := migrations.CreateRoles(t.Context(), owner, nil, names); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, name := range []string{names.App, names.Operator} {
			_, _ = owner.Exec(context.Background(), "drop owned by "+pgx.Identifier{name}.Sanitize())
			_, _ = owner.Exec(context.Background(), "drop role "+pgx.Identifier{name}.Sanitize())
		}
	})
	return owner, connect(names.App), connect(names.Operator)
}

// TestRoles: services and operators can append and read. They cannot write events in another way, and cannot change or
// delete an event.
func TestRoles(t *testing.T) {
	t.Parallel()
	_, app, operator := roles(t)
	const denied = "42501"
	for name, pool := range map[string]*pgxpool.Pool{"app": app, "operator": operator} {
		store, err := eventstore.New(pool, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		id := stream(name)
		ctx := eventstore.WithKey(t.Context(), name, nil)
		if _, err := store.Append(ctx, id, eventstore.NoStream, draft(1)); err != nil {
			t.Errorf("%s: append: %v", name, err)
		}
		if _, ok, err := store.Receipts(ctx); !ok || err != nil {
			t.Errorf("%s: stored: %v, %v", name, ok, err)
		}
		if keys, _ := keysAfter(t, store, 0); len(keys) == 0 {
			t.Errorf("%s: nothing to read", name)
		}
		if _, err := store.Streams(t.Context(), "", eventstore.StreamID{}, 10); err != nil {
			t.Errorf("%s: list streams: %v", name, err)
		}
		for _, sql := range []string{
			`insert into tidemark.events select position + 1000, stream, version + 1000, id, type, schema, data, metadata, recorded_at from tidemark.events`,
			`update tidemark.events set type = 'other'`,
			`delete from tidemark.events`,
			`truncate tidemark.events`,
			`alter table tidemark.events disable trigger events_immutable`,
			`drop table tidemark.events`,
			`select nextval('tidemark.events_position_seq')`,
			`select setval('tidemark.events_position_seq', 1)`,
			`insert into tidemark.append_keys (key, content, versions, positions) values ('x', '', '{1}', '{1}')`,
			`update tidemark.append_keys set versions = '{7}'`,
			`truncate tidemark.append_keys`,
			`delete from tidemark.projection_audit`,
			`update tidemark.projection_audit set actor = 'nobody'`,
			`insert into tidemark.projection_audit (projection, version, action, role) values ('p', 1, 'pause', 'nobody')`,
			`insert into tidemark.projection_audit (projection, version, action, recorded_at) values ('p', 1, 'pause', 'epoch')`,
			`delete from tidemark.schema_migrations`,
			`create table tidemark.mine ()`,
			`create or replace function tidemark.tidemark() returns bigint language sql as 'select 1::bigint'`,
		} {
			if _, err := pool.Exec(t.Context(), sql); !pgerr.Is(err, denied) {
				t.Errorf("%s: %s: %v, want it denied", name, sql, err)
			}
		}
		for _, sql := range []string{
			`insert into tidemark.projections (name, version, log, phase, partitions, types) values ('p', 1, gen_random_uuid(), 'live', 1, '{}')`,
			`update tidemark.projections set state = 'paused'`,
			`delete from tidemark.projections`,
		} {
			if _, err := pool.Exec(t.Context(), sql); err != nil {
				t.Errorf("%s: %s: %v", name, sql, err)
			}
		}
		var role, session string
		const audit = `insert into tidemark.projection_audit (projection, version, action, actor) values ('p', 1, 'pause', 'nobody') returning role, session_user`
		if err := pool.QueryRow(t.Context(), audit).Scan(&role, &session); err != nil || role != session {
			t.Errorf("%s: the audit says that %q did it, %v; want %q", name, role, err, session)
		}
		// A role that keeps a projection inline makes appends of other writers fail, so only operators may do it.
		for _, sql := range []string{
			`insert into tidemark.projections (name, version, log, phase, partitions, types, inline) values ('q', 1, gen_random_uuid(), 'live', 1, '{}', null)`,
			`update tidemark.projections set inline = null`,
			`select nextval('tidemark.inline_starts')`,
		} {
			if _, err := pool.Exec(t.Context(), sql); pgerr.Is(err, denied) != (name == "app") || err != nil && name == "operator" {
				t.Errorf("%s: %s: %v", name, sql, err)
			}
		}
		if _, err := pool.Exec(t.Context(), `delete from tidemark.projections`); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_, err = store.PurgeKeys(t.Context(), time.Hour)
		if allowed := err == nil; allowed != (name == "operator") || !allowed && !pgerr.Is(err, denied) {
			t.Errorf("%s: purge keys: %v", name, err)
		}
	}
}

// TestRolesSQL: the file names the default schema and roles only where they are replaced.
func TestRolesSQL(t *testing.T) {
	t.Parallel()
	_, pool := open(t)
	database := pool.Config().ConnConfig.Database
	config := &migrations.Config{Schema: "other"}
	if err := migrations.Up(t.Context(), pool, config); err != nil {
		t.Fatal(err)
	}
	if err := migrations.CreateRoles(t.Context(), pool, config, migrations.Roles{App: "it's", Operator: ""}); err == nil {
		t.Error("a name with a quote was accepted")
	}
	if err := migrations.CreateRoles(t.Context(), pool, config, migrations.Roles{App: database, Operator: database}); err == nil {
		t.Error("one role for both was accepted")
	}
	names := migrations.Roles{App: database + "_a", Operator: database + "_o"}
	if err := migrations.CreateRoles(t.Context(), pool, config, names); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{names.App, names.Operator} {
			_, _ = pool.Exec(context.Background(), "drop owned by "+pgx.Identifier{name}.Sanitize())
			_, _ = pool.Exec(context.Background(), "drop role "+pgx.Identifier{name}.Sanitize())
		}
	})
	var here, there bool
	const sql = `select has_schema_privilege($1, 'tidemark', 'usage'), has_schema_privilege($1, 'other', 'usage')`
	if err := pool.QueryRow(t.Context(), sql, names.App).Scan(&here, &there); err != nil {
		t.Fatal(err)
	}
	if here || !there {
		t.Errorf("rights on the default schema: %v, on the other one: %v", here, there)
	}
	if strings.Contains(migrations.RolesSQL, "{{") {
		t.Error("tern would take the file for a template")
	}
}
