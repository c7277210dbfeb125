package projection_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// An event whose handler returns a transient error is tried again until it succeeds, with growing pauses. The writes of
// the failed attempts are rolled back.
func ExampleTransient() {
	pool, store, done := connect()
	defer done()
	_, err := pool.Exec(context.Background(), `create table deposits (account text, amount bigint)`)
	check(err)

	attempts := 0
	deposits := projection.New("deposits", nil, projection.On(accounts,
		func(ctx context.Context, tx pgx.Tx, e eventstore.Event[AccountEvent]) error {
			if _, err := tx.Exec(ctx, `insert into deposits values ($1, $2)`, e.Stream.Key, e.Data.(Deposited).Amount); err != nil {
				return err
			}
			if attempts++; attempts < 5 { // more failures than MaxAttempts allows for other errors
				return projection.Transient(errors.New("the exchange rates are not there yet"))
			}
			return nil
		}))

	runner, stop := run(pool, store, deposits)
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	fmt.Println(attempts, "attempts")
	query(pool, `select * from deposits`)
	// Output:
	// 5 attempts
	// ada 5
}

// A fatal error concerns all events and not only this one. It stops the projection, and no event becomes a dead letter.
func ExampleFatal() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()

	var configured atomic.Bool
	converted := projection.New("converted", nil, projection.On(accounts,
		func(ctx context.Context, tx pgx.Tx, e eventstore.Event[AccountEvent]) error {
			if !configured.Load() {
				return projection.Fatal(errors.New("no currency is configured"))
			}
			return nil
		}))

	runner, stop := run(pool, store, converted)
	defer stop()
	position := deposit(store, "ada", Deposited{Amount: 5})
	until(func() bool { return runner.Health(ctx) != nil })
	fmt.Println(runner.Health(ctx))

	configured.Store(true)
	check(runner.Operator().Resume(ctx, projection.Ref{Name: "converted", Version: projection.AllVersions}))
	wait(runner, position)
	fmt.Println(runner.Health(ctx))
	// Output:
	// unhealthy: projection converted, version 1: stopped: projection converted: event "account.deposited" at position 1 of stream account-ada: no currency is configured
	// <nil>
}

// One bad event stops only its key. Later events of the key wait behind it in order, and all other keys continue. When
// the code is fixed, Retry handles the dead letters again.
func ExampleOperator_DeadLetters() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	_, err := pool.Exec(ctx, `create table deposits (n bigserial, account text, amount bigint)`)
	check(err)

	var fixed atomic.Bool
	deposits := projection.New("deposits", nil, projection.On(accounts,
		func(ctx context.Context, tx pgx.Tx, e eventstore.Event[AccountEvent]) error {
			d := e.Data.(Deposited)
			if d.Amount > 1000 && !fixed.Load() {
				return errors.New("more than there is")
			}
			_, err := tx.Exec(ctx, `insert into deposits (account, amount) values ($1, $2)`, e.Stream.Key, d.Amount)
			return err
		}))

	runner, stop := run(pool, store, deposits)
	defer stop()
	deposit(store, "ada", Deposited{Amount: 5}, Deposited{Amount: 2000}, Deposited{Amount: 7})
	wait(runner, deposit(store, "bob", Deposited{Amount: 1}))

	letters, err := runner.Operator().DeadLetters(ctx, projection.Ref{Name: "deposits", Version: projection.Live}, "", 0, 100)
	check(err)
	for _, l := range letters {
		fmt.Printf("%s: %s at %d, %q after %d attempts, %d waiting\n", l.Key, l.Type, l.Position, l.Error, l.Attempts, l.Waiting)
	}
	query(pool, `select account, amount from deposits order by n`)

	fixed.Store(true)                                                                                     // in practice, deploy a fixed release
	fmt.Println(runner.Operator().Retry(ctx, projection.Ref{Name: "deposits", Version: projection.Live})) // without keys, it retries all
	query(pool, `select account, amount from deposits order by n`)
	// Output:
	// account-ada: account.deposited at 2, "more than there is" after 3 attempts, 1 waiting
	// ada 5
	// bob 1
	// 2 <nil>
	// ada 5
	// bob 1
	// ada 2000
	// ada 7
}

// DeadLetterGroups groups dead letters by their error. Many dead letters usually have only a few different errors.
func ExampleOperator_DeadLetterGroups() {
	pool, store, done := connect()
	defer done()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	deposit(store, "ada", Deposited{Amount: 0}, Deposited{Amount: 5})
	wait(runner, deposit(store, "bob", Deposited{Amount: 0}))

	groups, err := runner.Operator().DeadLetterGroups(context.Background(), projection.Ref{Name: "balances", Version: projection.Live})
	check(err)
	for _, g := range groups {
		fmt.Printf("%s: %d, and %d behind them, at %d to %d\n", g.Error, g.Count, g.Waiting, g.First, g.Last)
	}
	// Output: a deposit of nothing: 2, and 1 behind them, at 1 to 3
}

// The payload of the event is wrong. Edit gives this projection another payload. The event in the log does not change.
func ExampleRunnerOperator_Edit() {
	pool, store, done := connect()
	defer done()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 0}, Deposited{Amount: 5}))

	ctx := context.Background()
	letters, err := runner.Operator().DeadLetters(ctx, projection.Ref{Name: "balances", Version: projection.Live}, "", 0, 1)
	check(err)
	bad := letters[0]
	fmt.Println(string(bad.Data))
	fmt.Println(runner.Operator().Edit(ctx, projection.Ref{Name: "balances", Version: projection.Live}, bad.Key, bad.Position, json.RawMessage(`{"amount":100}`)))
	query(pool, `select * from balances`)
	// Output:
	// {"amount":0,"at":""}
	// 2 <nil>
	// ada 105
}

// The event is not needed. Skip gives it up, records the reason, and handles the events that wait behind it.
func ExampleRunnerOperator_Skip() {
	pool, store, done := connect()
	defer done()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 0}, Deposited{Amount: 5}))

	// The audit takes the operator's name from the actor in the context.
	ctx := eventstore.WithMetadata(context.Background(), eventstore.Metadata{Actor: "eva"})
	fmt.Println(runner.Operator().Skip(ctx, projection.Ref{Name: "balances", Version: projection.Live}, "ada", 1, "a test of the teller's"))
	query(pool, `select * from balances`)

	audit, err := runner.Operator().Audit(ctx, "balances", 10)
	check(err)
	for _, a := range audit {
		if a.Action == "skip" {
			fmt.Println(a.Actor, a.Details)
		}
	}
	// Output:
	// 1 <nil>
	// ada 5
	// eva map[key:ada position:1 reason:a test of the teller's]
}
