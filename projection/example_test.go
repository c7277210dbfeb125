package projection_test

import (
	"context"
	"log"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

type deposited struct{ Amount int64 }

// A read model of balances, kept up to date while the program runs.
func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://localhost/bank")
	if err != nil {
		log.Fatal(err)
	}
	store, err := eventstore.New(pool, nil)
	if err != nil {
		log.Fatal(err)
	}
	events := eventstore.NewCodec(eventstore.TypeOf("deposited", func(e deposited) deposited { return e }))

	balances := projection.New("balances", nil, projection.On(events, func(ctx context.Context, tx pgx.Tx, event eventstore.Event[deposited]) error {
		_, err := tx.Exec(ctx, `
			insert into balances (account, balance)
			values ($1, $2)
			on conflict (account) do update set balance = balances.balance + excluded.balance`,
			event.Stream.Key, event.Data.Amount)
		return err
	}))
	runner, err := projection.NewRunner(pool, store, nil, balances)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		if err := runner.Run(ctx); err != nil {
			log.Fatal(err)
		}
	}()
}
