package projectiontest_test

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/projection/projectiontest"
)

type paid struct{ Amount int64 }

type balance struct {
	Account string `db:"account,key"`
	Balance int64
}

var payments = codec.New(codec.Of("paid", func(e paid) paid { return e }))

// newBalances is the projection to be tested. An application calls it with its own options.
func newBalances(options projection.Options) *projection.Projection {
	options.Tables = []string{"balances"}
	options.DDL = `create table {balances} (account text primary key, balance bigint not null)`
	return projection.NewTable("balances", &options, projection.Fold(payments,
		func(e eventstore.Event[paid]) string { return e.Stream.Key },
		func(row *balance, e eventstore.Event[paid]) projection.Op {
			row.Balance += e.Data.Amount
			return projection.Put
		}))
}

func readBalances(ctx context.Context, pool *pgxpool.Pool) (any, error) {
	rows, _ := pool.Query(ctx, `select account, balance from balances order by account`)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[balance])
}

// The read model that some events lead to. The pool is that of the application's own tests.
func ExampleRun() {
	var pool *pgxpool.Pool
	test := func(t *testing.T) {
		ada := eventstore.StreamID{Category: "account", Key: "ada"}
		projectiontest.Run(t, pool, newBalances(projection.Options{}), projectiontest.Events(payments, ada, paid{100}, paid{-30})...)
		var got int64
		if err := pool.QueryRow(t.Context(), `select balance from balances where account = 'ada'`).Scan(&got); err != nil || got != 70 {
			t.Errorf("the balance is %d, %v, want 70", got, err)
		}
	}
	_ = test
}

// The read model must be the same, whatever happens while it is built. The role of the server's pool may create
// databases.
func ExampleCheck() {
	test := func(t *testing.T, server *pgxpool.Pool) {
		ada := eventstore.StreamID{Category: "account", Key: "ada"}
		bob := eventstore.StreamID{Category: "account", Key: "bob"}
		projectiontest.Check(t, projectiontest.Config{
			Database: projectiontest.Databases(t, server, nil),
			Projection: func(_ *pgxpool.Pool, options projection.Options) *projection.Projection {
				return newBalances(options)
			},
			ReadModel: readBalances,
			Events: slices.Concat(
				projectiontest.Events(payments, ada, paid{100}),
				projectiontest.Events(payments, bob, paid{50}),
				projectiontest.Events(payments, ada, paid{-30}),
			),
		})
	}
	_ = test
}

// TestExample runs the code of the examples, with the databases that applications use.
func TestExample(t *testing.T) {
	t.Parallel()
	server := pgtest.Pool(t)
	ada := eventstore.StreamID{Category: "account", Key: "ada"}
	bob := eventstore.StreamID{Category: "account", Key: "bob"}
	projectiontest.Check(t, projectiontest.Config{
		Database: projectiontest.Databases(t, server, nil),
		Projection: func(_ *pgxpool.Pool, options projection.Options) *projection.Projection {
			return newBalances(options)
		},
		ReadModel: readBalances,
		Events: slices.Concat(
			projectiontest.Events(payments, ada, paid{100}),
			projectiontest.Events(payments, bob, paid{50}),
			projectiontest.Events(payments, ada, paid{-30}),
		),
	})
}
