package eventstore_test

import (
	"context"
	"fmt"
	"iter"
	"log"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// threeDeposits returns a store in which an account was opened and got three deposits.
func threeDeposits(ctx context.Context) *eventstoretest.Memory {
	store := eventstoretest.NewMemory() // or eventstore.New
	for version, event := range encode(Opened{"Ada", "CZK"}, Deposited{10}, Deposited{20}, Deposited{30}) {
		if _, err := store.Append(ctx, account("42"), eventstore.Version(version), event); err != nil {
			log.Fatal(err)
		}
	}
	return store
}

func show(events iter.Seq2[eventstore.Raw, error]) {
	for event, err := range events {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Stream, event.Version, event.Type, string(event.Data))
	}
}

// The latest two events of a stream, the last one first.
func ExampleStore_Read_backwards() {
	ctx := context.Background()
	store := threeDeposits(ctx)
	show(store.Read(ctx, account("42"), eventstore.ReadOptions{Backwards: true, Limit: 2}))
	// Output:
	// account-42 4 account.deposited {"amount":30}
	// account-42 3 account.deposited {"amount":20}
}

// Part of a stream: after one version, up to another.
func ExampleStore_Read_versions() {
	ctx := context.Background()
	store := threeDeposits(ctx)
	show(store.Read(ctx, account("42"), eventstore.ReadOptions{After: 1, To: 3}))
	// Output:
	// account-42 2 account.deposited {"amount":10}
	// account-42 3 account.deposited {"amount":20}
}

// A stream as it was at some time. An hour ago this stream had no events.
func ExampleStore_Read_asOf() {
	ctx := context.Background()
	store := threeDeposits(ctx)
	now, before := 0, 0
	for range store.Read(ctx, account("42"), eventstore.ReadOptions{AsOf: time.Now()}) {
		now++
	}
	for range store.Read(ctx, account("42"), eventstore.ReadOptions{AsOf: time.Now().Add(-time.Hour)}) {
		before++
	}
	fmt.Println(now, before)
	// Output: 4 0
}

// The latest events in all streams of a category, the last event first.
func ExampleStore_ReadAllBackwards() {
	ctx := context.Background()
	store := threeDeposits(ctx)
	for event, err := range store.ReadAllBackwards(ctx, 0, eventstore.Filter{Categories: []string{"account"}}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Stream, event.Version)
		if event.Version == 3 {
			break
		}
	}
	// Output:
	// account-42 4
	// account-42 3
}

// Streams by name, two at a time. Each page starts after the last stream of the page before.
func ExampleStore_Streams() {
	ctx := context.Background()
	store := eventstoretest.NewMemory()
	for _, number := range []string{"7", "1", "4"} {
		if _, err := store.Append(ctx, account(number), eventstore.NoStream, encode(Opened{"Ada", "CZK"})...); err != nil {
			log.Fatal(err)
		}
	}
	var after eventstore.StreamID
	for {
		page, err := store.Streams(ctx, "account-", after, 2)
		if err != nil {
			log.Fatal(err)
		}
		if len(page) == 0 {
			return
		}
		for _, info := range page {
			fmt.Println(info.Stream)
		}
		fmt.Println("-")
		after = page[len(page)-1].Stream
	}
	// Output:
	// account-1
	// account-4
	// -
	// account-7
	// -
}

// Streams by activity: the stream with the latest event comes first.
func ExampleStore_RecentStreams() {
	ctx := context.Background()
	store := eventstoretest.NewMemory()
	for _, number := range []string{"1", "2", "3", "1"} {
		if _, err := store.Append(ctx, account(number), eventstore.Any, encode(Deposited{10})...); err != nil {
			log.Fatal(err)
		}
	}
	page, err := store.RecentStreams(ctx, "account-", 0, 10)
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range page {
		fmt.Println(info.Stream, "is at version", info.Version)
	}
	// Output:
	// account-1 is at version 2
	// account-3 is at version 1
	// account-2 is at version 1
}

// The version of a stream, and the times of its first and its last event, without reading it.
func ExampleStore_Stat() {
	ctx := context.Background()
	store := threeDeposits(ctx)
	info, err := store.Stat(ctx, account("42"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Version, info.FirstAt.IsZero(), info.LastAt.Before(info.FirstAt))
	info, err = store.Stat(ctx, account("none"))
	fmt.Println(info.Version == eventstore.NoStream, err)
	// Output:
	// 4 false false
	// true <nil>
}

// The events that one request led to, in all streams. WithCause passes the origin of an event on to the events that it
// causes. A projection calls WithCause for its handlers.
func ExampleWithCause() {
	store := eventstoretest.NewMemory()
	ctx := eventstore.WithMetadata(context.Background(), eventstore.Metadata{CorrelationID: "request-7", Actor: "ada"})
	if _, err := store.Append(ctx, account("1"), eventstore.NoStream, encode(Deposited{100})...); err != nil {
		log.Fatal(err)
	}
	for deposit, err := range store.Follow(context.Background(), 0, eventstore.Filter{}) {
		if err != nil {
			log.Fatal(err)
		}
		ctx := eventstore.WithCause(context.Background(), deposit)
		if _, err := store.Append(ctx, account("fees"), eventstore.Any, encode(Deposited{1})...); err != nil {
			log.Fatal(err)
		}
		break
	}
	var cause string
	for event, err := range store.Correlated(ctx, "request-7") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Stream, event.Metadata.Actor, event.Metadata.CausationID == cause)
		cause = event.ID.String()
	}
	// Output:
	// account-1 ada true
	// account-fees ada true
}

// A store behind a pooler in transaction mode, such as PgBouncer. Its statements do not belong to a session, and its
// followers poll.
func ExampleConfig_pollOnly() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL")+"&default_query_exec_mode=exec")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := eventstore.New(pool, &eventstore.Config{PollOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	show(store.Follow(ctx, 0, eventstore.Filter{Streams: []eventstore.StreamID{account("42")}}))
}

// The causes of an event, and its effects.
func ExampleStore_Why() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	store, err := eventstore.New(pool, &eventstore.Config{Service: "bank"})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	if _, err := store.Append(ctx, account("1"), eventstore.Any, encode(Deposited{100})...); err != nil {
		log.Fatal(err)
	}
	var last eventstore.Raw
	for deposit, err := range store.ReadAll(ctx, 0, eventstore.Filter{}) {
		if err != nil {
			log.Fatal(err)
		}
		last = deposit
	}
	if _, err := store.Append(eventstore.WithCause(ctx, last), account("fees"), eventstore.Any, encode(Deposited{1})...); err != nil {
		log.Fatal(err)
	}
	why, err := store.Why(ctx, last.ID)
	if err != nil {
		log.Fatal(err)
	}
	for _, effect := range why.Effects {
		fmt.Println(why.Event.Stream, "led to", effect.Event.Stream, "by", effect.Event.Metadata.Source)
	}
}
