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

// A new version is built beside the one that readers see, and takes its place when it has caught up. The old
// one goes on as long as some process runs it: then there is a way back.
func ExampleOperator_Switch() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	query(pool, `select * from balances`)
	stop()

	// The next release runs both.
	runner, stop = run(pool, store, balancesTable(1), balancesTable(2))
	defer stop()
	until(func() bool { return live(runner) == 2 })
	query(pool, `select * from balances`)

	// It turns out to be wrong.
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

// A command line has none of the application's code, and still lists, pauses and resumes.
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

// Nobody wants the old version back: it goes, with its table. So a version goes that is being built.
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

// How the projections of a runner are doing, whichever processes run them.
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

// An error says that something is wrong with a projection of this runner: for readiness probes.
func ExampleRunner_Health() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	fmt.Println(runner.Health(ctx))

	check(runner.Operator().Stop(ctx, projection.Ref{Name: "balances", Version: projection.AllVersions}, "the numbers are wrong")) // Pause would not be a problem
	fmt.Println(runner.Health(ctx))
	// Output:
	// <nil>
	// unhealthy: projection balances, version 1: stopped: the numbers are wrong
}

// When Pause has returned nothing is written any more, in whichever process.
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

// Reset handles the log again, in place. Readers see the table fill.
func ExampleRunnerOperator_Reset() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	_, err := pool.Exec(ctx, `update balances_v1 set balance = 0`) // somebody has
	check(err)

	check(runner.Operator().Reset(ctx, projection.Ref{Name: "balances", Version: projection.Live}, 0))
	wait(runner, deposit(store, "ada", Deposited{Amount: 7}))
	query(pool, `select * from balances`)
	// Output: ada 12
}

// RebuildKey mends one row, beside the live projection.
func ExampleRunnerOperator_RebuildKey() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()
	deposit(store, "ada", Deposited{Amount: 5})
	wait(runner, deposit(store, "bob", Deposited{Amount: 7}))
	_, err := pool.Exec(ctx, `update balances_v1 set balance = 0`) // somebody has
	check(err)

	check(runner.Operator().RebuildKey(ctx, projection.Ref{Name: "balances", Version: projection.Live}, "ada"))
	query(pool, `select * from balances order by account`)
	// Output:
	// ada 5
	// bob 0
}

// An observer counts what happens, for metrics.
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
