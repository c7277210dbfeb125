package main

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/projection/projectiontest"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

// TestReadModels: each read model ends with the same rows whatever happens while it is built, and no event type is
// forgotten.
func TestReadModels(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql     string   // reads everything in the read model that queries show
		ignored []string // event types that the read model does not need
	}{
		accountsModel:  {sql: `select coalesce(json_agg(r order by account), '[]') from bank.accounts r`},
		statementModel: {`select coalesce(json_agg(r order by account, version), '[]') from bank.statement r`, []string{"account.opened", "account.closed"}},
		searchModel:    {`select coalesce(json_agg(r order by account, version), '[]') from bank.search r`, []string{"account.closed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			projectiontest.Check(t, projectiontest.Config{
				Database:   projectiontest.Databases(t, tidemarktest.New(t, nil).Pool, createReadModels),
				Projection: func(*pgxpool.Pool, projection.Options) *projection.Projection { return readModel(name) },
				ReadModel: func(ctx context.Context, pool *pgxpool.Pool) (model any, err error) {
					return model, pool.QueryRow(ctx, test.sql).Scan(&model)
				},
				Events:  history(),
				Ignored: test.ignored,
			})
		})
	}
}

// readModel returns one of the read models.
func readModel(name string) *projection.Projection {
	all := readModels()
	return all[slices.IndexFunc(all, func(p *projection.Projection) bool { return p.Name() == name })]
}

// history returns events of all types, of two accounts.
func history() []projectiontest.Event {
	booking := func(amount int64, description string) account.Booking {
		return account.Booking{Money: account.Money{Amount: amount, Currency: "EUR"}, Date: "2026-03-02", Description: description}
	}
	of := func(key string, events ...account.Event) []projectiontest.Event {
		return projectiontest.Events(account.Codec, eventstore.StreamID{Category: "account", Key: key}, events...)
	}
	return slices.Concat(
		of("ada", account.Opened{Owner: "Ada", Currency: "EUR", Overdraft: 500, Date: "2026-03-01"}),
		of("bob", account.Opened{Owner: "Bob", Currency: "EUR", Date: "2026-03-01"}),
		of("ada", account.Deposited{Booking: booking(1000, "salary")}, account.TransferSent{Booking: booking(300, "rent"), To: "bob"}),
		of("bob", account.TransferReceived{Booking: booking(300, "rent"), From: "ada"}, account.Withdrawn{Booking: booking(300, "cash")}),
		of("bob", account.AccountClosed{Date: "2026-03-03"}),
	)
}
