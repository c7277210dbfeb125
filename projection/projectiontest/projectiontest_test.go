package projectiontest_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/projection/projectiontest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// The events of accounts.
type (
	event  interface{ isEvent() }
	opened struct {
		Owner string
		Tags  []string
	}
	deposited struct{ Amount int64 }
	renamed   struct{ Owner string }
	openedV1  struct{ Name string }
)

func (opened) isEvent()    {}
func (deposited) isEvent() {}
func (renamed) isEvent()   {}

var (
	ledger = codec.New(
		codec.Of("opened", func(e openedV1) event { return opened{Owner: e.Name, Tags: []string{"new"}} }),
		codec.Of("opened", func(e opened) event { return e }).WithSchema(2),
		codec.Of("deposited", func(e deposited) event { return e }),
		codec.Of("renamed", func(e renamed) event { return e }),
	)
	ada = eventstore.StreamID{Category: "account", Key: "ada"}
	bob = eventstore.StreamID{Category: "account", Key: "bob"}
	cid = eventstore.StreamID{Category: "account", Key: "cid"}
)

// tagged returns the event that "opened" at schema 1 means too.
func tagged(owner string) opened { return opened{owner, []string{"new"}} }

// history returns the events of three accounts, mixed.
func history() []projectiontest.Event {
	return slices.Concat(
		projectiontest.Events[event](ledger, ada, tagged("Ada")),
		projectiontest.Events[event](ledger, bob, tagged("Bob"), deposited{1}),
		projectiontest.Events[event](ledger, ada, deposited{2}),
		projectiontest.Events[event](ledger, cid, tagged("Cid"), deposited{4}),
		projectiontest.Events[event](ledger, ada, renamed{"Ada L."}, deposited{8}),
		projectiontest.Events[event](ledger, bob, deposited{16}),
		projectiontest.Events[event](ledger, ada, deposited{32}),
	)
}

// old returns the same history as the first release stored it.
func old() []projectiontest.Event {
	events := history()
	for n, e := range events {
		if e.Draft.Type == "opened" {
			owner := map[eventstore.StreamID]string{ada: "Ada", bob: "Bob", cid: "Cid"}[e.Stream]
			events[n] = projectiontest.Event{Stream: e.Stream, Draft: eventstore.Draft{Type: "opened", Schema: 1, Data: fmt.Appendf(nil, `{"Name":%q}`, owner)}}
		}
	}
	return events
}

// account is a row of the read model.
type account struct {
	Account string `db:"account,key"`
	Owner   string
	Balance int64
	Tags    []string
}

const accountsDDL = `create table {accounts} (account text primary key, owner text not null, balance bigint not null,
	tags text[] not null default '{}')`

// accounts reads the read model.
func accounts(ctx context.Context, pool *pgxpool.Pool) (any, error) {
	rows, _ := pool.Query(ctx, `select account, owner, balance, tags from accounts order by account`)
	return pgx.CollectRows(rows, pgx.RowToStructByPos[account])
}

func options(o projection.Options) *projection.Options {
	o.Tables, o.DDL = []string{"accounts"}, accountsDDL
	return &o
}

func key(e eventstore.Event[event]) string { return e.Stream.Key }

// fold is a correct fold.
func fold(row *account, e eventstore.Event[event]) projection.Op {
	switch data := e.Data.(type) {
	case opened:
		row.Owner, row.Tags = data.Owner, slices.Clone(data.Tags)
	case deposited:
		row.Balance += data.Amount
	case renamed:
		row.Owner = data.Owner
	}
	return projection.Put
}

// handle is a correct handler.
func handle(ctx context.Context, tx pgx.Tx, e eventstore.Event[event]) error {
	var err error
	switch data := e.Data.(type) {
	case opened:
		_, err = tx.Exec(ctx, `insert into {accounts} (account, owner, balance, tags) values ($1, $2, 0, $3)`, e.Stream.Key, data.Owner, data.Tags)
	case deposited:
		_, err = tx.Exec(ctx, `update {accounts} set balance = balance + $2 where account = $1`, e.Stream.Key, data.Amount)
	case renamed:
		_, err = tx.Exec(ctx, `update {accounts} set owner = $2 where account = $1`, e.Stream.Key, data.Owner)
	}
	return err
}

// config returns a configuration with which Check passes if the projection is correct.
func config(p func(*pgxpool.Pool, projection.Options) *projection.Projection) projectiontest.Config {
	return projectiontest.Config{
		Database:   pgtest.Pool,
		Projection: p,
		ReadModel:  accounts,
		Events:     history(),
		Old:        [][]projectiontest.Event{old()},
	}
}

func ofTable(fold func(*account, eventstore.Event[event]) projection.Op) func(*pgxpool.Pool, projection.Options) *projection.Projection {
	return func(_ *pgxpool.Pool, o projection.Options) *projection.Projection {
		return projection.NewTable("accounts", options(o), projection.Fold(ledger, key, fold))
	}
}

func ofHandler(handler projection.Handler[event]) func(*pgxpool.Pool, projection.Options) *projection.Projection {
	return func(_ *pgxpool.Pool, o projection.Options) *projection.Projection {
		return projection.New("accounts", options(o), projection.On(ledger, handler))
	}
}

// recorder is a test that records its failures.
type recorder struct {
	testing.TB

	mu     sync.Mutex
	errors []string
	logs   []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

func (r *recorder) Logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs = append(r.logs, fmt.Sprintf(format, args...))
}

// record calls a function with a recorder, and returns the recorder.
func record(t *testing.T, do func(testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(r)
	}()
	<-done
	return r
}

func TestCheckPasses(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]func(*pgxpool.Pool, projection.Options) *projection.Projection{
		"table":   ofTable(fold),
		"handler": ofHandler(handle),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made := 0
			r := record(t, func(t testing.TB) {
				projectiontest.Check(t, config(func(pool *pgxpool.Pool, o projection.Options) *projection.Projection {
					made++
					return p(pool, o)
				}))
			})
			// A process for each run, and one more for each crash: at each of 10 commits, before and after it.
			if made < 30+2*10 {
				t.Errorf("there were only %d processes", made)
			}
			if len(r.errors)+len(r.logs) > 0 {
				t.Errorf("a right projection is reported:\n%s", strings.Join(append(r.errors, r.logs...), "\n"))
			}
		})
	}
}

// inTx returns an effect that does something in a transaction of its own.
func inTx(pool *pgxpool.Pool, do func(context.Context, pgx.Tx, eventstore.Event[event]) error) func(context.Context, eventstore.Event[event]) error {
	return func(ctx context.Context, e eventstore.Event[event]) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return do(ctx, tx, e) })
	}
}

func greet(ctx context.Context, tx pgx.Tx, e eventstore.Event[event]) error {
	_, err := tx.Exec(ctx, `insert into greetings values ($1, $2)`, e.Stream.Key, e.Type)
	return err
}

// greeted returns a configuration for the Check of a subscription.
func greeted(p func(*pgxpool.Pool, projection.Options) *projection.Projection) projectiontest.Config {
	c := config(p)
	c.Database = func(t testing.TB) *pgxpool.Pool {
		pool := pgtest.Pool(t)
		if _, err := pool.Exec(t.Context(), `create table greetings (account text, type text)`); err != nil {
			t.Fatal(err)
		}
		return pool
	}
	c.ReadModel = func(ctx context.Context, pool *pgxpool.Pool) (any, error) {
		rows, _ := pool.Query(ctx, `select account || ' ' || type from greetings order by 1`)
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	return c
}

func TestCheckPassesForSubscription(t *testing.T) {
	t.Parallel()
	c := greeted(func(pool *pgxpool.Pool, o projection.Options) *projection.Projection {
		return projection.NewSubscription("greeter", &projection.Options{Partitions: o.Partitions},
			projection.Effect(ledger, inTx(pool, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[event]) error {
				if first, err := projection.Once(ctx, tx, "greet"); err != nil || !first {
					return err
				}
				return greet(ctx, tx, e)
			})))
	})
	r := record(t, func(t testing.TB) { projectiontest.Check(t, c) })
	if len(r.errors) > 0 {
		t.Errorf("a right subscription is reported:\n%s", strings.Join(r.errors, "\n"))
	}
	if len(r.logs) != 1 || !strings.Contains(r.logs[0], "Version") {
		t.Errorf("the log is %q, want that it was not built anew", r.logs)
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	p := ofTable(fold)(nil, projection.Options{})
	for n := range 2 { // the second run continues after the first
		projectiontest.Run(t, pool, p, projectiontest.Events[event](ledger, ada, tagged("Ada"), deposited{int64(1 + n)})...)
	}
	projectiontest.Run(t, pool, p)
	got, err := accounts(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	if all := got.([]account); len(all) != 1 || all[0].Balance != 3 {
		t.Errorf("the read model is %+v, want one account with 3", all)
	}
}

// TestRunFails: an event that cannot be handled fails the test, and so does a projection that stops.
func TestRunFails(t *testing.T) {
	t.Parallel()
	type other struct{ event }
	for name, test := range map[string]struct {
		fail   error
		events []projectiontest.Event
		want   string
	}{
		"dead letter": {errors.New("no idea"), projectiontest.Events[event](ledger, ada, tagged("Ada"), deposited{1}), "no idea"},
		"stopped":     {projection.Fatal(errors.New("no use")), projectiontest.Events[event](ledger, ada, deposited{1}), "no use"},
		"encoding":    {nil, projectiontest.Events[event](ledger, ada, other{}), "is not in the codec"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Pool(t)
			p := ofHandler(func(context.Context, pgx.Tx, eventstore.Event[event]) error { return test.fail })(nil, projection.Options{})
			r := record(t, func(t testing.TB) { projectiontest.Run(t, pool, p, test.events...) })
			if len(r.errors) != 1 || !strings.Contains(r.errors[0], test.want) {
				t.Errorf("reported are %q, want one with %q", r.errors, test.want)
			}
		})
	}
}

// TestRunFromNow: a subscription that begins at the end of the log gets the events that are given.
func TestRunFromNow(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	projectiontest.Run(t, pool, ofTable(fold)(nil, projection.Options{}), projectiontest.Events[event](ledger, ada, tagged("Ada"))...)
	var got []string
	p := projection.NewSubscription("new", &projection.Options{FromNow: true},
		projection.Effect(ledger, func(_ context.Context, e eventstore.Event[event]) error {
			got = append(got, e.Stream.Key)
			return nil
		}))
	projectiontest.Run(t, pool, p, projectiontest.Events[event](ledger, bob, tagged("Bob"))...)
	if !slices.Equal(got, []string{"bob"}) {
		t.Errorf("it was given the events of %q, want that of bob", got)
	}
}

// TestDatabases: each database is prepared, empty, and gone after its test.
func TestDatabases(t *testing.T) {
	t.Parallel()
	server := pgtest.Pool(t)
	prepared := 0
	databases := projectiontest.Databases(t, server, func(ctx context.Context, pool *pgxpool.Pool) error {
		prepared++
		_, err := pool.Exec(ctx, `create table mine (n int)`)
		return err
	})
	names := make(map[string]bool)
	for range 2 {
		t.Run("use", func(t *testing.T) {
			pool := databases(t)
			var name string
			var rows int
			if err := pool.QueryRow(t.Context(), `select current_database(), (select count(*) from mine)`).Scan(&name, &rows); err != nil {
				t.Fatal(err)
			}
			if _, err := pool.Exec(t.Context(), `insert into mine values (1)`); err != nil {
				t.Fatal(err)
			}
			if names[name] || rows != 0 {
				t.Errorf("database %s was used before, or has %d rows", name, rows)
			}
			names[name] = true
			projectiontest.Run(t, pool, ofTable(fold)(nil, projection.Options{}), history()...)
		})
	}
	left := 0
	if err := server.QueryRow(t.Context(), `select count(*) from pg_database where datname = any ($1)`,
		slices.Collect(maps.Keys(names))).Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 0 || prepared != 1 {
		t.Errorf("%d databases are left, and prepare was called %d times, want 0 and 1", left, prepared)
	}
}
