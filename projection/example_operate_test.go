package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// A new version is built beside the live version, and replaces it when it has caught up. The old version stays up to
// date while some process runs it. Then Switch can make it the live version again.
func ExampleOperator_Switch() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	query(pool, `select * from balances`)
	stop()

	// The next release runs both versions.
	runner, stop = run(pool, store, balancesTable(1), balancesTable(2))
	defer stop()
	until(func() bool { return live(runner) == 2 })
	query(pool, `select * from balances`)

	// The new version is wrong: go back to version 1.
	wait(runner, deposit(store, "ada", Deposited{Amount: 7}))
	query(pool, `select * from balances`)
	check(runner.Operator().Switch(ctx, projection.Ref{Name: "balances", Version: 1}))
	query(pool, `select * from balances`)
	// Output:
	// ada 5
	// ada 10
	// ada 24
	// ada 12
}

// live returns the version that readers see.
func live(runner *projection.Runner) int {
	status, err := runner.Status(context.Background())
	check(err)
	for _, p := range status.Projections {
		if p.Phase == projection.PhaseLive {
			return p.Version
		}
	}
	return 0
}

// A command line tool does not have the application's code. It can still list, pause and resume projections.
func ExampleNewOperator() {
	pool, store, done := connect()
	defer done()
	ctx := eventstore.WithMetadata(context.Background(), eventstore.Metadata{Actor: "grace"})
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))

	operator, err := projection.NewOperator(pool, nil)
	check(err)
	balances := projection.Ref{Name: "balances", Version: projection.Live}
	check(operator.Pause(ctx, balances, "the bank is closed"))
	status, err := operator.Status(ctx)
	check(err)
	for _, p := range status.Projections {
		fmt.Println(p.Name, p.Version, p.Phase, p.State, p.Reason)
	}
	check(operator.Resume(ctx, balances))
	entries, err := operator.Audit(ctx, "balances", 2)
	check(err)
	for _, e := range entries {
		fmt.Println(e.Action, e.Actor)
	}
	fmt.Println(operator.Resume(ctx, projection.Ref{Name: "balances"}))
	// Output:
	// balances 1 live paused the bank is closed
	// resume grace
	// pause grace
	// projection: resume: projection balances: Ref.Version is not given: want a number from 1 on, Live or AllVersions
}

// Drop removes the old version, with its table, when you will not switch back to it. It removes a version that is being
// built in the same way. It refuses to remove the live version here, because a process runs it.
func ExampleOperator_Drop() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	stop()
	runner, stop = run(pool, store, balancesTable(2))
	defer stop()
	until(func() bool { return live(runner) == 2 })

	fmt.Println(runner.Operator().Drop(ctx, projection.Ref{Name: "balances", Version: 1}))
	fmt.Println(errors.Is(runner.Operator().Drop(ctx, projection.Ref{Name: "balances", Version: 2}), projection.ErrRefused))
	query(pool, `select tablename from pg_tables where tablename like 'balances%'`)
	// Output:
	// <nil>
	// true
	// balances_v2
}

// Status reports on the projections of a runner, in all processes that run them.
func ExampleRunner_Status() {
	pool, store, done := connect()
	defer done()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}, Deposited{Amount: 0}))

	status, err := runner.Status(context.Background())
	check(err)
	fmt.Println("tidemark", status.Tidemark, "of", status.LogEnd, "held by", status.Held)
	for _, p := range status.Projections {
		fmt.Println(p.Name, p.Version, p.Phase, p.State, "at", p.Checkpoint, "lag", p.Lag, p.LagTime)
		fmt.Println("handled", p.Handled, "parked", p.Parked, "stalled", p.Stalled, "partitions", len(p.Partitions))
	}
	// Output:
	// tidemark 2 of 2 held by <nil>
	// balances 1 live running at 2 lag 0 0s
	// handled 1 parked 1 stalled false partitions 1
}

// Health returns an error when something is wrong with a projection of this runner. Use it for readiness probes.
func ExampleRunner_Health() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	fmt.Println(runner.Health(ctx))

	// Stop makes the projection unhealthy. Pause does not.
	check(runner.Operator().Stop(ctx, projection.Ref{Name: "balances", Version: projection.AllVersions}, "the numbers are wrong"))
	fmt.Println(runner.Health(ctx))
	// Output:
	// <nil>
	// unhealthy: projection balances, version 1: stopped: the numbers are wrong
}

// After Pause has returned, no process writes to the projection's tables.
func ExampleOperator_Pause() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))

	check(runner.Operator().Pause(ctx, projection.Ref{Name: "balances", Version: projection.AllVersions}, "the table gets an index"))
	position := deposit(store, "ada", Deposited{Amount: 7})
	status, err := runner.Status(ctx)
	check(err)
	p := status.Projections[0]
	fmt.Println(p.State, p.Reason, "lag", p.Lag)

	check(runner.Operator().Resume(ctx, projection.Ref{Name: "balances", Version: projection.AllVersions}))
	wait(runner, position)
	query(pool, `select * from balances`)
	// Output:
	// paused the table gets an index lag 1
	// ada 12
}

// Reset handles the log again, in the same table. Readers see the table while it is filled.
func ExampleRunnerOperator_Reset() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	_, err := pool.Exec(ctx, `update balances_v1 set balance = 0`) // a mistake by hand
	check(err)

	check(runner.Operator().Reset(ctx, projection.Ref{Name: "balances", Version: projection.Live}, 0))
	wait(runner, deposit(store, "ada", Deposited{Amount: 7}))
	query(pool, `select * from balances`)
	// Output: ada 12
}

// RebuildKey folds one row again from the events of its key. The projection continues beside it. Other rows do not
// change.
func ExampleRunnerOperator_RebuildKey() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	deposit(store, "ada", Deposited{Amount: 5})
	wait(runner, deposit(store, "bob", Deposited{Amount: 7}))
	_, err := pool.Exec(ctx, `update balances_v1 set balance = 0`) // a mistake by hand
	check(err)

	check(runner.Operator().RebuildKey(ctx, projection.Ref{Name: "balances", Version: projection.Live}, "ada"))
	query(pool, `select * from balances order by account`)
	// Output:
	// ada 5
	// bob 0
}

// An observer counts the handled and the parked events, for metrics.
func ExampleObserver() {
	pool, store, done := connect()
	defer done()
	var handled, parked atomic.Int64
	config := &projection.Config{Observer: projection.Observer{
		Batch: func(done projection.BatchDone) {
			handled.Add(int64(done.Events))
			parked.Add(int64(done.Parked))
		},
		Failure: func(f projection.Failure) {
			fmt.Println(f.Projection.Name, f.Class, "failure at position", f.Position)
		},
	}}
	refuse := projection.New("deposits", nil, projection.On(accounts,
		func(_ context.Context, _ pgx.Tx, e eventstore.Event[AccountEvent]) error {
			if e.Data.(Deposited).Amount > 100 {
				panic("too much")
			}
			return nil
		}))

	runner, err := projection.NewRunner(pool, store, config, refuse)
	check(err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- runner.Run(ctx) }()
	deposit(store, "ada", Deposited{Amount: 5})
	wait(runner, deposit(store, "bob", Deposited{Amount: 500}, Deposited{Amount: 1}))
	stop()
	check(<-ended)
	fmt.Println(handled.Load(), "handled,", parked.Load(), "parked")
	// Output:
	// deposits poison failure at position 2
	// 1 handled, 2 parked
}
