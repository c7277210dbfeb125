package projection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

// sum is a row that counts events and adds up their numbers.
type sum struct {
	Key    string `db:"key,key"`
	Events int64
	Total  int64
}

const sumDDL = `create table {%s} (key text primary key, events bigint not null, total bigint not null)`

// sums returns a table with a row per key of the function. Negative numbers cannot be folded.
func sums(name string, options projection.Options, key func(eventstore.Event[counted]) string) *projection.Projection {
	options.DDL = fmt.Sprintf(sumDDL, name)
	return projection.NewTable(name, &options, projection.Fold(counting, key, func(row *sum, e eventstore.Event[counted]) projection.Op {
		if e.Data.N < 0 {
			return projection.Fail(errors.New("it is negative"))
		}
		row.Events++
		row.Total += int64(e.Data.N)
		return projection.Put
	}))
}

func byStream(e eventstore.Event[counted]) string { return e.Stream.Key }

// inlined is a database with projections that appends can keep inline.
type inlined struct {
	*fixture
	schema string
	runner *projection.Runner
	inline *projection.Inline
	aware  *eventstore.Store
}

// setupInline starts three projections and a store that knows them. Two are tables, and one has a handler.
func setupInline(t *testing.T) *inlined { return setupInlineIn(t, "") }

func setupInlineIn(t *testing.T, schema string) *inlined {
	f := &inlined{fixture: setup(t), schema: schema}
	if schema != "" && schema != migrations.DefaultSchema {
		if err := migrations.Up(t.Context(), f.pool, &migrations.Config{Schema: schema}); err != nil {
			t.Fatal(err)
		}
		f.store = f.newStore(f.pool, nil)
	}
	streams := sums("streams", projection.Options{}, byStream)
	all := sums("all", projection.Options{}, func(eventstore.Event[counted]) string { return "all" })
	f.keep(streams, all, record("written", nil))
	return f
}

// keep starts the projections, and a store that knows them.
func (f *inlined) keep(projections ...*projection.Projection) {
	f.Helper()
	var err error
	if f.inline, err = projection.NewInline(f.schema, projections...); err != nil {
		f.Fatal(err)
	}
	f.aware = f.newStore(f.pool, f.inline)
	config := *quiet
	config.Schema = f.schema
	f.runner, _ = f.start(&config, f.store, projections...)
	f.wait(f.runner, f.append(counting, 1)) // now they are registered
}

func (f *inlined) newStore(pool *pgxpool.Pool, inline *projection.Inline) *eventstore.Store {
	f.Helper()
	config := &eventstore.Config{Schema: f.schema}
	if inline != nil {
		config.Inline = inline
	}
	store, err := eventstore.New(pool, config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(store.Close)
	return store
}

func (f *inlined) startInline() {
	f.Helper()
	for _, name := range []string{"streams", "all", "written"} {
		if err := f.runner.Operator().StartInline(f.Context(), projection.Ref{Name: name, Version: projection.Live}); err != nil {
			f.Fatal(err)
		}
	}
}

func (f *inlined) put(store *eventstore.Store, key string, numbers ...int) error {
	var drafts []eventstore.Draft
	for _, n := range numbers {
		draft, err := counting.Encode(counted{n})
		if err != nil {
			f.Fatal(err)
		}
		drafts = append(drafts, draft)
	}
	_, err := store.Append(f.Context(), eventstore.StreamID{Category: "counter", Key: key}, eventstore.Any, drafts...)
	return err
}

// check compares the read models with a fold of the log.
func (f *inlined) check() {
	f.Helper()
	want := make(map[string]sum)
	var positions []eventstore.Position
	for e, err := range f.store.ReadAll(f.Context(), 0, eventstore.Filter{Types: []string{"counted"}}) {
		if err != nil {
			f.Fatal(err)
		}
		decoded, err := counting.Decode(e)
		if err != nil {
			f.Fatal(err)
		}
		for _, key := range []string{e.Stream.Key, "all"} {
			row := want[key]
			want[key] = sum{key, row.Events + 1, row.Total + int64(decoded[0].Data.N)}
		}
		positions = append(positions, e.Position)
	}
	rows, _ := f.pool.Query(f.Context(), `select * from streams union all select * from "all"`)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[sum])
	if err != nil {
		f.Fatal(err)
	}
	got := make(map[string]sum)
	for _, row := range found {
		got[row.Key] = row
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("tables (-log +tables):\n%s", diff)
	}
	rows, _ = f.pool.Query(f.Context(), `select position from model where name = 'written' order by position`)
	written, err := pgx.CollectRows(rows, pgx.RowTo[eventstore.Position])
	if err != nil {
		f.Fatal(err)
	}
	if diff := cmp.Diff(positions, written); diff != "" {
		f.Errorf("written by the handler (-log +model):\n%s", diff)
	}
}

// TestInline: after an append its events are in the read models. This holds while others append, and while StartInline
// and StopInline are called.
func TestInline(t *testing.T) {
	t.Parallel()
	f := setupInline(t)
	if err := f.put(f.store, "early", 1, 2, 3); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for n := range 8 {
		writers.Go(func() {
			for i := range 30 {
				key := fmt.Sprint("k", (n+i)%5)
				if err := f.put(f.aware, key, i, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		f.startInline()
		var seen int64
		if err := f.put(f.aware, "own", 1); err != nil {
			t.Fatal(err)
		}
		var own int64
		if err := f.pool.QueryRow(t.Context(), `select events from streams where key = 'own'`).Scan(&own); err != nil {
			t.Fatal(err)
		}
		if err := f.pool.QueryRow(t.Context(), `select count(*) from tidemark.events where stream = 'counter-own'`).Scan(&seen); err != nil || seen != own {
			t.Errorf("%d events after the append, want %d, %v", own, seen, err)
		}
		for _, name := range []string{"streams", "all", "written"} {
			if err := f.runner.Operator().StopInline(t.Context(), projection.Ref{Name: name, Version: projection.Live}); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.startInline()
	writers.Wait()
	f.check()
	// Wait is not needed for projections that are kept inline, but it still works.
	end, err := f.store.Tidemark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.wait(f.runner, end)
	f.check()
}

// TestInlineFailure: an event that cannot be handled fails its own append, and no other one.
func TestInlineFailure(t *testing.T) {
	t.Parallel()
	f := setupInline(t)
	f.startInline()
	var writers sync.WaitGroup
	for n := range 16 {
		writers.Go(func() {
			for i := range 10 {
				number := i
				if n%4 == 0 {
					number = -1
				}
				err := f.put(f.aware, fmt.Sprint("k", n), number)
				var failed *projection.HandlerError
				if fails := number < 0; fails != errors.As(err, &failed) || !fails && err != nil {
					t.Errorf("append of %d: %v", number, err)
				}
			}
		})
	}
	writers.Wait()
	f.check()
}

// TestInlineInTx: in a caller's transaction the read models are part of that transaction, and the transaction can be
// used after an append that failed.
func TestInlineInTx(t *testing.T) {
	t.Parallel()
	f := setupInline(t)
	f.startInline()
	for _, commit := range []bool{true, false} {
		tx, err := f.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := f.put(f.aware.WithTx(tx), "a", 1); err != nil {
			t.Fatal(err)
		}
		if err := f.put(f.aware.WithTx(tx), "a", -1); err == nil {
			t.Error("a negative number was appended")
		}
		if err := f.put(f.aware.WithTx(tx), "a", 2); err != nil {
			t.Fatal(err)
		}
		end := tx.Rollback
		if commit {
			end = tx.Commit
		}
		if err := end(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.check()
	}
}

// schemas are the schemas that a test runs in: the default one, and one whose name must be quoted.
var schemas = []string{"tidemark", "order"}

func inSchemas(t *testing.T, test func(*inlined)) {
	t.Parallel()
	for _, schema := range schemas {
		t.Run(schema, func(t *testing.T) {
			t.Parallel()
			test(setupInlineIn(t, schema))
		})
	}
}

// TestInlineUnaware: an append through a store that does not know the inline projections is refused. Otherwise its
// events would be missing from the read models.
func TestInlineUnaware(t *testing.T) { inSchemas(t, testInlineUnaware) }

func testInlineUnaware(f *inlined) {
	t := f.T
	f.startInline()
	if err := f.put(f.aware, "a", 1, 2); err != nil {
		t.Error(err)
	}
	for _, numbers := range [][]int{{1}, {1, 2}} {
		if err := f.put(f.store, "a", numbers...); !pgerr.Is(err, pgerr.UnknownInline) || !strings.Contains(err.Error(), "inline") {
			t.Errorf("append of %v: %v, want it refused", numbers, err)
		}
	}
	f.append(other, 1) // accepted: the projections do not handle this type
	for name, do := range map[string]func() error{
		"pause": func() error {
			return f.runner.Operator().Pause(t.Context(), projection.Ref{Name: "all", Version: projection.AllVersions}, "")
		},
		"stop": func() error {
			return f.runner.Operator().Stop(t.Context(), projection.Ref{Name: "all", Version: projection.AllVersions}, "")
		},
		"reset": func() error {
			return f.runner.Operator().Reset(t.Context(), projection.Ref{Name: "all", Version: projection.Live}, 0)
		},
		"refold": func() error {
			return f.runner.Operator().RebuildKey(t.Context(), projection.Ref{Name: "all", Version: projection.Live}, "all")
		},
	} {
		if err := do(); !errors.Is(err, projection.ErrRefused) {
			t.Errorf("%s: %v, want ErrRefused", name, err)
		}
	}
	if err := f.runner.Operator().StartInline(t.Context(), projection.Ref{Name: "all", Version: projection.Live}); err != nil {
		t.Errorf("start again: %v", err)
	}
	f.check()
}

// TestInlineAwaitsAppends: StartInline waits for an open append through a store that does not know the projection.
func TestInlineAwaitsAppends(t *testing.T) { inSchemas(t, testInlineAwaitsAppends) }

func testInlineAwaitsAppends(f *inlined) {
	t := f.T
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }() // does nothing after the commit
	if err := f.put(f.store.WithTx(tx), "a", 1); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		started <- f.runner.Operator().StartInline(context.WithoutCancel(t.Context()), projection.Ref{Name: "all", Version: projection.Live})
	}()
	f.until("StartInline asks which appends are open", func() bool {
		select {
		case err := <-started:
			t.Fatalf("StartInline did not wait for the open append: %v", err)
		default:
		}
		return f.rollNumber(`
			select count(*)
			  from pg_stat_activity
			 where datname = current_database()
			   and query like 'select t from%appending() t'`) > 0
	})
	if err := f.put(f.aware, "b", 2); err != nil { // the runner handles it, or the append does
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	f.startInline()
	f.check()
}
