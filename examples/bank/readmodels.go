package main

import (
	"context"
	_ "embed"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/projection"
)

//go:embed readmodels.sql
var readModelsSQL string

// createReadModels creates the tables. The whole file is one transaction.
func createReadModels(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, readModelsSQL)
	return err
}

// The names under which the checkpoints are stored.
const (
	accountsModel  = "bank.accounts"
	statementModel = "bank.statement"
	searchModel    = "bank.search"
)

func readModels() []*projection.Projection {
	return []*projection.Projection{
		projection.NewTable(accountsModel, &projection.Options{DDL: accountsDDL}, projection.Fold(account.Codec, accountOf, foldAccount)),
		projection.New(statementModel, nil, projection.On(account.Codec, projectStatement)),
		projection.New(searchModel, nil, projection.On(account.Codec, projectSearch)),
	}
}

type event = eventstore.Event[account.Event]

// accountsDDL creates the table of the overview. Readers use it by the name bank.accounts.
const accountsDDL = `
create table {bank.accounts} (
    account   text   not null primary key,
    owner     text   not null,
    currency  text   not null,
    overdraft bigint not null,
    balance   bigint not null,
    status    text   not null,
    opened_on date   not null,
    version   bigint not null
)`

func accountOf(e event) string { return e.Stream.Key }

// foldAccount keeps one row per account: the present state.
func foldAccount(row *AccountRow, e event) projection.Op {
	switch data := e.Data.(type) {
	case account.Opened:
		row.Owner, row.Currency, row.Overdraft = data.Owner, data.Currency, data.Overdraft
		row.Status, row.OpenedOn = account.Open, data.Date
	case account.AccountClosed:
		row.Status = account.Closed
	default:
		entry, _ := entryOf(e)
		row.Balance += entry.Amount
	}
	row.Version = e.Version
	return projection.Put
}

// projectStatement keeps one row per movement of money, with the balance after the movement. It adds the amount to the
// balance in the account's previous row.
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

// projectSearch keeps the texts that a search can find.
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

// entryOf returns the line of a statement for an event that moves money, and false for any other event. Amounts that
// leave the account are negative. The counterparty of a transfer is the other account.
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
