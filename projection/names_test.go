package projection_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// sayings are the ways in which a handler can send a statement with the name of its table.
var sayings = map[string]func(ctx context.Context, tx pgx.Tx, key string) error{
	"Exec": func(ctx context.Context, tx pgx.Tx, key string) error {
		_, err := tx.Exec(ctx, `insert into {b.said} values ($1)`, key)
		return err
	},
	"Query": func(ctx context.Context, tx pgx.Tx, key string) error {
		rows, _ := tx.Query(ctx, `insert into {b.said} values ($1) returning key`, key)
		_, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
		return err
	},
	"QueryRow": func(ctx context.Context, tx pgx.Tx, key string) error {
		return tx.QueryRow(ctx, `insert into {b.said} values ($1) returning key`, key).Scan(&key)
	},
	"SendBatch": func(ctx context.Context, tx pgx.Tx, key string) error {
		var b pgx.Batch
		b.Queue(`insert into {b.said} values ($1)`, key)
		return tx.SendBatch(ctx, &b).Close()
	},
	"CopyFrom": func(ctx context.Context, tx pgx.Tx, key string) error {
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"{b.said}"}, []string{"key"}, pgx.CopyFromRows([][]any{{key}}))
		return err
	},
	"Prepare": func(ctx context.Context, tx pgx.Tx, key string) error {
		statement, err := tx.Prepare(ctx, "", `insert into {b.said} values ($1)`)
		if err == nil {
			_, err = tx.Exec(ctx, statement.SQL, key)
		}
		return err
	},
	"Begin": func(ctx context.Context, tx pgx.Tx, key string) error {
		return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into {b.said} values ($1)`, key)
			return err
		})
	},
}

// TestNamesInBraces: in every statement that a handler sends, a table name in braces stands for the table of the
// handler's own version.
func TestNamesInBraces(t *testing.T) {
	t.Parallel()
	f := setup(t)
	if _, err := f.pool.Exec(t.Context(), `create schema b`); err != nil {
		t.Fatal(err)
	}
	said := func(version int) *projection.Projection {
		o := &projection.Options{Version: version, Tables: []string{"b.said"}, DDL: `create table {b.said} (key text)`}
		return projection.New("said", o, projection.On(counting,
			func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
				return sayings[e.Stream.Key](ctx, tx, e.Stream.Key)
			}))
	}
	for version := 1; version <= 2; version++ {
		r, stop := f.start(quiet, f.store, said(version))
		var last eventstore.Position
		for how := range sayings {
			last = f.put(how, version)
		}
		f.untilLive(r, version)
		f.wait(r, last)
		f.equal("rows that readers see", version*len(sayings), count(f, `select key from b.said`))
		stop()
	}
	f.equal("rows of version 1", len(sayings), count(f, `select key from b.said_v1`))
}

// TestUnknownNameInBraces: a name in braces that is not one of the projection's tables stops the projection. No event
// is to blame.
func TestUnknownNameInBraces(t *testing.T) {
	t.Parallel()
	f := setup(t)
	options := &projection.Options{Tables: []string{"said"}, DDL: `create table {said} (key text)`}
	p := projection.New("said", options, projection.On(counting,
		func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
			_, err := tx.Exec(ctx, `insert into {sayd} values ($1)`, e.Stream.Key)
			return err
		}))
	r, _ := f.start(quiet, f.store, p)
	f.put("a", 0)
	f.stopped(r, "said", "a name in braces is not one of Options.Tables")
	f.noLetters()
}
