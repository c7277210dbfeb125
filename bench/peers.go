package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/tidemark-es/tidemark/eventstore"
)

// peer is a library that a Go team could use to store one thing per call. All peers get the same payload and use the
// same pool.
type peer struct {
	name  string
	table string // has a row for each call; in the schema of the benchmark
	open  func(context.Context, *database) (write, error)
}

// The peers guarantee less than Append does. Append checks the version of a stream, notifies followers, and keeps the log
// in an order in which no follower misses an event.
//
//   - river stores a job in a transaction of its own, and notifies the workers of a queue, at most some times a second.
//     There is no version, and workers do not get the jobs in an exact order. Jobs can be unique; these are not.
//   - watermill-sql inserts a message with the id of its transaction. Subscribers poll in the order of these ids, and
//     miss no message. There is no version, and a message can be stored twice. The table has one index.
//   - INSERT, the reference, has the columns and indexes of the table of events, so a unique index checks the version.
//     Its order is that of a sequence, in which a follower can miss an event that is committed late.
var peers = []peer{
	{"Tidemark Append", "events", func(_ context.Context, db *database) (write, error) { return db.append(1), nil }},
	{"river Insert", "river_job", openRiver},
	{"watermill Publish", "watermill", openWatermill},
}

// Kind makes the event a job of river.
func (deposited) Kind() string { return "account.deposited" }

func openRiver(ctx context.Context, db *database) (write, error) {
	driver := riverpgxv5.New(db.pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Schema: schema})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	client, err := river.NewClient(driver, &river.Config{Schema: schema}) // without workers: it only inserts
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ eventstore.StreamID, _ eventstore.Version) (int, error) {
		_, err := client.Insert(ctx, db.event, nil)
		return 1, err
	}, nil
}

func openWatermill(ctx context.Context, db *database) (write, error) {
	const topic = "deposited"
	adapter := watermillsql.DefaultPostgreSQLSchema{
		GenerateMessagesTableName: func(string) string { return schema + ".watermill" },
	}
	queries, err := adapter.SchemaInitializingQueries(watermillsql.SchemaInitializingQueriesParams{Topic: topic})
	if err != nil {
		return nil, err
	}
	for _, query := range queries {
		if _, err := db.pool.Exec(ctx, query.Query, query.Args...); err != nil {
			return nil, err
		}
	}
	config := watermillsql.PublisherConfig{SchemaAdapter: adapter}
	publisher, err := watermillsql.NewPublisher(watermillsql.BeginnerFromPgx(db.pool), config, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ eventstore.StreamID, _ eventstore.Version) (int, error) {
		payload, err := json.Marshal(db.event)
		if err != nil {
			return 0, err
		}
		return 1, publisher.Publish(topic, message.NewMessageWithContext(ctx, watermill.NewUUID(), payload))
	}, nil
}

func (b *bench) peers(ctx context.Context) error {
	b.section("Peers", "One event, job or message per call, with the same payload, over the same pool of "+fmt.Sprint(connections)+" connections. "+
		"The reference is one-row INSERT, as in Append. Neither river nor watermill-sql checks a version: peers.go says what each of them guarantees.",
		append([]string{"peer", "writers"}, columns("INSERT")...)...)
	for _, p := range peers {
		if err := b.database(ctx, func(db *database) error { return b.peer(ctx, db, p) }); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// peer compares a peer with INSERT, and returns an error unless the peer has stored a row for each call.
func (b *bench) peer(ctx context.Context, db *database, p peer) error {
	store, err := p.open(ctx, db)
	if err != nil {
		return err
	}
	var stored atomic.Int64
	counted := func(ctx context.Context, stream eventstore.StreamID, after eventstore.Version) (int, error) {
		n, err := store(ctx, stream, after)
		if err == nil {
			stored.Add(int64(n))
		}
		return n, err
	}
	for _, writers := range []int{1, 16, 256} {
		c, err := compare(ctx, b.duration(), db.by(writers, db.insert()), db.by(writers, counted))
		if err != nil {
			return fmt.Errorf("%d writers: %w", writers, err)
		}
		b.row(append([]string{p.name, whole(writers)}, c.cells()...)...)
	}
	var rows int
	err = db.pool.QueryRow(ctx, in(`select count(*) from SCHEMA.`+p.table)).Scan(&rows)
	return expect("stored", rows, int(stored.Load()), err)
}
