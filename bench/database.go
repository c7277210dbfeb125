package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/migrations"
)

const schema = "tidemark_bench"

// connections is the size of a pool.
const connections = 16

// database is an empty store, and beside it a table "plain" of the same shape that the store does not use.
type database struct {
	*eventstore.Store
	meter
	pool  *pgxpool.Pool
	event deposited        // with a payload of 200 bytes
	draft eventstore.Draft // of event

	// How many events were acknowledged. check compares them with the rows of the tables.
	appended, inserted atomic.Int64
}

// database creates a database and calls use with it. Then it checks that no event is missing, and drops the database.
func (b *bench) database(ctx context.Context, use func(*database) error) (err error) {
	pool, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := eventstore.New(pool, &eventstore.Config{Schema: schema})
	if err != nil {
		return err
	}
	defer store.Close()
	event, err := newEvent()
	if err != nil {
		return err
	}
	draft, err := depositing.Encode(event)
	if err != nil {
		return err
	}
	db := &database{Store: store, meter: b.meter, pool: pool, event: event, draft: draft}
	if _, err := db.exec(ctx, `drop schema if exists SCHEMA cascade`); err != nil { // left by a run that was killed
		return err
	}
	defer func() {
		_, dropErr := db.exec(context.WithoutCancel(ctx), `drop schema if exists SCHEMA cascade`)
		err = errors.Join(err, dropErr)
	}()
	if err := migrations.Up(ctx, pool, &migrations.Config{Schema: schema}); err != nil {
		return err
	}
	for _, sql := range []string{
		`create table SCHEMA.plain (like SCHEMA.events including all)`,
		`create sequence SCHEMA.plain_position_seq`,
	} {
		if _, err := db.exec(ctx, sql); err != nil {
			return err
		}
	}
	if err := use(db); err != nil {
		return err
	}
	return errors.Join(db.check(ctx, "events", &db.appended), db.check(ctx, "plain", &db.inserted))
}

// connect opens a pool of its own, as another process would.
func (b *bench) connect(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(b.url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = connections
	return pgxpool.NewWithConfig(ctx, config)
}

// exec runs a statement and returns how many rows it has affected.
func (db *database) exec(ctx context.Context, sql string) (int64, error) {
	tag, err := db.pool.Exec(ctx, in(sql))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", sql, err)
	}
	return tag.RowsAffected(), nil
}

// in puts the name of the schema into a statement.
func in(sql string) string { return strings.ReplaceAll(sql, "SCHEMA", schema) }

// check returns an error unless a table has exactly the acknowledged events, each with 200 bytes.
func (db *database) check(ctx context.Context, table string, answered *atomic.Int64) error {
	var n, whole int64
	row := db.pool.QueryRow(ctx, in(`select count(*), count(*) filter (where length(data::text) = 200) from SCHEMA.`+table))
	if err := row.Scan(&n, &whole); err != nil {
		return err
	}
	if want := answered.Load(); n != want || whole != want {
		return fmt.Errorf("table %s has %d events, %d of them with 200 bytes, want %d", table, n, whole, want)
	}
	return nil
}

// vacuumSQL is what autovacuum does after many inserts.
const vacuumSQL = `vacuum (analyze) SCHEMA.events`

// settle runs a vacuum and a checkpoint now, so that Postgres does not run them during a measurement.
func (db *database) settle(ctx context.Context) error {
	for _, sql := range []string{vacuumSQL, `checkpoint`} {
		if _, err := db.exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

type deposited struct {
	Account string `json:"account"`
	Amount  int64  `json:"amount"`
	Text    string `json:"text"`
}

var depositing = codec.New(
	codec.Of("account.deposited", func(e deposited) deposited { return e }),
)

func newEvent() (deposited, error) {
	event := deposited{Account: "account-000042", Amount: 123456}
	data, err := json.Marshal(event)
	event.Text = strings.Repeat("x", 200-len(data))
	return event, err
}

// newStream returns a stream without events.
func newStream() eventstore.StreamID {
	return eventstore.StreamID{Category: "account", Key: uuid.Must(uuid.NewV7()).String()}
}

func newStreams(n int) []eventstore.StreamID {
	streams := make([]eventstore.StreamID, n)
	for i := range streams {
		streams[i] = newStream()
	}
	return streams
}
