package bench_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/localpg"
	"github.com/tidemark-es/tidemark/migrations"
)

// serverURL is that of the one server that everything is measured on.
var serverURL string

func TestMain(m *testing.M) {
	server, err := localpg.Start(context.Background(), &localpg.Config{Durable: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	serverURL = server.URL()
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// database is a store in a schema of its own, beside a table of the same shape, "plain", that
// has nothing to do with it.
type database struct {
	*eventstore.Store
	pool   *pgxpool.Pool // of 16 connections
	schema string
}

// open takes a schema that is gone when the test ends.
func open(tb testing.TB, schema string) database {
	tb.Helper()
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(serverURL)
	if err != nil {
		tb.Fatal(err)
	}
	config.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	store, err := eventstore.New(pool, &eventstore.Config{Schema: schema})
	if err != nil {
		tb.Fatal(err)
	}
	db := database{store, pool, schema}
	db.exec(tb, `drop schema if exists SCHEMA cascade`) // of a run that was killed
	tb.Cleanup(func() { db.exec(tb, `drop schema SCHEMA cascade`) })
	if err := migrations.Up(ctx, pool, &migrations.Config{Schema: schema}); err != nil {
		tb.Fatal(err)
	}
	db.exec(tb, `create table SCHEMA.plain (like SCHEMA.events including all)`)
	db.exec(tb, `create sequence SCHEMA.plain_position_seq`)
	return db
}

// sql puts the schema in.
func (db database) sql(sql string) string { return strings.ReplaceAll(sql, "SCHEMA", db.schema) }

// exec runs a statement and returns how many rows it was about.
func (db database) exec(tb testing.TB, sql string) int {
	tb.Helper()
	tag, err := db.pool.Exec(context.Background(), db.sql(sql))
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return int(tag.RowsAffected())
}

type deposited struct {
	Account string `json:"account"`
	Amount  int64  `json:"amount"`
	Text    string `json:"text"`
}

var codec = eventstore.NewCodec(
	eventstore.TypeOf("account.deposited", func(e deposited) deposited { return e }),
)

// newDraft returns an event with a payload of 200 bytes.
func newDraft(tb testing.TB) eventstore.Draft {
	tb.Helper()
	event := deposited{Account: "account-000042", Amount: 123456}
	data, err := json.Marshal(event)
	if err != nil {
		tb.Fatal(err)
	}
	event.Text = strings.Repeat("x", 200-len(data))
	draft, err := codec.Encode(event)
	if err != nil {
		tb.Fatal(err)
	}
	return draft
}

// compare measures b.N operations in turns with as many of a reference, so that whatever else
// the machine does slows down both. It reports the events per second of each and their ratio; an
// operation is about so many events.
func compare(b *testing.B, events int, name string, reference, measured func(n int)) {
	b.StopTimer()
	var spent time.Duration
	for n, left := 0, b.N; left > 0; left -= n {
		n = min(left, (b.N+9)/10) // ten turns each
		start := time.Now()
		reference(n)
		spent += time.Since(start)
		b.StartTimer()
		measured(n)
		b.StopTimer()
	}
	rate := func(d time.Duration) float64 { return float64(b.N*events) / d.Seconds() }
	b.ReportMetric(0, "ns/op") // not shown
	b.ReportMetric(rate(b.Elapsed()), "events/s")
	b.ReportMetric(rate(spent), name+"/s")
	b.ReportMetric(rate(b.Elapsed())/rate(spent), "x-"+name)
}
