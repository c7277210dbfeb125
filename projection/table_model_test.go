package projection_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// change is an event of a book. N is different for each change, so an entry's history shows which changes were folded
// into it, and in which order.
type change struct {
	Key, Op string
	N       int64
	Keys    []string // replaces Key in events of the second codec
}

// entry is a row of a book.
type entry struct {
	Name    string `db:"name,key"`
	Total   int64
	History []int64
}

// book is a table of entries. It has two event types, each in its own codec, and its events are in several streams.
type book struct {
	*fixture
	name   string
	codecs [2]*codec.Codec[change]
	n      int64
	broken atomic.Bool // "touchy" changes fail
}

const bookDDL = `create table {%s} (
	name    text primary key,
	total   bigint not null,
	history bigint[] not null check (not -1 = any (history)))`

func (f *fixture) book(name string) *book {
	b := &book{fixture: f, name: name}
	for i := range b.codecs {
		b.codecs[i] = codec.New(codec.Of(fmt.Sprint(name, i), func(c change) change { return c }))
	}
	return b
}

func (b *book) projection(partitions int) *projection.Projection {
	return projection.NewTable(b.name, &projection.Options{Partitions: partitions, DDL: fmt.Sprintf(bookDDL, b.name)}, folds(b, b.fold)...)
}

// folds returns the same fold for both codecs. Events of the second one may have several keys, or none.
func folds[Row any](b *book, fold func(*Row, eventstore.Event[change]) projection.Op) []projection.FoldSource[Row] {
	// A payload cannot have these bytes.
	special := strings.NewReplacer("ZERO", "\x00", "BAD", "\xff")
	one := projection.Fold(b.codecs[0], func(e eventstore.Event[change]) string { return special.Replace(e.Data.Key) }, fold)
	several := projection.FoldKeys(b.codecs[1], func(e eventstore.Event[change]) []string {
		if e.Data.Keys != nil {
			return e.Data.Keys
		}
		return []string{special.Replace(e.Data.Key)}
	}, fold)
	return []projection.FoldSource[Row]{one, several}
}

// fold changes the row before it fails. Nothing of that change must be stored.
func (b *book) fold(row *entry, event eventstore.Event[change]) projection.Op {
	c := event.Data
	row.Total, row.History = row.Total+c.N, append(row.History, c.N)
	switch c.Op {
	case "put":
		row.Total = c.N
	case "add":
	case "delete":
		if !slices.Contains(row.History, -1) {
			return projection.Delete
		}
	case "skip":
		row.Total, row.History = row.Total-c.N, row.History[:len(row.History)-1]
		return projection.Skip
	case "touchy":
		if b.broken.Load() {
			return projection.Fail(errors.New("it is broken"))
		}
	case "fail":
		return projection.Fail(errors.New("it failed"))
	case "panic":
		panic("it panicked")
	case "rekey":
		row.Name = "another"
	case "nothing":
		return projection.Op{}
	case "check":
		row.History = append(row.History, -1) // no later change removes the -1, so the table refuses the row whatever the batch is
	default:
		panic("unknown change")
	}
	return projection.Put
}

// append stores changes in one append, and returns the position of the last one. The event type of a change depends on
// the stream and on the number of the change.
func (b *book) append(stream int, changes ...change) eventstore.Position {
	b.Helper()
	var drafts []eventstore.Draft
	for _, c := range changes {
		b.n++
		if c.N == 0 {
			c.N = 1000 + b.n
		}
		draft, err := b.codecs[(int(b.n)+stream)%2].Encode(c)
		if err != nil {
			b.Fatal(err)
		}
		drafts = append(drafts, draft)
	}
	receipt, err := b.store.Append(b.Context(), eventstore.StreamID{Category: "book", Key: fmt.Sprint(stream)}, eventstore.Any, drafts...)
	if err != nil {
		b.Fatal(err)
	}
	return receipt.Position
}

// fromLog folds the log from scratch, without bad changes. Unless skipBad is set, it also leaves out the changes that
// wait behind a bad change of the same key.
func (b *book) fromLog(skipBad bool) []entry {
	b.Helper()
	rows, parked := make(map[string]entry), make(map[string]bool)
	var types []string
	for _, c := range b.codecs {
		types = append(types, c.Types()...)
	}
	for raw, err := range b.store.ReadAll(b.Context(), 0, eventstore.Filter{Types: types}) {
		if err != nil {
			b.Fatal(err)
		}
		events, err := b.codecs[slices.Index(types, raw.Type)].Decode(raw)
		if err != nil {
			b.Fatal(err)
		}
		c := events[0].Data
		keys := []string{c.Key}
		if c.Keys != nil && raw.Type == types[1] {
			keys = slices.Compact(slices.Sorted(slices.Values(c.Keys)))
		}
		for _, key := range keys {
			row, there := rows[key]
			switch {
			case parked[key], c.Op == "skip":
			case slices.Contains(badOps, c.Op), c.Op == "touchy" && b.broken.Load():
				parked[key] = !skipBad
			case c.Op == "delete":
				delete(rows, key)
			default:
				if !there {
					row.Name = key
				}
				if c.Op == "put" {
					row.Total = 0
				}
				row.Total += c.N
				row.History = append(slices.Clip(row.History), c.N)
				rows[key] = row
			}
		}
	}
	return slices.SortedFunc(maps.Values(rows), func(a, b entry) int { return cmp.Compare(a.Name, b.Name) })
}

// badOps are the changes that can never be folded or stored.
var badOps = []string{"fail", "panic", "rekey", "nothing", "check"}

// rows returns the table as readers see it.
func (b *book) rows() []entry {
	b.Helper()
	found, _ := b.pool.Query(b.Context(), `select name, total, history from `+b.name+` order by name collate "C"`)
	rows, err := pgx.CollectRows(found, pgx.RowToStructByPos[entry])
	if err != nil {
		b.Fatal(err)
	}
	return rows
}

func (b *book) diff(skipBad bool) string {
	b.Helper()
	return gocmp.Diff(b.fromLog(skipBad), b.rows(), cmpopts.EquateEmpty())
}

func (b *book) check() {
	b.Helper()
	if diff := b.diff(false); diff != "" {
		b.Errorf("the table %s differs from the log (-log +table):\n%s", b.name, diff)
	}
}

// TestTableModel: in the end a table has the rows that a fold of the log from scratch has. The test draws changes of
// all kinds over a few keys in several streams, any batch size and number of partitions, runners that are stopped in
// the middle, folds that fail for a while, and operators who retry, skip and rebuild keys.
func TestTableModel(t *testing.T) {
	t.Parallel()
	f := setup(t)
	histories := 0
	rapid.Check(t, func(t *rapid.T) {
		if histories++; histories > 8 {
			return // eight histories are enough for one run of the tests
		}
		b := f.book(fmt.Sprint("model", histories))
		config := *quiet
		config.BatchSize = rapid.IntRange(1, 12).Draw(t, "batch size")
		partitions := rapid.SampledFrom([]int{1, 2, 4, 16}).Draw(t, "partitions")
		key := rapid.Custom(func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"a", `b"'\`, "ç ü 漢", "d/e", "{f}", ",g", "H", "h"}).Draw(t, "key")
		})
		op := rapid.SampledFrom([]string{"put", "add", "add", "delete", "skip", "touchy", "put", "add", "touchy", "fail", "panic", "rekey", "nothing", "check"})
		var r *projection.Runner
		stop := func() {}
		last := b.append(1, change{Key: "a", Op: "put"})
		start := func() { r, stop = b.start(&config, b.store, b.projection(partitions)) }
		start()
		defer func() { stop() }()
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var changes []change
				for range rapid.IntRange(1, 15).Draw(t, "changes") {
					c := change{Key: key.Draw(t, "key"), Op: op.Draw(t, "op")}
					if rapid.Bool().Draw(t, "several keys") {
						c.Keys = rapid.SliceOfN(key, 0, 3).Draw(t, "keys")
					}
					changes = append(changes, c)
				}
				last = b.append(rapid.IntRange(1, 3).Draw(t, "stream"), changes...)
			},
			"wait":    func(*rapid.T) { b.wait(r, last) },
			"break":   func(*rapid.T) { b.broken.Store(true) },
			"restart": func(*rapid.T) { stop(); start() },
			"fix": func(t *rapid.T) {
				b.broken.Store(false)
				if rapid.Bool().Draw(t, "retry") {
					_, _ = r.Operator().Retry(b.Context(), projection.Ref{Name: b.name, Version: 1}) // an error is normal: bad changes fail again
				}
			},
			"rebuild a key": func(t *rapid.T) {
				_ = r.Operator().RebuildKey(b.Context(), projection.Ref{Name: b.name, Version: 1}, key.Draw(t, "key")) // fails if a change of the key is bad
			},
		})
		b.broken.Store(false)
		b.wait(r, last)
		_, _ = r.Operator().Retry(b.Context(), projection.Ref{Name: b.name, Version: 1})
		if diff := b.diff(false); diff != "" {
			t.Fatalf("the table differs from the log (-log +table):\n%s", diff)
		}
		for {
			letters, err := r.Operator().DeadLetters(b.Context(), projection.Ref{Name: b.name, Version: 1}, "", 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			if len(letters) == 0 {
				break
			}
			for _, l := range letters {
				var next *projection.HandlerError // the next change of the key is bad too
				if _, err := r.Operator().Skip(b.Context(), projection.Ref{Name: b.name, Version: 1}, l.Key, l.Position, "a test"); err != nil && !errors.As(err, &next) && !strings.Contains(err.Error(), "check constraint") {
					t.Fatal(err)
				}
			}
		}
		if diff := b.diff(true); diff != "" {
			t.Fatalf("after bad changes were skipped the table differs from the log (-log +table):\n%s", diff)
		}
	})
}

// TestTableManyRows: batches with many new rows are copied in, and small batches are not. The rows are right in both
// cases, while the table catches up and when it is live.
func TestTableManyRows(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 4, 16} {
		t.Run(fmt.Sprint(partitions), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			b := f.book("book")
			many := func(from, to int, op string) (changes []change) {
				for i := from; i < to; i++ {
					changes = append(changes, change{Key: fmt.Sprint(i), Op: op})
				}
				return changes
			}
			b.append(1, many(0, 16*400, "put")...)
			b.append(2, many(0, 1000, "add")...)
			config := *quiet
			config.BatchSize = 5000 // all new events are one batch
			r, stop := b.start(&config, b.store, b.projection(partitions))
			b.wait(r, b.append(3, many(500, 700, "delete")...))
			b.check()
			f.exec(`create table statements (kind text)`)
			f.exec(`create function note() returns trigger language plpgsql as $$ begin
				insert into public.statements values (left(ltrim(current_query(), E' \t\n'), 4)); return null; end $$`)
			f.exec(`create trigger note after insert on book_v1 for each statement execute function note()`)
			b.wait(r, b.append(2, many(16*400, 16*400+partitions*300, "put")...))
			b.wait(r, b.append(3, many(400, 600, "add")...)) // some of these rows were deleted before
			b.wait(r, b.append(3, change{Key: "single", Op: "put"}))
			b.check()
			stop()
			b.append(3, many(300, 900, "add")...)
			b.append(1, many(600, 800, "delete")...)
			r, _ = b.start(quiet, b.store, b.projection(partitions))
			b.wait(r, b.append(2, many(16*400, 16*400+300, "add")...))
			b.check()
			if kinds := texts(f, `select distinct lower(kind) from statements order by 1`); !slices.Equal(kinds, []string{"copy", "inse"}) {
				t.Errorf("statements %v, want copy and insert", kinds)
			}
		})
	}
}

// TestTableEviction: rows that do not fit into memory are written, forgotten, and read again.
func TestTableEviction(t *testing.T) {
	t.Parallel()
	f := setup(t)
	b := f.book("book")
	var changes []change
	for i := range 3000 {
		changes = append(changes, change{Key: fmt.Sprint(i), Op: "put"})
	}
	// The more partitions tables have, the fewer rows each partition keeps in memory: a thousand here.
	others := f.book("others").projection(128)
	r, _ := b.start(quiet, b.store, b.projection(1), others)
	b.wait(r, b.append(1, changes...), "book")
	for range 20 { // few changes, so rows are not copied in: a row that is wrongly taken for a new row would be overwritten
		changes = nil
		for range 150 {
			changes = append(changes, change{Key: fmt.Sprint(rand.IntN(3000)), Op: []string{"add", "put", "delete", "skip"}[rand.IntN(4)]})
		}
		b.wait(r, b.append(rand.IntN(9), changes...), "book")
	}
	b.check()
}

// TestTableFullPages: when the last page is full, its rows are written.
func TestTableFullPages(t *testing.T) {
	t.Parallel()
	f := setup(t)
	b := f.book("book")
	config := *quiet
	config.BatchSize = 4
	changes := slices.Repeat([]change{{Key: "a", Op: "add"}, {Key: "b", Op: "add"}}, 4)
	last := b.append(1, changes...)
	r, _ := b.start(&config, b.store, b.projection(1))
	b.wait(r, last)
	b.wait(r, b.append(2, changes...))
	b.check()
}

// TestTableRebuildKey: RebuildKey folds a damaged row again, with the dead letters of its key, while events of the key
// and of other keys are appended. Reset of a table is possible to position 0 only.
func TestTableRebuildKey(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprint(partitions), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			b := f.book("book")
			round := func(op string) []change {
				return []change{{Key: "a", Op: op}, {Key: "b", Op: op}, {Key: "gone", Op: op}}
			}
			b.broken.Store(true)
			b.append(1, slices.Concat(round("put"), round("add"), []change{{Key: "gone", Op: "delete"}, {Key: "b", Op: "touchy"}})...)
			r, _ := b.start(quiet, b.store, b.projection(partitions))
			b.wait(r, b.append(2, change{Key: "a", Op: "add"}, change{Key: "b", Op: "add"}))
			f.exec(`update book_v1 set total = 0 where name = 'a'`)
			f.exec(`insert into book_v1 values ('gone', 1, '{1}'), ('never', 1, '{1}')`)
			if err := r.Operator().RebuildKey(t.Context(), projection.Ref{Name: "book", Version: projection.Live}, "b"); err == nil {
				t.Error("RebuildKey returned no error for a key with an event that fails")
			}
			b.broken.Store(false)
			var stopped atomic.Bool
			last := make(chan eventstore.Position)
			go func() { // no other goroutine appends while this one runs
				var position eventstore.Position
				for !stopped.Load() {
					position = b.append(3, change{Key: "a", Op: "add"}, change{Key: "b", Op: "add"})
				}
				last <- position
			}()
			for range 2 {
				for _, key := range []string{"a", "b", "gone", "never"} {
					if err := r.Operator().RebuildKey(t.Context(), projection.Ref{Name: "book", Version: projection.Live}, key); err != nil {
						t.Error(err)
					}
				}
			}
			stopped.Store(true)
			b.wait(r, <-last)
			b.check()
			if letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "book", Version: projection.Live}, "b", 0, 10); err != nil || len(letters) > 0 {
				t.Errorf("%d dead letters are left, %v", len(letters), err)
			}
			at := b.append(1, append(round("add"), change{Key: "a", Op: "fail"})...)
			b.wait(r, at)
			f.exec(`update book_v1 set total = 0`)
			if err := r.Operator().Reset(t.Context(), projection.Ref{Name: "book", Version: projection.Live}, at); !errors.Is(err, projection.ErrRefused) {
				t.Errorf("reset to %d: %v, want ErrRefused", at, err)
			}
			if err := r.Operator().Reset(t.Context(), projection.Ref{Name: "book", Version: projection.Live}, 0); err != nil {
				t.Fatal(err)
			}
			b.wait(r, b.append(1, round("add")...))
			b.check()
		})
	}
}

// TestTableRebuildKeyConnection: RebuildKey locks the partition of the key, and all other connections of the pool can
// be waiting for that lock. So RebuildKey reads the events that were appended in the meantime on the connection that it
// has.
func TestTableRebuildKeyConnection(t *testing.T) {
	t.Parallel()
	b := setup(t).book("book")
	r, _ := b.start(quiet, b.store, b.projection(1))
	b.wait(r, b.append(1, change{Key: "a", Op: "put"}))
	config := b.pool.Config()
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	meanwhile := sync.OnceFunc(func() { b.wait(r, b.append(1, change{Key: "a", Op: "add"})) })
	operator, err := projection.NewRunner(pool, store, quiet, projection.NewTable("book", &projection.Options{DDL: fmt.Sprintf(bookDDL, "book")},
		folds(b, func(row *entry, event eventstore.Event[change]) projection.Op {
			meanwhile()
			return b.fold(row, event)
		})...))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := operator.Operator().RebuildKey(ctx, projection.Ref{Name: "book", Version: projection.Live}, "a"); err != nil {
		t.Error(err)
	}
	b.check()
}
