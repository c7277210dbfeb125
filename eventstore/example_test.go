package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// AccountEvent is the domain type: only the events of an account implement it.
type AccountEvent interface{ accountEvent() }

type Opened struct {
	Owner    string `json:"owner"`
	Currency string `json:"currency"`
}

type Deposited struct {
	Amount int64 `json:"amount"`
}

// openedV1 is the shape that "account.opened" had before accounts had currencies.
type openedV1 struct {
	Owner string `json:"owner"`
}

func (Opened) accountEvent()    {}
func (Deposited) accountEvent() {}

// accounts is the codec of the domain. The order of its types does not matter.
var accounts = codec.New(
	codec.Of("account.opened", func(e openedV1) AccountEvent { return Opened{Owner: e.Owner, Currency: "CZK"} }),
	codec.Of("account.opened", func(e Opened) AccountEvent { return e }).WithSchema(2),
	codec.Of("account.deposited", func(e Deposited) AccountEvent { return e }),
)

// account returns the stream of an account.
func account(number string) eventstore.StreamID {
	return eventstore.StreamID{Category: "account", Key: number}
}

// encode returns events as drafts, and ends the program when one of them is not in the codec.
func encode(events ...AccountEvent) []eventstore.Draft {
	drafts := make([]eventstore.Draft, len(events))
	for i, event := range events {
		var err error
		if drafts[i], err = accounts.Encode(event); err != nil {
			log.Fatal(err)
		}
	}
	return drafts
}

// A store needs a pool and a database that has been migrated.
func ExampleNew() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := eventstore.New(pool, nil)
	if err != nil {
		log.Fatal(err)
	}

	receipt, err := store.Append(ctx, account("42"), eventstore.NoStream, encode(Opened{"Ada", "CZK"})...)
	if errors.Is(err, eventstore.ErrNotMigrated) {
		log.Fatal("call migrations.Up first")
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("stored at position", receipt.Position)
}

// Events and the application's own rows are stored together, or neither of them.
func ExampleStore_WithTx() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := eventstore.New(pool, nil)
	if err != nil {
		log.Fatal(err)
	}

	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into numbers (number) values ($1)`, "42"); err != nil {
			return err
		}
		// The append comes last, because readers of the log wait for an open append.
		_, err := store.WithTx(tx).Append(ctx, account("42"), eventstore.NoStream, encode(Opened{"Ada", "CZK"})...)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
}

// Append to a stream, read it back and decode the events.
func ExampleStore_Append() {
	ctx := context.Background()
	store := eventstoretest.NewMemory() // or eventstore.New

	receipt, err := store.Append(ctx, account("42"), eventstore.NoStream, encode(Opened{"Ada", "CZK"}, Deposited{100})...)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("at version", receipt.Version)

	for raw, err := range store.Read(ctx, account("42"), eventstore.ReadOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		events, err := accounts.Decode(raw)
		if err != nil {
			log.Fatal(err)
		}
		for _, event := range events { // one, unless it was split or retired
			switch e := event.Data.(type) {
			case Opened:
				fmt.Println(event.Version, "opened for", e.Owner)
			case Deposited:
				fmt.Println(event.Version, "deposited", e.Amount)
			}
		}
	}
	// Output:
	// at version 2
	// 1 opened for Ada
	// 2 deposited 100
}

// Two callers decide on the same version. One of them appends, and the other gets a conflict.
func ExampleConflictError() {
	ctx := context.Background()
	store := eventstoretest.NewMemory()
	if _, err := store.Append(ctx, account("42"), eventstore.NoStream, encode(Opened{"Ada", "CZK"})...); err != nil {
		log.Fatal(err)
	}
	for _, who := range []string{"first", "second"} {
		_, err := store.Append(ctx, account("42"), 1, encode(Deposited{100})...)
		var conflict *eventstore.ConflictError
		if errors.As(err, &conflict) {
			fmt.Printf("%s: expected version %s, but it is %s: read again\n", who, conflict.Expected, conflict.Actual)
			continue
		}
		fmt.Printf("%s: %v\n", who, err)
	}
	// Output:
	// first: <nil>
	// second: expected version 1, but it is 2: read again
}

// A commit changes several streams, all of them or none.
func ExampleStore_Commit() {
	ctx := context.Background()
	store := eventstoretest.NewMemory()
	transfer := func(amount int64) error {
		_, err := store.Commit(ctx,
			eventstore.Change{Stream: account("1"), Expected: eventstore.Any, Events: encode(Deposited{-amount})},
			eventstore.Change{Stream: account("2"), Expected: eventstore.Exists, Events: encode(Deposited{amount})},
		)
		return err
	}
	if err := transfer(30); errors.Is(err, eventstore.ErrConflict) {
		fmt.Println("nothing stored: account 2 does not exist")
	}
	if _, err := store.Append(ctx, account("2"), eventstore.NoStream, encode(Opened{"Grace", "CZK"})...); err != nil {
		log.Fatal(err)
	}
	if err := transfer(30); err != nil {
		log.Fatal(err)
	}

	for event, err := range store.ReadAll(ctx, 0, eventstore.Filter{Types: []string{"account.deposited"}}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Stream, string(event.Data))
	}
	// Output:
	// nothing stored: account 2 does not exist
	// account-1 {"amount":-30}
	// account-2 {"amount":30}
}

// A follower reads the stored events and then every new event, until its context is done or its loop ends.
func ExampleStore_Follow() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	store := eventstoretest.NewMemory()
	if _, err := store.Append(ctx, account("42"), eventstore.NoStream, encode(Opened{"Ada", "CZK"})...); err != nil {
		log.Fatal(err)
	}

	for event, err := range store.Follow(ctx, 0, eventstore.Filter{Categories: []string{"account"}}) {
		if errors.Is(err, context.Canceled) {
			fmt.Println("stopped")
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Version, event.Type)
		if event.Version == 3 {
			cancel()
			continue
		}
		if _, err := store.Append(ctx, event.Stream, event.Version, encode(Deposited{10})...); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 1 account.opened
	// 2 account.deposited
	// 3 account.deposited
	// stopped
}

// A request that arrives twice is carried out once. The answer is the same.
func ExampleWithKey() {
	store := eventstoretest.NewMemory()
	deposit := func(key, body string) {
		ctx := eventstore.WithKey(context.Background(), key, []byte(body))
		receipt, err := store.Append(ctx, account("42"), eventstore.Any, encode(Deposited{100})...)
		if errors.Is(err, eventstore.ErrKeyReused) {
			fmt.Println("refused:", err)
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("at version", receipt.Version)
	}
	deposit("request-1", `{"amount":100}`)
	deposit("request-1", `{"amount":100}`)
	deposit("request-2", `{"amount":100}`)
	deposit("request-1", `{"amount":999}`)
	// Output:
	// at version 1
	// at version 1
	// at version 2
	// refused: idempotency key "request-1" was used before for something else
}

// The context carries the actor and the cause from the edge of the program to the event.
func ExampleWithMetadata() {
	store := eventstoretest.NewMemory()
	ctx := eventstore.WithMetadata(context.Background(), eventstore.Metadata{Actor: "ada", CorrelationID: "request-7"})
	ctx = eventstore.WithMetadata(ctx, eventstore.Metadata{CausationID: "command-9"}) // adds to it

	drafts := encode(Deposited{100}, Deposited{1})
	drafts[1].Metadata.Actor = "interest" // a draft's own metadata comes first
	if _, err := store.Append(ctx, account("42"), eventstore.Any, drafts...); err != nil {
		log.Fatal(err)
	}
	for event, err := range store.Read(ctx, account("42"), eventstore.ReadOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Metadata.Actor, event.Metadata.CorrelationID, event.Metadata.CausationID)
	}
	// Output:
	// ada request-7 command-9
	// interest request-7 command-9
}
