package projection_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestRowThatCannotBeRead: a row with a value that does not fit into its Go field stops its key, and no other key.
func TestRowThatCannotBeRead(t *testing.T) {
	t.Parallel()
	type row struct {
		Key    string `db:"key,key"`
		Owner  string
		Amount int64
		Until  time.Time
		N      int
	}
	for column, spoil := range map[string]string{
		"owner":  `update owned_v1 set owner = null where key = 'a'`,
		"amount": `update owned_v1 set amount = 'NaN' where key = 'a'`,
		"until":  `update owned_v1 set until = 'infinity' where key = 'a'`,
	} {
		for _, size := range []int{1, 1000} {
			t.Run(fmt.Sprint(column, size), func(t *testing.T) {
				t.Parallel()
				b := setup(t).book("owned")
				table := func() *projection.Projection {
					options := &projection.Options{DDL: `create table {owned} (key text primary key, owner text, amount numeric, until timestamptz, n int not null)`}
					return projection.NewTable("owned", options, folds(b, func(r *row, e eventstore.Event[change]) projection.Op {
						r.N++
						return projection.Put
					})...)
				}
				config := *quiet
				config.BatchSize = size
				both := []change{{Key: "a"}, {Key: "b"}}
				r, stop := b.start(&config, b.store, table())
				b.wait(r, b.append(1, both...))
				stop()
				b.exec(spoil)
				r, _ = b.start(&config, b.store, table())
				b.waitWithin(20*time.Second, r, b.append(1, slices.Concat(both, both)...))
				want := []string{"a 1", "b 3"}
				if got := texts(b.fixture, `select key || ' ' || n from owned order by key`); !slices.Equal(got, want) {
					t.Errorf("rows %q, want %q", got, want)
				}
				letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "owned", Version: projection.Live}, "", 0, 10)
				if err != nil || len(letters) != 1 || letters[0].Key != "a" || letters[0].Waiting != 1 {
					t.Fatalf("dead letters %+v, %v; want one of key a, with one event behind it", letters, err)
				}
				for _, part := range []string{"owned_v1", column, `"a"`} {
					if !strings.Contains(letters[0].Error, part) {
						t.Errorf("the reason is %q, want %s in it", letters[0].Error, part)
					}
				}
				b.exec(`update owned_v1 set owner = '', amount = 0, until = now() where key = 'a'`)
				b.retry(r, 2, "owned")
			})
		}
	}
}

// TestValueThatCannotBeWritten: a value that does not fit its column stops its key. This holds for rows that are
// upserted and for rows that are copied in.
func TestValueThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	type row struct {
		Key   string `db:"key,key"`
		Small int64
		Text  string
		Doc   map[string]float64
		At    time.Time
		List  []int64
	}
	spoil := map[string]func(*row){
		"small": func(r *row) { r.Small = 1 << 40 },
		"text":  func(r *row) { r.Text = "a\x00b" },
		"utf8":  func(r *row) { r.Text = "a\xffb" },
		"doc":   func(r *row) { r.Doc = map[string]float64{"x": math.NaN()} },
		"at":    func(r *row) { r.At = time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"list":  func(r *row) { r.List = []int64{1, 1 << 40} },
	}
	for _, rows := range []int{3, 300} {
		for what, spoil := range spoil {
			t.Run(fmt.Sprint(what, rows), func(t *testing.T) {
				t.Parallel()
				b := setup(t).book("fits")
				options := &projection.Options{DDL: `create table {fits} (key text primary key, small int, text text, doc jsonb, at timestamptz, list int[])`}
				p := projection.NewTable("fits", options, folds(b, func(r *row, e eventstore.Event[change]) projection.Op {
					if e.Data.Op == "bad" {
						spoil(r)
					}
					return projection.Put
				})...)
				var changes []change
				for n := range rows {
					changes = append(changes, change{Key: fmt.Sprint(n)})
				}
				changes = append(changes, change{Key: "bad", Op: "bad"}, change{Key: "bad"}, change{Key: "last"})
				last := b.append(1, changes...)
				r, _ := b.start(quiet, b.store, p)
				b.waitWithin(20*time.Second, r, last)
				if n := b.rollNumber(`select count(*) from fits`); n != int64(rows+1) {
					t.Errorf("%d rows, want %d", n, rows+1)
				}
				letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "fits", Version: projection.Live}, "", 0, 10)
				if err != nil || len(letters) != 1 || letters[0].Key != "bad" {
					t.Fatalf("dead letters %+v, %v; want one of the bad key", letters, err)
				}
				text := letters[0].Error
				if !strings.Contains(text, "fits_v1") || !strings.Contains(text, `"bad"`) || strings.Contains(text, "0xc") {
					t.Errorf("the reason is %q, want the table and the key, and no address", text)
				}
			})
		}
	}
}

// checkFits starts a table whose column c has a type that does not fit the field's Go type. It checks that the
// projection stops, and that the reason names the column, the field and the field's type.
func checkFits[Field any](f *fixture, name, column string) {
	f.Helper()
	type row struct {
		Key string `db:"key,key"`
		C   Field
	}
	b := f.book(name)
	p := projection.NewTable(name, &projection.Options{DDL: `create table {` + name + `} (key text primary key, c ` + column + `)`},
		folds(b, func(*row, eventstore.Event[change]) projection.Op { return projection.Put })...)
	r, _ := f.start(quiet, f.store, p)
	want := "column c of table"
	f.stopped(r, name, want)
	if s := f.statusOf(r, name); !strings.Contains(s.Reason, "field C") || !strings.Contains(s.Reason, fmt.Sprintf("%T", *new(Field))) || s.Parked > 0 {
		f.Errorf("%s: reason %q, %d parked; want the field and its type, and no dead letter", name, s.Reason, s.Parked)
	}
}

// TestFieldThatDoesNotFit: a field whose type can never fit its column stops the projection before the first event.
func TestFieldThatDoesNotFit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create type mood as enum ('good')`)
	f.exec(`create type pair as (a int, b int)`)
	f.exec(`create domain words as text check (value <> '')`)
	checkFits[int](f, "int_text", "text")
	checkFits[int](f, "int_domain", "words")
	checkFits[int](f, "int_enum", "mood")
	checkFits[bool](f, "bool_int", "int")
	checkFits[time.Time](f, "time_text", "text")
	checkFits[[]int](f, "ints_text", "text")
	checkFits[struct{ A, B int }](f, "struct_pair", "pair")
	checkFits[chan int](f, "chan_json", "jsonb")
	checkFits[int](f, "int_generated", "int generated always as (1) stored")
	checkFits[int](f, "int_identity", "int generated always as identity")
}

// TestFieldThatFits: fields that can be stored in their columns do not stop the projection.
func TestFieldThatFits(t *testing.T) {
	t.Parallel()
	type row struct {
		Key   string `db:"key,key"`
		Owner string
		Cents int64
		Small *int
		Ratio float64
		Words []string
		Plain string
	}
	f := setup(t)
	f.exec(`create domain cents as bigint check (value >= 0)`)
	f.exec(`create domain amounts as cents`)
	f.exec(`create table people (name text primary key); insert into people values ('ada')`)
	b := f.book("fine")
	r, _ := f.start(quiet, f.store, projection.NewTable("fine", &projection.Options{DDL: `create table {fine} (key text primary key,
		owner text references people on delete set null, cents amounts, small smallint, ratio numeric(8, 3), words varchar(5)[], plain inet)`},
		folds(b, func(r *row, e eventstore.Event[change]) projection.Op {
			r.Owner, r.Cents, r.Ratio, r.Words, r.Plain = "ada", r.Cents+1, 0.5, []string{"a"}, "::1"
			return projection.Put
		})...))
	f.wait(r, b.append(1, change{Key: "a"}, change{Key: "a"}, change{Key: "b"}))
	if got := texts(f, `select key || cents from fine order by key`); !slices.Equal(got, []string{"a2", "b1"}) {
		t.Errorf("rows %q", got)
	}
}

// seen is a row in which the fold records what it sees in the row.
type seen struct {
	Key    string `db:"key,key"`
	Seen   string // what the fold has seen at each event
	At     time.Time
	Rough  time.Time
	Wall   time.Time
	Day    time.Time
	Maybe  *time.Time
	Times  []time.Time
	Money  float64
	Cents  string
	Exact  string
	Single float64
	Fixed  string
	Doc    json.RawMessage
	Tree   map[string]any
	Note   string
	Lapse  string
	List   []string
	Blob   []byte
	Stamp  string
	Lost   int `db:"-"`
	hidden int
}

const seenDDL = `create table {%s} (key text primary key, seen text not null, at timestamptz, rough timestamptz(2), wall timestamp(0), day date,
	maybe timestamptz, times timestamptz[], money numeric(12, 2), cents numeric(12, 2), exact numeric, single real, fixed char(5),
	doc jsonb, tree jsonb, note text, lapse interval, list varchar(5)[], blob bytea, stamp timestamptz)`

// inputs are the values that an event puts into a row.
type inputs struct {
	Key   string
	Nanos int64
	Zone  int
	Money float64
	Text  string
	Doc   json.RawMessage
	Op    string
}

// look returns the contents of a row as text, with the length of Seen instead of Seen.
func (s *seen) look() string {
	all := *s
	all.Seen = ""
	maybe := ""
	if s.Maybe != nil {
		maybe = s.Maybe.Format(time.RFC3339Nano)
	}
	all.Maybe = nil
	return fmt.Sprintf("[%+v %s %d]", all, maybe, len(s.Seen))
}

func (s *seen) put(e inputs) projection.Op {
	s.Seen += s.look()
	at := time.Unix(0, e.Nanos).In(time.FixedZone("somewhere", e.Zone*1800))
	switch e.Op {
	case "delete":
		return projection.Delete
	case "skip":
		s.Money, s.Note, s.Seen = -1, "skipped", "skipped" // Skip discards these changes
		return projection.Skip
	}
	s.At, s.Rough, s.Wall, s.Day, s.Maybe, s.Times = at, at, at, at, &at, []time.Time{at, at.Add(1)}
	s.Money, s.Cents, s.Exact, s.Single = e.Money, fmt.Sprintf("%.3f", e.Money), fmt.Sprint(e.Money), e.Money
	s.Fixed, s.Doc, s.Note, s.Lapse = e.Text, e.Doc, e.Text, fmt.Sprint(e.Zone*40, " minutes")
	s.Tree = map[string]any{"money": e.Money, "text": e.Text, "at": at}
	s.List, s.Blob, s.Stamp = []string{e.Text}, []byte(e.Text), at.Format(time.RFC3339)
	s.Lost++
	s.hidden++
	return projection.Put
}

// TestKeptIsLoaded: a fold sees the same in a process that keeps running, in a process that is started after every
// event, and in a process that builds the table from the beginning.
func TestKeptIsLoaded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		if runs++; runs > 6 {
			return // six histories are enough for one run of the tests
		}
		name := fmt.Sprint("kept", runs)
		counting := codec.New(codec.Of(name, func(e inputs) inputs { return e }))
		table := func(as string) *projection.Projection {
			return projection.NewTable(as, &projection.Options{DDL: fmt.Sprintf(seenDDL, as)}, projection.Fold(counting,
				func(e eventstore.Event[inputs]) string { return e.Data.Key },
				func(r *seen, e eventstore.Event[inputs]) projection.Op { return r.put(e.Data) }))
		}
		r, stop := f.start(quiet, f.store, table(name+"live"))
		defer func() { stop() }()
		var last eventstore.Position
		for range rapid.IntRange(3, 12).Draw(t, "events") {
			n := rapid.IntRange(1, 3).Draw(t, "at once")
			var drafts []eventstore.Draft
			for range n {
				draft, err := counting.Encode(drawInputs(t))
				if err != nil {
					t.Fatal(err)
				}
				drafts = append(drafts, draft)
			}
			last = f.putDrafts(name, drafts...)
			f.wait(r, last, name+"live")
			again, end := f.start(quiet, f.store, table(name+"again"))
			f.wait(again, last, name+"again")
			end()
		}
		built, end := f.start(quiet, f.store, table(name+"built"))
		defer end()
		f.wait(built, last, name+"built")
		all := func(as string) []string { return texts(f, `select t::text from `+as+` t order by key`) }
		live := all(name + "live")
		for _, other := range []string{"again", "built"} {
			if diff := gocmp.Diff(live, all(name+other)); diff != "" {
				t.Fatalf("live and %s differ (-live +%s):\n%s", other, other, diff)
			}
		}
		for _, key := range []string{"a", "b"} {
			if err := built.Operator().RebuildKey(f.Context(), projection.Ref{Name: name + "built", Version: projection.Live}, key); err != nil {
				t.Fatal(err)
			}
		}
		if diff := gocmp.Diff(live, all(name+"built")); diff != "" {
			t.Fatalf("live and a rebuilt key differ (-live +rebuilt):\n%s", diff)
		}
		if n := f.rollNumber(`select count(*) from tidemark.dead_letters`); n > 0 {
			t.Fatalf("%d dead letters: %q", n, texts(f, `select coalesce(error, '') from tidemark.dead_letters limit 3`))
		}
	})
}

func drawInputs(t *rapid.T) inputs {
	return inputs{
		Key:   rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"),
		Nanos: rapid.Int64Range(-4e18, 4e18).Draw(t, "nanoseconds"),
		Zone:  rapid.IntRange(-23, 23).Draw(t, "zone"),
		Money: float64(rapid.Int64Range(-99_999_999, 99_999_999).Draw(t, "thousandths")) / 1000,
		Text:  rapid.SampledFrom([]string{"", "a", "ab ", "ü", " c"}).Draw(t, "text"),
		Doc: json.RawMessage(rapid.SampledFrom([]string{`{}`, `{"bb": 1,"a":[1.50,  "x"]}`, `1e3`, `{"a":1,"a":2}`, `"\u00e9\/"`, `null`,
			`-0`, `[{"x": {"long": 1, "b": 2}}]`}).Draw(t, "document")),
		Op: rapid.SampledFrom([]string{"put", "put", "put", "put", "delete", "skip"}).Draw(t, "op"),
	}
}

// TestChangedByTheDatabase: a fold sees the changes that triggers and foreign key actions have made to its row. It sees
// the same in a process that keeps running, in a process that is started after each event, and in a rebuild.
func TestChangedByTheDatabase(t *testing.T) {
	t.Parallel()
	type row struct {
		Key   string `db:"key,key"`
		N     int
		Seen  string
		Owner *string
	}
	f := setup(t)
	f.exec(`create function double() returns trigger language plpgsql as $$ begin new.n := 2 * new.n; return new; end $$`)
	f.exec(`create table people (name text primary key); insert into people values ('ada')`)
	ddl := `create table {%s} (key text primary key, n int not null, seen text not null, owner text references people on delete set null)`
	b := f.book("changes")
	table := func(name, more string) *projection.Projection {
		return projection.NewTable(name, &projection.Options{DDL: fmt.Sprintf(ddl+more, name, name)},
			folds(b, func(r *row, e eventstore.Event[change]) projection.Op {
				r.Seen += fmt.Sprint(r.N, r.Owner != nil, " ")
				r.N++
				if e.Data.Op == "own" {
					owner := "ada"
					r.Owner = &owner
				}
				return projection.Put
			})...)
	}
	const trigger = `; create trigger double before insert or update on {%s} for each row execute function double()`
	got := func(name string) string { return texts(f, `select seen || n from `+name)[0] }
	history := []change{{Key: "a"}, {Key: "a"}, {Key: "a"}, {Key: "a"}}

	live, _ := f.start(quiet, f.store, table("live", trigger))
	f.wait(live, b.append(1, history...))
	for range 3 {
		last := b.append(1, change{Key: "a"})
		f.wait(live, last)
		again, stop := f.start(quiet, f.store, table("again", trigger))
		f.wait(again, last)
		stop()
	}
	built, _ := f.start(quiet, f.store, table("built", trigger))
	f.wait(built, b.append(1, change{Key: "a"}))
	f.wait(live, b.append(1, change{Key: "a"}))
	f.wait(built, b.append(1, change{Key: "a"}))
	f.wait(live, b.append(1, change{Key: "a"}))
	last := b.append(1, change{Key: "a"})
	for _, r := range []*projection.Runner{live, built} {
		f.wait(r, last)
	}
	want := ""
	n := 0
	for i := range 12 {
		want += fmt.Sprint(n, false, " ")
		if n = 2 * (n + 1); i > 0 { // an upsert calls the trigger twice, for the insert and for the update
			n *= 2
		}
	}
	again, _ := f.start(quiet, f.store, table("again", trigger))
	f.wait(again, last)
	if want += fmt.Sprint(n); got("live") != want || got("built") != want || got("again") != want {
		t.Errorf("live %q, built %q, again %q, want %q", got("live"), got("built"), got("again"), want)
	}
	if err := built.Operator().RebuildKey(t.Context(), projection.Ref{Name: "built", Version: projection.Live}, "a"); err != nil || got("built") != want {
		t.Errorf("rebuilt %q, %v; want %q", got("built"), err, want)
	}

	owned, _ := f.start(quiet, f.store, table("owned", ` -- {%s}`))
	f.wait(owned, b.append(1, change{Key: "b", Op: "own"}))
	f.exec(`delete from people`)
	f.wait(owned, b.append(1, change{Key: "b"}))
	if seen := texts(f, `select seen from owned where key = 'b'`)[0]; seen != "0 false 1 false " {
		t.Errorf("the fold has seen %q, want no owner any more", seen)
	}
}
