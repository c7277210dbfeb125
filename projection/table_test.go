package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestTableOneBadChange: a fold that fails, panics, changes the key or returns the zero Op stops one key, and so does a
// row that Postgres refuses. The row stays as it was.
func TestTableOneBadChange(t *testing.T) {
	t.Parallel()
	for _, rows := range []int{5, 300} { // 5 rows are upserted, and 300 are copied in
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			b := f.book("book")
			b.append(1, change{Key: "before-check", Op: "put"})
			var changes []change
			for _, op := range []string{"put", "add"} {
				for i := range rows {
					changes = append(changes, change{Key: fmt.Sprint(i), Op: op})
				}
				for _, bad := range badOps {
					changes = append(changes, change{Key: "bad-" + bad, Op: op})
				}
			}
			for _, bad := range badOps {
				changes = append(changes, change{Key: "bad-" + bad, Op: bad}, change{Key: "bad-" + bad, Op: "add"})
			}
			last := b.append(1, changes...)
			r, _ := b.start(quiet, b.store, b.projection(1))
			b.wait(r, last)
			b.check()
			letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "book", Version: projection.Live}, "", 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			reasons := make(map[string]string)
			for _, l := range letters {
				if l.Waiting != 1 {
					t.Errorf("%d changes wait behind the bad change of %s, want 1", l.Waiting, l.Key)
				}
				reasons[l.Key], _, _ = strings.Cut(l.Error, "\n")
			}
			for key, want := range map[string]string{
				"bad-fail": "it failed", "bad-panic": "it panicked", "bad-rekey": "changed the key",
				"bad-nothing": "none of Put", "bad-check": "violates check constraint",
			} {
				if !strings.Contains(reasons[key], want) {
					t.Errorf("the reason of %s is %q, want %q", key, reasons[key], want)
				}
			}
			if len(reasons) != len(badOps) {
				t.Errorf("parked: %v", reasons)
			}
			// The same when the table is live and the rows exist.
			changes = nil
			for i := range rows {
				changes = append(changes, change{Key: fmt.Sprint(i), Op: []string{"add", "delete", "skip"}[i%3]})
			}
			changes[1].Op, changes[3].Op, changes[4].Op = "check", "panic", "check"
			b.wait(r, b.append(2, changes...))
			b.check()
		})
	}
}

// TestTableBadRowOfAnEarlierPage: the row that Postgres refuses was kept in memory because its page was full. The next
// page has one event for the same partition, or none.
func TestTableBadRowOfAnEarlierPage(t *testing.T) {
	t.Parallel()
	for batch := range 3 {
		for partitions := range 2 { // with two partitions, "a" and "b" are in different ones
			t.Run(fmt.Sprint(batch+1, partitions+1), func(t *testing.T) {
				t.Parallel()
				b := setup(t).book("book")
				config := *quiet
				config.BatchSize = batch + 1
				changes := []change{{Key: "b", Op: "put"}, {Key: "a", Op: "check"}, {Key: "b", Op: "put"}}
				last := b.append(1, changes[1-min(1, batch):]...)
				r, _ := b.start(&config, b.store, b.projection(partitions+1))
				b.wait(r, last)
				b.check()
				if letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "book", Version: projection.Live}, "", 0, 10); err != nil || len(letters) != 1 || letters[0].Key != "a" {
					t.Errorf("dead letters %+v, %v; want one of key a", letters, err)
				}
			})
		}
	}
}

// TestTableKeys: a key that its column cannot hold stops no other key.
func TestTableKeys(t *testing.T) {
	t.Parallel()
	type row struct {
		ID string `db:"id,key"`
		N  int64
	}
	id := func(n int) string { return uuid.NewSHA1(uuid.Nil, []byte{byte(n)}).String() }
	for name, c := range map[string]struct {
		column string
		good   string
		bad    [2]string // the first is used with a new table, the second after a restart, when rows are loaded
	}{
		"no uuid":         {"uuid", id(1), [2]string{"none", "nothing"}},
		"uuid in capital": {"uuid", id(1), [2]string{strings.ToUpper(id(2)), strings.ToUpper(id(3))}},
		"padded":          {"char(36)", id(1), [2]string{"short", "shorter"}},
		"not a number":    {"bigint", "12", [2]string{"twelve", "a dozen"}},
		"other number":    {"bigint", "12", [2]string{"013", "014"}},
		"zero byte":       {"text", "good", [2]string{"ZERO", "and ZERO"}},
		"no UTF-8":        {"text", "good", [2]string{"BAD", "and BAD"}},
		"too long":        {"text", "good", [2]string{longKey(), longKey() + "r"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			b := f.book("book")
			fold := func(r *row, _ eventstore.Event[change]) projection.Op {
				r.N++
				return projection.Put
			}
			for _, bad := range c.bad {
				b.append(1, change{Key: c.good}, change{Key: bad})
				r, stop := b.start(quiet, b.store, projection.NewTable("keys",
					&projection.Options{DDL: `create table {keys} (id ` + c.column + ` primary key, n bigint)`}, folds(b, fold)...))
				b.append(3, change{Key: bad})
				b.wait(r, b.append(2, change{Key: c.good}, change{Key: bad}))
				stop()
			}
			if n := texts(f, `select n::text from keys where id::text = '`+c.good+`'`); !slices.Equal(n, []string{"4"}) {
				t.Errorf("%s changes of the good key, want 4", n)
			}
		})
	}
}

// texts returns the rows of a query with one column of type text.
func texts(f *fixture, sql string) []string {
	f.Helper()
	rows, _ := f.pool.Query(f.Context(), sql)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.Fatal(err)
	}
	return all
}

// longKey returns a key that is too long for an index and cannot be compressed.
func longKey() string {
	var key strings.Builder
	for i := range 300 {
		key.WriteString(uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i)).String())
	}
	return key.String()
}

type (
	mood   string
	detail struct {
		Words []string
		N     *int
	}
	base struct {
		CreatedBy string
		Ignored   int `db:"-"`
	}
	// everything has a field of each kind of column.
	everything struct {
		base
		OpenedOn time.Time
		ID       string `db:",key"`
		HTTPCode int32  // http_code
		Renamed  int16  `db:"other name"`
		Flag     bool
		At       time.Time
		Money    string // numeric, to the cent
		Day      string // date
		Ratio    float64
		Doc      detail
		Tags     map[string]int
		Names    []string
		Numbers  []int64
		Times    []time.Time
		Feeling  mood
		Feelings []string
		Code     *string // varchar(3)
		Codes    []string
		Maybe    *int64
		MaybeAt  *time.Time
		Blob     []byte
		UID      uuid.UUID
		MaybeUID *uuid.UUID
		//lint:ignore U1000 a field that is not exported is no column
		unwritten int
	}
)

const everythingDDL = `create table {everything} (
	"http_code" int, id text primary key, created_by text, "other name" smallint, flag boolean, at timestamptz,
	opened_on date, day date, money numeric(10, 2), ratio double precision, doc jsonb, tags jsonb, names text[], numbers bigint[],
	times timestamptz[], feeling mood, feelings mood[], code varchar(3), codes varchar(3)[], maybe bigint, maybe_at timestamptz,
	blob bytea, uid uuid, maybe_uid uuid,
	note text not null default 'untouched', twice int generated always as (http_code * 2) stored)`

// example returns a row that depends on n. Every third row has as few values as possible.
func example(n int64) everything {
	at := time.Date(2024, 2, 29, 12, 30, 15, 123456000, time.UTC).Add(time.Duration(n) * time.Minute)
	e := everything{Money: "0.00", Day: at.Format(time.DateOnly), Feeling: "so so", HTTPCode: int32(n), At: at, OpenedOn: at.Truncate(24 * time.Hour)}
	if n%3 == 0 {
		return e
	}
	text, number, id := "ü,\"", n<<40, uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n))
	e.base, e.Renamed, e.Flag, e.Money, e.Ratio = base{CreatedBy: `o'n"e\`}, int16(n), true, fmt.Sprintf("-%d.25", n), 0.1
	e.Doc, e.Tags = detail{[]string{"漢", "{}", "'"}, new(int)}, map[string]int{fmt.Sprint(n): 1, `"`: 2}
	e.Names, e.Numbers, e.Times = []string{"", "NULL", `a,"b\`, "{}", "ç"}, []int64{1, -n}, []time.Time{at}
	e.Feeling, e.Feelings, e.Code, e.Codes = `not "good"`, []string{"so so", `not "good"`}, &text, []string{"abc", "漢漢漢"}
	e.Maybe, e.MaybeAt, e.Blob, e.UID, e.MaybeUID = &number, &at, []byte{0, 1, 255, '\\'}, id, &id
	return e
}

// TestTableTypes: rows of every kind of column are loaded as they were written. Rows that were copied in and rows that
// were upserted are the same.
func TestTableTypes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create type mood as enum ('so so', 'not "good"')`)
	loaded := 0
	equal := gocmp.Options{gocmp.Comparer(time.Time.Equal), gocmp.AllowUnexported(everything{}, base{})}
	b := f.book("b")
	table := func() *projection.Projection {
		return projection.NewTable("everything", &projection.Options{DDL: everythingDDL},
			folds(b, func(row *everything, e eventstore.Event[change]) projection.Op {
				want := example(e.Data.N)
				want.ID = e.Data.Key
				if row.HTTPCode != 0 {
					loaded++
					if diff := gocmp.Diff(want, *row, equal); diff != "" {
						t.Errorf("row %s was loaded differently (-written +loaded):\n%s", e.Data.Key, diff)
					}
				}
				*row = want
				return projection.Put
			})...)
	}
	write := func(n int) eventstore.Position {
		var changes []change
		for i := range n {
			changes = append(changes, change{Key: fmt.Sprint(i), N: int64(i + 1)})
		}
		return b.append(1, changes...)
	}
	text := func() []string { return texts(f, `select everything::text from everything order by http_code`) }
	const many = 300
	r, stop := f.start(quiet, f.store, table())
	f.wait(r, write(many)) // copied in
	copied := text()
	f.exec(`update everything_v1 set note = 'by hand'`)
	stop()
	r, _ = f.start(quiet, f.store, table())
	f.wait(r, write(many)) // loaded, and updated
	if letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "everything", Version: 1}, "", 0, 1); err != nil || len(letters) > 0 {
		t.Errorf("dead letters %+v, %v", letters, err)
	}
	if loaded != many {
		t.Errorf("%d rows were loaded, want %d", loaded, many)
	}
	updated := text()
	for i := range updated {
		updated[i] = strings.Replace(updated[i], `"by hand"`, "untouched", 1) // the row type has no field for this column
	}
	if diff := gocmp.Diff(copied, updated); diff != "" || len(copied) != many {
		t.Errorf("%d rows; the same rows, copied and updated, differ (-copied +updated):\n%s", len(copied), diff)
	}
}

// TestTableTooLong: a text that is too long for its column is refused, and not cut off.
func TestTableTooLong(t *testing.T) {
	t.Parallel()
	type row struct {
		ID   string `db:"id,key"`
		Text string
		List []string
	}
	f := setup(t)
	b := f.book("b")
	r, _ := f.start(quiet, f.store, projection.NewTable("short", &projection.Options{DDL: `create table {short} (id text primary key, text varchar(3), list varchar(3)[])`},
		folds(b, func(r *row, e eventstore.Event[change]) projection.Op {
			if r.Text, r.List = "abc", []string{"abc"}; e.Data.Key == "text" {
				r.Text = "abcd"
			} else if e.Data.Key == "list" {
				r.List = []string{"abcd"}
			}
			return projection.Put
		})...))
	f.wait(r, b.append(1, change{Key: "text"}, change{Key: "list"}, change{Key: "good"}))
	if ids := texts(f, `select id from short`); !slices.Equal(ids, []string{"good"}) {
		t.Errorf("rows %q; want only the good one", ids)
	}
}

// TestTableRefused: NewTable panics for row types and options that cannot work.
func TestTableRefused(t *testing.T) {
	t.Parallel()
	f := setup(t)
	good := &projection.Options{DDL: `create table {rows} (id text primary key)`}
	type pointed struct{ N int }
	checkRow[string](t, f, "no struct", good)
	checkRow[struct{ ID string }](t, f, "no key", good)
	checkRow[struct {
		ID int `db:"id,key"`
	}](t, f, "key is no text", good)
	checkRow[struct {
		A string `db:"a,key"`
		B string `db:"b,key"`
	}](t, f, "two keys", good)
	checkRow[struct {
		ID string `db:"-,key"`
	}](t, f, "key left out", good)
	checkRow[struct {
		ID   string `db:"id,key"`
		A, B string `db:"same"`
	}](t, f, "two fields for a column", good)
	checkRow[struct {
		ID string `db:"id,key"`
		*pointed
	}](t, f, "embedded pointer", good)
	checkRow[entry](t, f, "no DDL", nil)
	checkRow[entry](t, f, "two tables", &projection.Options{DDL: `{a} {b}`, Tables: []string{"a", "b"}})
	checkRow[entry](t, f, "not from the beginning", &projection.Options{DDL: good.DDL, FromNow: true})
	checkRow[entry](t, f, "another table", &projection.Options{DDL: `create table {other} (id text primary key)`})
}

func checkRow[Row any](t *testing.T, f *fixture, what string, options *projection.Options) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	projection.NewTable("rows", options, projection.Fold(f.book("b").codecs[0],
		func(eventstore.Event[change]) string { return "" }, func(*Row, eventstore.Event[change]) projection.Op { return projection.Put }))
}

// TestTableChanged: Run refuses a table that differs from the stored definition, and a table that cannot be created. No
// projection runs, and nothing of the table is stored.
func TestTableChanged(t *testing.T) {
	t.Parallel()
	f := setup(t)
	b := f.book("book")
	r, stop := b.start(quiet, b.store, b.projection(2))
	b.wait(r, b.append(1, change{Key: "a", Op: "put"}))
	stop()
	run := func(p *projection.Projection) error {
		r, err := projection.NewRunner(f.pool, f.store, quiet, p)
		if err != nil {
			t.Fatal(err)
		}
		return r.Run(t.Context())
	}
	named := func(name, ddl string) *projection.Projection {
		return projection.NewTable(name, &projection.Options{DDL: ddl, Partitions: 2}, folds(b, b.fold)...)
	}
	var changed *projection.ChangedError
	if err := run(b.projection(4)); !errors.As(err, &changed) || changed.Projection != "book" || !strings.Contains(changed.What, "2 partitions") {
		t.Errorf("other partitions: %v", err)
	}
	if err := run(named("book", `create table {book} (name text primary key)`)); !errors.As(err, &changed) || !strings.Contains(changed.What, "DDL") {
		t.Errorf("other DDL: %v", err)
	}
	f.exec(`create table taken (name text)`)
	f.exec(`create table made_v1 (name text)`)
	for name, want := range map[string]string{"taken": "taken", "made": "made_v1"} {
		if err := run(named(name, fmt.Sprintf(bookDDL, name))); err == nil || errors.Is(err, eventstore.ErrNotMigrated) || !strings.Contains(err.Error(), `"`+want+`"`) {
			t.Errorf("%s exists: %v", want, err)
		}
	}
	if left := texts(f, `select name from tidemark.projections where name <> 'book'`); len(left) > 0 {
		t.Errorf("projections that are left: %q", left)
	}
}

// TestTableView: readers keep their rights when a version with other columns replaces the old one.
func TestTableView(t *testing.T) {
	t.Parallel()
	f := setup(t)
	b := f.book("book")
	r, stop := b.start(quiet, b.store, b.projection(1))
	b.wait(r, b.append(1, change{Key: "a", Op: "put"}))
	stop()
	reader := pgx.Identifier{"the reader of " + f.pool.Config().ConnConfig.Database}.Sanitize()
	f.exec(`create role ` + reader)
	t.Cleanup(func() {
		_, err := f.pool.Exec(context.Background(), `drop owned by `+reader+`; drop role `+reader)
		if err != nil {
			t.Error(err)
		}
	})
	f.exec(`grant select on book to ` + reader + ` with grant option; grant select on book to public`)
	const grants = `select format('%s %s %s', a.grantee = 0, a.privilege_type, a.is_grantable)
		from pg_class c, aclexplode(c.relacl) a where c.oid = 'book'::regclass and a.grantee <> c.relowner order by 1`
	const columns = `select attname::text from pg_attribute where attrelid = 'book'::regclass and attnum > 0 order by attnum`
	before := texts(f, grants)
	r, _ = b.start(quiet, b.store, projection.NewTable("book", &projection.Options{Version: 2,
		DDL: `create table {book} (total bigint, name text primary key, history bigint[], more text)`}, folds(b, b.fold)...))
	f.untilLive(r, 2) // version 2 becomes live by itself
	if got := texts(f, columns); !slices.Equal(got, []string{"total", "name", "history", "more"}) {
		t.Errorf("the view has the columns %s", got)
	}
	if after := texts(f, grants); !slices.Equal(after, before) {
		t.Errorf("rights are %s, want %s", after, before)
	}
	b.wait(r, b.append(1, change{Key: "a", Op: "add"}))
	b.check()
}
