package projection_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestSameStatements: white space, comments and letter case do not make DDL statements different. A projection with
// different statements does not run and says why, and other projections run.
func TestSameStatements(t *testing.T) {
	t.Parallel()
	f := setup(t)
	made := func(name, ddl string) *projection.Projection {
		return projection.New(name, &projection.Options{Tables: []string{name}, DDL: ddl},
			projection.On(counting, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
				_, err := tx.Exec(ctx, `insert into {`+name+`} values ($1)`, e.Position)
				return err
			}))
	}
	first := `create table {a} (position bigint primary key, note text default 'a  b', "Big" int default 1)`
	r, stop := f.start(quiet, f.store, made("a", first), made("b", `create table {b} (position bigint)`))
	f.wait(r, f.put("x", 1))
	stop()
	for _, same := range []string{
		"create table {a} (\n\tposition bigint primary key,\n\tnote text default 'a  b', \"Big\" int default 1);\n",
		"-- the table\nCREATE TABLE {a} (position BIGINT primary key /* a /* nested */ comment */, note text default 'a  b', \"Big\" int default 1);",
	} {
		r, stop := f.start(quiet, f.store, made("a", same))
		f.wait(r, f.put("x", 1))
		stop()
	}
	for _, other := range []string{
		strings.Replace(first, "'a  b'", "'a b'", 1),
		strings.Replace(first, `"Big"`, `"big"`, 1),
		strings.Replace(first, "default 1", "default 2", 1),
	} {
		r, stop := f.start(quiet, f.store, made("a", other), made("b", `create table {b} (position bigint)`))
		f.wait(r, f.put("x", 1), "b") // projection b still runs
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := r.Wait(ctx, 1<<40, "a")
		cancel()
		if health := r.Health(t.Context()); err == nil || health == nil ||
			!strings.Contains(err.Error(), "made by other statements") || !strings.Contains(health.Error(), "made by other statements") {
			t.Errorf("%s: Wait: %v; Health: %v", other, err, health)
		}
		stop()
	}
}
