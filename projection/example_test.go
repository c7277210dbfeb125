package projection_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// The handler writes the effect of each event into a table of the application. The runner commits the handler's
// transaction together with the checkpoint.
func ExampleNew() {
	pool, store, done := connect()
	defer done()
	ctx, stop := context.WithCancel(context.Background())
	_, err := pool.Exec(ctx, `create table balances (account text primary key, balance bigint not null)`)
	check(err)

	balances := projection.New("balances", nil, projection.On(accounts,
		func(ctx context.Context, tx pgx.Tx, e eventstore.Event[AccountEvent]) error {
			switch d := e.Data.(type) {
			case Deposited:
				_, err := tx.Exec(ctx, `
					insert into balances values ($1, $2)
					on conflict (account) do update set balance = balances.balance + excluded.balance`,
					e.Stream.Key, d.Amount)
				return err
			}
			return nil
		}))

	runner, err := projection.NewRunner(pool, store, nil, balances)
	check(err)
	ended := make(chan error)
	go func() { ended <- runner.Run(ctx) }() // runs until ctx is done

	deposit(store, "ada", Deposited{Amount: 5}, Deposited{Amount: 7})
	check(runner.Wait(ctx, deposit(store, "bob", Deposited{Amount: 1})))
	query(pool, `select * from balances order by account`)
	stop()
	fmt.Println(<-ended)
	// Output:
	// ada 12
	// bob 1
	// <nil>
}

// A table projection has a row type, a key for each event, and a fold. The runner loads the rows, folds the events into
// them, and writes the rows in bulk.
func ExampleNewTable() {
	pool, store, done := connect()
	defer done()

	type account struct {
		Number      string `db:"account,key"` // the field that is the key
		Balance     int64
		LargestEver int64 // the column largest_ever
	}
	options := &projection.Options{DDL: `
		create table {balances} (
		    account      text   primary key,
		    balance      bigint not null,
		    largest_ever bigint not null
		)`}
	balances := projection.NewTable("balances", options, projection.Fold(accounts,
		func(e eventstore.Event[AccountEvent]) string { return e.Stream.Key },
		func(row *account, e eventstore.Event[AccountEvent]) projection.Op {
			switch d := e.Data.(type) {
			case Deposited:
				row.Balance += d.Amount
				row.LargestEver = max(row.LargestEver, d.Amount)
				return projection.Put
			}
			return projection.Skip
		}))

	runner, stop := run(pool, store, balances)
	defer stop()
	deposit(store, "ada", Deposited{Amount: 5}, Deposited{Amount: 7})
	wait(runner, deposit(store, "bob", Deposited{Amount: 1}))
	query(pool, `select * from balances order by account`)
	// Output:
	// ada 12 7
	// bob 1 1
}

// One statement writes the rows for all events of a batch.
func ExampleOnBatch() {
	pool, store, done := connect()
	defer done()

	options := &projection.Options{
		Tables: []string{"deposits"},
		DDL:    `create table {deposits} (account text not null, amount bigint not null)`,
	}
	amount := func(e eventstore.Event[AccountEvent]) (any, error) { return e.Data.(Deposited).Amount, nil }
	deposits := projection.New("deposits", options, projection.OnBatch(
		func(ctx context.Context, tx pgx.Tx, b projection.Batch) error {
			var accounts []string
			var amounts []int64
			for _, item := range b.Items {
				accounts, amounts = append(accounts, item.Event.Stream.Key), append(amounts, item.Value.(int64))
			}
			_, err := tx.Exec(ctx, `insert into {deposits} select * from unnest($1::text[], $2::bigint[])`, accounts, amounts)
			return err
		}, projection.Each(accounts, nil, amount)))

	runner, stop := run(pool, store, deposits)
	defer stop()
	deposit(store, "ada", Deposited{Amount: 5}, Deposited{Amount: 7})
	wait(runner, deposit(store, "bob", Deposited{Amount: 1}))
	query(pool, `select * from deposits order by account, amount`)
	// Output:
	// ada 5
	// ada 7
	// bob 1
}

// The statements of many events are queued, and sent in one round trip.
func ExampleOnWrite() {
	pool, store, done := connect()
	defer done()

	options := &projection.Options{
		Tables: []string{"deposits"},
		DDL:    `create table {deposits} (account text primary key, amount bigint not null)`,
	}
	const upsert = `
		insert into {deposits} as d values ($1, $2)
		on conflict (account) do update
		   set amount = d.amount + excluded.amount`
	deposits := projection.New("deposits", options, projection.OnWrite(accounts, nil,
		func(statements *pgx.Batch, e eventstore.Event[AccountEvent]) error {
			if d, ok := e.Data.(Deposited); ok {
				statements.Queue(upsert, e.Stream.Key, d.Amount)
			}
			return nil
		}))

	runner, stop := run(pool, store, deposits)
	defer stop()
	deposit(store, "ada", Deposited{Amount: 5}, Deposited{Amount: 7})
	wait(runner, deposit(store, "bob", Deposited{Amount: 1}))
	query(pool, `select * from deposits order by account`)
	// Output:
	// ada 12
	// bob 1
}

// A transfer changes two rows. The fold is called once for each of them. The key in the row says which account the row
// belongs to.
func ExampleFoldKeys() {
	pool, store, done := connect()
	defer done()

	type transferred struct {
		From, To string
		Amount   int64
	}
	type account struct {
		Number  string `db:"account,key"`
		Balance int64
	}
	transfers := codec.New(codec.Of("transferred", func(t transferred) transferred { return t }))
	options := &projection.Options{DDL: `create table {balances} (account text primary key, balance bigint not null)`}
	balances := projection.NewTable("balances", options, projection.FoldKeys(transfers,
		func(e eventstore.Event[transferred]) []string { return []string{e.Data.From, e.Data.To} },
		func(row *account, e eventstore.Event[transferred]) projection.Op {
			if row.Number == e.Data.From {
				row.Balance -= e.Data.Amount
			}
			if row.Number == e.Data.To {
				row.Balance += e.Data.Amount
			}
			return projection.Put
		}))

	runner, stop := run(pool, store, balances)
	defer stop()
	draft, err := transfers.Encode(transferred{From: "ada", To: "bob", Amount: 5})
	check(err)
	receipt, err := store.Append(context.Background(), eventstore.StreamID{Category: "transfer", Key: "1"}, eventstore.NoStream, draft)
	check(err)
	wait(runner, receipt.Position)
	query(pool, `select * from balances order by account`)
	// Output:
	// ada -5
	// bob 5
}

// The table has one row per branch of the bank, and a branch takes deposits into many accounts. So the branch is the
// key, and not the stream. Four partitions work in parallel, and no two of them ever write the same row.
func ExampleOnKeyed() {
	pool, store, done := connect()
	defer done()
	_, err := pool.Exec(context.Background(), `create table branches (branch text primary key, deposits int not null)`)
	check(err)

	branches := projection.New("branches", &projection.Options{Partitions: 4}, projection.OnKeyed(accounts,
		func(e eventstore.Event[AccountEvent]) string { return e.Data.(Deposited).At },
		func(ctx context.Context, tx pgx.Tx, e eventstore.Event[AccountEvent]) error {
			_, err := tx.Exec(ctx, `
				insert into branches values ($1, 1)
				on conflict (branch) do update set deposits = branches.deposits + 1`,
				e.Data.(Deposited).At)
			return err
		}))

	runner, stop := run(pool, store, branches)
	defer stop()
	deposit(store, "ada", Deposited{5, "Brno"}, Deposited{7, "Praha"})
	wait(runner, deposit(store, "bob", Deposited{1, "Brno"}))
	query(pool, `select * from branches order by branch`)
	// Output:
	// Brno 2
	// Praha 1
}

// With Options.DDL the runner creates the tables, a new set for each version. A table name in braces stands for the
// table of the projection's own version.
func ExampleOptions_tables() {
	pool, store, done := connect()
	defer done()

	options := &projection.Options{
		Version: 2,
		Tables:  []string{"deposits"},
		DDL:     `create table {deposits} (account text not null, amount bigint not null)`,
	}
	deposits := projection.New("deposits", options, projection.On(accounts,
		func(ctx context.Context, tx pgx.Tx, e eventstore.Event[AccountEvent]) error {
			_, err := tx.Exec(ctx, `insert into {deposits} values ($1, $2)`, e.Stream.Key, e.Data.(Deposited).Amount)
			return err
		}))

	runner, stop := run(pool, store, deposits)
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	query(pool, `select * from deposits`) // readers use a view, whose name has no version
	query(pool, `select relname, relkind::text from pg_class where relname like 'deposits%' order by 1`)
	// Output:
	// ada 5
	// deposits v
	// deposits_v2 r
}

// The append updates the read model in its own transaction. A query after the append sees the change and does not have
// to wait.
func ExampleNewInline() {
	pool, store, done := connect()
	defer done()
	balances := balancesTable(1)
	runner, stop := run(pool, store, balances)
	defer stop()

	// Every store that appends must know the projection, in every process.
	inline, err := projection.NewInline("", balances)
	check(err)
	aware, err := eventstore.New(pool, &eventstore.Config{Inline: inline})
	check(err)
	defer aware.Close()
	wait(runner, deposit(aware, "ada", Deposited{Amount: 5})) // before StartInline the runner updates the table

	check(runner.Operator().StartInline(context.Background(), projection.Ref{Name: "balances", Version: projection.Live}))
	deposit(aware, "ada", Deposited{Amount: 7})
	query(pool, `select * from balances`)
	// Output: ada 12
}

// A command's receipt has the position of its last event. A query that must see the command's effect waits for that
// position.
func ExampleRunner_Wait() {
	pool, store, done := connect()
	defer done()
	runner, stop := run(pool, store, balancesTable(1))
	defer stop()

	position := deposit(store, "ada", Deposited{Amount: 5})
	ctx, cancel := context.WithTimeout(context.Background(), exampleTimeout)
	defer cancel()
	if err := runner.Wait(ctx, position, "balances"); err != nil {
		fmt.Println(err) // a WaitError says where the projection is, and why it makes no progress
	}
	query(pool, `select * from balances`)
	// Output: ada 5
}
