package projection_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

// asService returns a fixture that is connected with the role of services, and one of the owner, on a new database. The
// service's role can also create tables in schema public.
func asService(t *testing.T) (service, owner *fixture) {
	t.Helper()
	url := pgtest.URL(t)
	owner = connected(t, url, func(*pgxpool.Config) {})
	database := owner.pool.Config().ConnConfig.Database
	names := migrations.Roles{App: database + "_app", Operator: database + "_operator"}
	if err := migrations.CreateRoles(t.Context(), owner.pool, nil, names); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{names.App, names.Operator} {
			role := pgx.Identifier{name}.Sanitize()
			_, _ = owner.pool.Exec(context.Background(), fmt.Sprintf("drop owned by %s; drop role %[1]s", role))
		}
	})
	role := pgx.Identifier{names.App}.Sanitize()
	owner.exec("grant create on schema public to " + role)
	service = connected(t, url, func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "set role "+role)
			return err
		}
	})
	return service, owner
}

// TestServiceRole: the rights of a service's role are enough to run projections, to repair and switch them, and to read
// their status, even while a transaction holds the tidemark back.
func TestServiceRole(t *testing.T) {
	t.Parallel()
	f, owner := asService(t)
	f.exec(`create table model (name text, position bigint, n int, written bigserial)`)
	bad := func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
		if e.Data.N < 0 {
			panic("negative")
		}
		return nil
	}
	var projections []*projection.Projection
	for _, k := range kinds {
		projections = append(projections, k.make(f, k.name, projection.Options{}, bad))
	}
	r, stop := f.start(quiet, f.store, projections...)
	f.wait(r, f.put("a", 1, -1, 2))
	for _, k := range kinds {
		if n, err := r.Operator().Skip(t.Context(), projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", 2, "a test"); n != 1 || err != nil {
			t.Errorf("%s: skip: %d, %v", k.name, n, err)
		}
	}
	f.equal("table", map[string]string{"counter-a": "1 2 "}, f.streams(`select stream, numbers from "table"`))

	for _, holder := range []*fixture{f, owner} {
		tx, err := holder.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		draft, err := counting.Encode(counted{1})
		if err != nil {
			t.Fatal(err)
		}
		id := eventstore.StreamID{Category: "counter", Key: "held"}
		if _, err := holder.store.WithTx(tx).Append(t.Context(), id, eventstore.Any, draft); err != nil {
			t.Fatal(err)
		}
		f.put("b", 1)
		if s, err := r.Status(t.Context()); err != nil || s.Held == nil || s.Held.PID != int32(tx.Conn().PgConn().PID()) {
			t.Errorf("status while the tidemark is held: %+v, %v", s.Held, err)
		}
		if err := r.Health(t.Context()); err != nil {
			t.Errorf("health while the tidemark is held: %v", err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{`select nextval('tidemark.events_position_seq')`, `select setval('tidemark.events_position_seq', 1)`} {
		if _, err := f.pool.Exec(t.Context(), sql); !pgerr.Is(err, "42501") {
			t.Errorf("%s: %v, want it denied", sql, err)
		}
	}
	stop()
	r, _ = f.start(quiet, f.store, newPositions(f, "table", projection.Options{Version: 2}, nothing))
	f.wait(r, f.put("a", 3))
	f.untilLive(r, 2)
	if err := r.Operator().Drop(t.Context(), projection.Ref{Name: "table", Version: 1}); err != nil {
		t.Error(err)
	}
}
