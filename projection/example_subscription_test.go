package projection_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// A subscription calls effects outside the database. An effect is called at least once for each event.
func ExampleNewSubscription() {
	pool, store, done := connect()
	defer done()

	mails := projection.NewSubscription("mails", &projection.Options{FromNow: true}, projection.Effect(accounts,
		func(ctx context.Context, e eventstore.Event[AccountEvent]) error {
			// Send the id of the event too: the receiver recognises a repeat by it.
			fmt.Println("mail to", e.Stream.Key, "about", e.Data.(Deposited).Amount, "with an id:", e.ID.Version())
			return nil
		}))

	deposit(store, "ada", Deposited{Amount: 1}) // older than the subscription: FromNow leaves it out
	runner, stop := run(pool, store, mails)
	defer stop()
	wait(runner, 1) // now the subscription exists
	deposit(store, "ada", Deposited{Amount: 5})
	wait(runner, deposit(store, "bob", Deposited{Amount: 7}))
	// Output:
	// mail to ada about 5 with an id: VERSION_7
	// mail to bob about 7 with an id: VERSION_7
}

// Once makes the writes of an effect to the same database happen exactly once, even if the effect is called more often.
func ExampleOnce() {
	pool, store, done := connect()
	defer done()
	ctx := context.Background()
	_, err := pool.Exec(ctx, `create table outgoing (recipient text, amount bigint)`)
	check(err)

	calls := 0
	mails := projection.NewSubscription("mails", nil, projection.Effect(accounts,
		func(ctx context.Context, e eventstore.Event[AccountEvent]) error {
			calls++
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				first, err := projection.Once(ctx, tx, "receipt")
				if err != nil || !first {
					return err
				}
				_, err = tx.Exec(ctx, `insert into outgoing values ($1, $2)`, e.Stream.Key, e.Data.(Deposited).Amount)
				return err
			})
		}))

	runner, stop := run(pool, store, mails)
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}))
	stop()

	check(runner.Operator().Reset(ctx, projection.Ref{Name: "mails", Version: 1}, 0)) // handle all events again
	again, stop := run(pool, store, mails)
	wait(again, deposit(store, "bob", Deposited{Amount: 7}))
	stop()
	fmt.Println(calls, "calls")
	query(pool, `select * from outgoing order by recipient`)
	// Output:
	// 3 calls
	// ada 5
	// bob 7
}

// Subscribe is for things that concern only this process, such as its cache. Every process gets every event that is
// stored from now on. There is no checkpoint.
func ExampleRunner_Subscribe() {
	pool, store, done := connect()
	defer done()
	runner, stop := run(pool, store)
	defer stop()

	heard := make(chan string)
	unsubscribe, err := runner.Subscribe(context.Background(), projection.Effect(accounts,
		func(ctx context.Context, e eventstore.Event[AccountEvent]) error {
			heard <- fmt.Sprint(e.Stream.Key, " has got ", e.Data.(Deposited).Amount)
			return nil
		}))
	check(err)
	deposit(store, "ada", Deposited{Amount: 5})
	fmt.Println(<-heard)

	unsubscribe()
	deposit(store, "ada", Deposited{Amount: 7}) // the effect is not called any more
	// Output: ada has got 5
}

// EffectAll calls an effect for events of all types. It gets them as they are stored, without decoding.
func ExampleEffectAll() {
	pool, store, done := connect()
	defer done()
	runner, stop := run(pool, store)
	defer stop()

	heard := make(chan string)
	unsubscribe, err := runner.Subscribe(context.Background(), projection.EffectAll(
		func(ctx context.Context, e eventstore.Raw) error {
			heard <- fmt.Sprintf("%s of %s: %s", e.Type, e.Stream, e.Data)
			return nil
		}))
	check(err)
	defer unsubscribe()
	deposit(store, "ada", Deposited{5, "Brno"})
	fmt.Println(<-heard)
	// Output: account.deposited of account-ada: {"amount":5,"at":"Brno"}
}

// EffectBatch publishes a whole batch in one call. A process may have lost the partition and not have noticed. A broker
// that gets the batch's Token can refuse such a process. BatchItemError says which event could not be published.
func ExampleEffectBatch() {
	pool, store, done := connect()
	defer done()

	publish := func(_ context.Context, b projection.Batch) error {
		for n, item := range b.Items {
			if item.Value == "" {
				return &projection.BatchItemError{Item: n, Err: errors.New("there is nothing to publish")}
			}
			fmt.Println(item.Key, item.Value)
		}
		return nil
	}
	message := func(e eventstore.Event[AccountEvent]) (any, error) {
		return fmt.Sprint("deposit of ", e.Data.(Deposited).Amount), nil
	}
	relay := projection.NewSubscription("relay", nil, projection.EffectBatch(publish, projection.Each(accounts, nil, message)))

	runner, stop := run(pool, store, relay)
	defer stop()
	wait(runner, deposit(store, "ada", Deposited{Amount: 5}, Deposited{Amount: 7}))
	// Output:
	// account-ada deposit of 5
	// account-ada deposit of 7
}
