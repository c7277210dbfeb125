package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/query"
)

// The queries. Each asks for one page: at most Limit rows after After, the last row of the page before.
type (
	AccountList struct {
		After string // an account
		Limit int
	}
	Statement struct {
		Account  string
		From, To account.Date // both included; empty means no bound
		Types    []string     // empty means any
		After    eventstore.Version
		Limit    int
	}
	Search struct {
		Text  string // written as for a search engine, such as: rent or salary -march
		Limit int
	}
)

// AccountRow is a line of the overview.
type AccountRow struct {
	Account   string             `json:"account" db:"account,key"`
	Owner     string             `json:"owner"`
	Currency  string             `json:"currency"`
	Overdraft int64              `json:"overdraft"`
	Balance   int64              `json:"balance"`
	Status    account.Status     `json:"status"`
	OpenedOn  account.Date       `json:"opened_on"`
	Version   eventstore.Version `json:"version"`
}

// Entry is a line of a statement.
type Entry struct {
	Version      eventstore.Version `json:"version"`
	Date         account.Date       `json:"date"`
	Type         string             `json:"type"`   // one of entryTypes
	Amount       int64              `json:"amount"` // in minor units, negative if it left the account
	Balance      int64              `json:"balance"`
	Description  string             `json:"description"`
	Counterparty string             `json:"counterparty"`
}

// entryTypes are the types an entry can have.
var entryTypes = []string{"deposit", "withdrawal", "transfer_sent", "transfer_received"}

// Hit is a text that a search has found.
type Hit struct {
	Account string             `json:"account"`
	Owner   string             `json:"owner"`
	Version eventstore.Version `json:"version"`
	Text    string             `json:"text"`
}

// queries answer from the read models. Each waits until its read models have reached the position in its context.
type queries struct {
	accounts  query.Handler[AccountList, []AccountRow]
	statement query.Handler[Statement, []Entry]
	search    query.Handler[Search, []Hit]
}

func newQueries(pool *pgxpool.Pool, waiter query.Waiter) *queries {
	m := &models{pool}
	return &queries{
		accounts:  query.WaitFor(m.accounts, waiter, accountsModel),
		statement: query.WaitFor(m.statement, waiter, statementModel, accountsModel),
		search:    query.WaitFor(m.search, waiter, searchModel, accountsModel),
	}
}

type models struct{ pool *pgxpool.Pool }

func (m *models) accounts(ctx context.Context, q AccountList) ([]AccountRow, error) {
	rows, _ := m.pool.Query(ctx, `
		select account, owner, currency, overdraft, balance, status, opened_on::text, version
		  from bank.accounts
		 where account > $1
		 order by account
		 limit $2`, q.After, q.Limit)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[AccountRow])
}

func (m *models) statement(ctx context.Context, q Statement) ([]Entry, error) {
	rows, _ := m.pool.Query(ctx, `
		select version, booked_on::text, type, amount, balance, description, counterparty
		  from bank.statement
		 where account = $1
		   and version > $2
		   and booked_on between coalesce(nullif($3, '')::date, '-infinity')
		                     and coalesce(nullif($4, '')::date, 'infinity')
		   and (cardinality($5::text[]) = 0 or type = any ($5))
		 order by version
		 limit $6`, q.Account, q.After, q.From, q.To, append([]string{}, q.Types...), q.Limit)
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Entry])
	if err != nil || len(entries) > 0 {
		return entries, err
	}
	var known bool
	err = m.pool.QueryRow(ctx, `select exists (select from bank.accounts where account = $1)`, q.Account).Scan(&known)
	if err == nil && !known {
		err = account.ErrUnknown
	}
	return entries, err
}

func (m *models) search(ctx context.Context, q Search) ([]Hit, error) {
	rows, _ := m.pool.Query(ctx, `
		select s.account, a.owner, s.version, s.text
		  from bank.search s
		  join bank.accounts a using (account)
		 cross join websearch_to_tsquery('simple', $1) as wanted
		 where s.document @@ wanted
		 order by ts_rank(s.document, wanted) desc, s.account, s.version
		 limit $2`, q.Text, q.Limit)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Hit])
}
