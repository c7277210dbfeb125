package main

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/projection"
)

//go:embed readmodels.sql
var readModelsSQL string

// createReadModels makes the tables. All of the file is one transaction.
func createReadModels(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, readModelsSQL)
	return err
}

// The names the checkpoints are stored under.
const (
	accountsModel  = "bank.accounts"
	statementModel = "bank.statement"
	searchModel    = "bank.search"
)

func readModels() []*projection.Projection {
	return []*projection.Projection{
		projection.New(accountsModel, nil, projection.On(account.Codec, projectAccount)),
		projection.New(statementModel, nil, projection.On(account.Codec, projectStatement)),
		projection.New(searchModel, nil, projection.On(account.Codec, projectSearch)),
	}
}

type event = eventstore.Event[account.Event]

// projectAccount keeps one row per account: the present state.
func projectAccount(ctx context.Context, tx pgx.Tx, e event) error {
	var done pgconn.CommandTag
	var err error
	switch data := e.Data.(type) {
	case account.Opened:
		done, err = tx.Exec(ctx, `
			insert into bank.accounts (account, owner, currency, overdraft, balance, status, opened_on, version)
			values ($1, $2, $3, $4, 0, $5, $6::text::date, $7)`,
			e.Stream.Key, data.Owner, data.Currency, data.Overdraft, account.Open, data.Date, e.Version)
	case account.AccountClosed:
		done, err = tx.Exec(ctx, `
			update bank.accounts
			   set status = $2, version = $3
			 where account = $1`,
			e.Stream.Key, account.Closed, e.Version)
	default:
		entry, _ := entryOf(e)
		done, err = tx.Exec(ctx, `
			update bank.accounts
			   set balance = balance + $2, version = $3
			 where account = $1`,
			e.Stream.Key, entry.Amount, e.Version)
	}
	if err == nil && done.RowsAffected() != 1 {
		err = fmt.Errorf("account %s is not in bank.accounts: was the table emptied?", e.Stream.Key)
	}
	return err
}

// projectStatement keeps one row per movement of money, with the balance after it. The balance
// before it is that of the account's previous entry.
func projectStatement(ctx context.Context, tx pgx.Tx, e event) error {
	entry, ok := entryOf(e)
	if !ok {
		return nil
	}
	_, err := tx.Exec(ctx, `
		insert into bank.statement (account, version, booked_on, type, amount, balance, description, counterparty)
		select $1, $2, $3::text::date, $4, $5::bigint, $5::bigint + coalesce((
		       select balance
		         from bank.statement
		        where account = $1
		        order by version desc
		        limit 1), 0), $6, $7`,
		e.Stream.Key, e.Version, entry.Date, entry.Type, entry.Amount, entry.Description, entry.Counterparty)
	return err
}

// projectSearch keeps the texts somebody may look for.
func projectSearch(ctx context.Context, tx pgx.Tx, e event) error {
	text := ""
	if opened, ok := e.Data.(account.Opened); ok {
		text = opened.Owner
	} else if entry, ok := entryOf(e); ok {
		text = entry.Description
	}
	if text == "" {
		return nil
	}
	_, err := tx.Exec(ctx, `
		insert into bank.search (account, version, text)
		values ($1, $2, $3)`,
		e.Stream.Key, e.Version, text)
	return err
}

// entryOf returns an event as a line of a statement, if it moves money. Amounts that leave the
// account are negative; the counterparty of a transfer is the other account.
func entryOf(e event) (Entry, bool) {
	signed := func(b account.Booking, kind string, sign int64, counterparty string) (Entry, bool) {
		return Entry{
			Version: e.Version, Date: b.Date, Type: kind, Amount: sign * b.Amount,
			Description: b.Description, Counterparty: counterparty,
		}, true
	}
	switch data := e.Data.(type) {
	case account.Deposited:
		return signed(data.Booking, "deposit", 1, data.Counterparty)
	case account.Withdrawn:
		return signed(data.Booking, "withdrawal", -1, data.Counterparty)
	case account.TransferSent:
		return signed(data.Booking, "transfer_sent", -1, data.To)
	case account.TransferReceived:
		return signed(data.Booking, "transfer_received", 1, data.From)
	}
	return Entry{}, false
}
