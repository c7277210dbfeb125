package projection_test

import (
	"context"
	"fmt"
	"log"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// AccountEvent is the domain type of the examples. Only the events of an account implement it.
type AccountEvent interface{ accountEvent() }

type Deposited struct {
	Amount int64  `json:"amount"`
	At     string `json:"at"` // the branch of the bank
}

func (Deposited) accountEvent() {}

// accounts is the codec of the domain.
var accounts = codec.New(
	codec.Of("account.deposited", func(e Deposited) AccountEvent { return e }),
)

// deposit appends deposits to the stream of an account, and returns the position of the last one.
func deposit(store *eventstore.Store, account string, deposits ...Deposited) eventstore.Position {
	var drafts []eventstore.Draft
	for _, d := range deposits {
		draft, err := accounts.Encode(d)
		check(err)
		drafts = append(drafts, draft)
	}
	stream := eventstore.StreamID{Category: "account", Key: account}
	receipt, err := store.Append(context.Background(), stream, eventstore.Any, drafts...)
	check(err)
	return receipt.Position
}

// Balance is the row of the table that most of the examples keep.
type Balance struct {
	Account string `db:"account,key"`
	Balance int64
}

const balancesDDL = `create table {balances} (account text primary key, balance bigint not null)`

// balancesTable returns a version of the table. Version n counts each deposit n times, so readers can tell the versions
// apart. A deposit of 0 cannot be folded.
func balancesTable(version int) *projection.Projection {
	options := &projection.Options{Version: version, DDL: balancesDDL}
	return projection.NewTable("balances", options, projection.Fold(accounts, accountOf,
		func(row *Balance, e eventstore.Event[AccountEvent]) projection.Op {
			d := e.Data.(Deposited)
			if d.Amount == 0 {
				return projection.Fail(fmt.Errorf("a deposit of nothing"))
			}
			row.Balance += d.Amount * int64(version)
			return projection.Put
		}))
}

func accountOf(e eventstore.Event[AccountEvent]) string { return e.Stream.Key }

// connect returns a pool to a database with Tidemark's tables, a store, and a function that closes both.
func connect() (pool *pgxpool.Pool, store *eventstore.Store, done func()) {
	t := &exampleTB{}
	pool = pgtest.Pool(t)
	store, err := eventstore.New(pool, nil)
	check(err)
	t.Cleanup(store.Close)
	return pool, store, t.end
}

// run runs projections until stop is called.
func run(pool *pgxpool.Pool, store *eventstore.Store, projections ...*projection.Projection) (runner *projection.Runner, stop func()) {
	runner, err := projection.NewRunner(pool, store, quiet, projections...)
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	return runner, func() {
		cancel()
		check(<-done)
	}
}

// wait waits until all projections of the runner have reached a position.
func wait(runner *projection.Runner, position eventstore.Position) {
	ctx, cancel := context.WithTimeout(context.Background(), exampleTimeout)
	defer cancel()
	check(runner.Wait(ctx, position))
}

// exampleTimeout is the longest time that an example waits for something.
const exampleTimeout = 30 * time.Second

// until polls until something has happened. It is for things that no call waits for.
func until(happened func() bool) {
	for deadline := time.Now().Add(exampleTimeout); !happened(); {
		if time.Now().After(deadline) {
			log.Panic("the example has waited too long")
		}
	}
}

// query prints the rows that a statement returns.
func query(pool *pgxpool.Pool, sql string) {
	rows, _ := pool.Query(context.Background(), sql)
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		return strings.TrimSuffix(fmt.Sprintln(values...), "\n"), err
	})
	check(err)
	for _, line := range found {
		fmt.Println(line)
	}
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

// exampleTB takes the place of the testing.TB that pgtest needs and an example does not have.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (t *exampleTB) Helper()                           {}
func (t *exampleTB) Name() string                      { return "Example" }
func (t *exampleTB) Context() context.Context          { return context.Background() }
func (t *exampleTB) Logf(format string, args ...any)   { log.Printf(format, args...) }
func (t *exampleTB) Error(args ...any)                 { log.Panic(args...) }
func (t *exampleTB) Errorf(format string, args ...any) { log.Panicf(format, args...) }
func (t *exampleTB) Fatal(args ...any)                 { log.Panic(args...) }
func (t *exampleTB) Fatalf(format string, args ...any) { log.Panicf(format, args...) }
func (t *exampleTB) Cleanup(f func())                  { t.cleanups = append(t.cleanups, f) }

// end calls the cleanups. The last one is called first.
func (t *exampleTB) end() {
	for n := len(t.cleanups) - 1; n >= 0; n-- {
		t.cleanups[n]()
	}
}
