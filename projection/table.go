package projection

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

// Op is what becomes of a row after an event: [Put], [Delete], [Skip] or [Fail].
type Op struct {
	kind opKind
	err  error
}

type opKind int

const (
	put opKind = iota + 1
	remove
	skip
	failed
)

// The outcomes of a fold.
var (
	Put    = Op{kind: put}    // the row is stored as the fold has left it
	Delete = Op{kind: remove} // there is no such row any more
	Skip   = Op{kind: skip}   // the event does not concern the row, which the fold has not changed
)

// Fail says that the event cannot be folded into the row: it becomes a dead letter, and the row stays as it
// was.
func Fail(err error) Op { return Op{kind: failed, err: err} }

// FoldSource is a kind of events that rows of type Row are made of, and how: see [Fold].
type FoldSource[Row any] struct{ source source }

// Fold says how the events whose types are in the codec change the rows of a table: key names the
// row, and fold changes it. Both must be pure: they may be called more than once for an event. A row
// that does not exist is zero except for its key. The key of an event must never change. It panics when one of them is nil, or the
// codec decodes no type.
func Fold[Row, E any](c *codec.Codec[E], key func(eventstore.Event[E]) string, fold func(*Row, eventstore.Event[E]) Op) FoldSource[Row] {
	mustHave("Fold", c, given{"the key", key == nil}, given{"the fold", fold == nil})
	return foldSource(keyed(newSource(c), key, nil), fold)
}

// FoldKeys is [Fold] for events that may concern several rows, such as a transfer from one account to another: fold is
// called once for each key, and finds in the row's key which one. An event without keys concerns no row. When it cannot
// be folded into one of its rows, it is a dead letter of that row alone.
func FoldKeys[Row, E any](c *codec.Codec[E], keys func(eventstore.Event[E]) []string, fold func(*Row, eventstore.Event[E]) Op) FoldSource[Row] {
	mustHave("FoldKeys", c, given{"the function of keys", keys == nil}, given{"the fold", fold == nil})
	return foldSource(keyed(newSource(c), nil, keys), fold)
}

func foldSource[Row, E any](s source, fold func(*Row, eventstore.Event[E]) Op) FoldSource[Row] {
	s.fold = func(row *Row, d meaning, done func(Op) error) error {
		for _, event := range d.events.([]eventstore.Event[E]) {
			if err := done(fold(row, event)); err != nil {
				return err
			}
		}
		return nil
	}
	return FoldSource[Row]{s}
}

type foldFunc[Row any] = func(row *Row, d meaning, done func(Op) error) error

// NewTable returns a projection that is a table with one row per key, which events are folded into. The
// runner loads the rows that a batch concerns, folds in memory, and writes them back together; while the
// table is built from the beginning of the log it keeps rows in memory and copies them in.
//
// Row is a struct with a field for each column it has to do with; a string may be a column of any type, such
// as a date, as its text. A column is called as the tag says, such as `db:"opened_on"`, or like the field in
// snake case; "-" leaves a field out. One field, of type string, is the key: its tag ends with ",key", and
// its column is the primary key or has a unique index.
//
// The table is called like the projection unless [Options.Tables] has another name, and [Options.DDL] must
// make it. NewTable panics like [New], and for a Row that is not as described.
func NewTable[Row any](name string, options *Options, folds ...FoldSource[Row]) *Projection {
	o := options.withDefaults()
	if len(o.Tables) == 0 {
		o.Tables = []string{name}
	}
	switch {
	case len(o.Tables) != 1:
		panic(fmt.Sprintf("projection.NewTable: projection %q: Options.Tables is %q: want one table", name, o.Tables))
	case o.DDL == "":
		panic(fmt.Sprintf("projection.NewTable: projection %q: Options.DDL is empty: want the statement that makes the table, such as create table {%s} (…)", name, o.Tables[0]))
	case o.FromNow:
		panic(fmt.Sprintf("projection.NewTable: projection %q: Options.FromNow is true: a table is made of all events from the beginning", name))
	}
	t := &tableOf[Row]{columns: columnsOf[Row](name), name: o.Tables[0]}
	var sources []source
	for _, f := range folds {
		sources = append(sources, f.source)
	}
	p := mustMake("NewTable", name, &o, sources)
	t.version = p.options.Version
	p.table = t
	t.prepare()
	return p
}

// table is a tableOf some type of rows.
type table interface {
	// open returns the state of a partition. A fresh one has no rows in the table yet.
	open(limit int, fresh bool) rows
	// describe asks Postgres what the table is like. The error is fatal when it cannot hold the rows.
	describe(ctx context.Context, db querier) error
}

// column is a field of a row type.
type column struct {
	name   string
	field  []int
	isText bool // the field is a string, whatever the column is
}

// tableOf keeps rows of a type. The first column is the key.
type tableOf[Row any] struct {
	name    string
	version int
	columns []column

	loadSQL, deleteSQL string
	described          atomic.Pointer[tableShape]
}

// columnsOf returns the columns of a row type, the key first.
func columnsOf[Row any](name string) []column {
	t := reflect.TypeFor[Row]()
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("projection.NewTable: projection %q: rows are structs, not %v", name, t))
	}
	var columns []column
	keys, taken := 0, make(map[string]bool)
	for _, f := range reflect.VisibleFields(t) {
		tag, option, _ := strings.Cut(f.Tag.Get("db"), ",")
		switch {
		case !f.IsExported() || f.Anonymous || tag == "-":
			continue
		case tag == "":
			tag = snake(f.Name)
		}
		if taken[tag] {
			panic(fmt.Sprintf("projection.NewTable: projection %q: two fields of %v are the column %s", name, t, tag))
		}
		taken[tag] = true
		for n := 1; n < len(f.Index); n++ {
			if t.FieldByIndex(f.Index[:n]).Type.Kind() == reflect.Pointer {
				panic(fmt.Sprintf("projection.NewTable: projection %q: %v embeds a pointer, which would be nil: embed the struct", name, t))
			}
		}
		kind := f.Type.Kind()
		if kind == reflect.Pointer {
			kind = f.Type.Elem().Kind()
		}
		c := column{tag, f.Index, kind == reflect.String}
		if option == "key" && f.Type.Kind() == reflect.String {
			columns = append([]column{c}, columns...)
			keys++
		} else {
			columns = append(columns, c)
		}
	}
	if keys != 1 {
		panic(fmt.Sprintf(`projection.NewTable: projection %q: one field of %v, a string, must be the key and have a tag such as db:"account,key"`, name, t))
	}
	return columns
}

// snake turns OpenedOn into opened_on, and ID into id.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// names returns the columns' names, quoted, with a prefix each.
func (t *tableOf[Row]) names(prefix string) string {
	var names []string
	for _, c := range t.columns {
		names = append(names, prefix+pgx.Identifier{c.name}.Sanitize())
	}
	return strings.Join(names, ", ")
}

func (t *tableOf[Row]) prepare() {
	physical, key := physical(t.name, t.version), pgx.Identifier{t.columns[0].name}.Sanitize()
	var selected []string
	for _, c := range t.columns {
		name := pgx.Identifier{c.name}.Sanitize()
		if c.isText {
			name += "::text"
		}
		selected = append(selected, name)
	}
	t.loadSQL = `
		select ` + strings.Join(selected, ", ") + `
		  from ` + physical + `
		 where ` + key + ` = any ($1)`
	t.deleteSQL = `
		delete from ` + physical + `
		 where ` + key + ` = any ($1)`
}

func (t *tableOf[Row]) open(limit int, fresh bool) rows {
	return &rowsOf[Row]{table: t, limit: limit, complete: fresh, entries: make(map[string]*entry[Row])}
}

// pointers returns pointers to the fields of a row, in the order of columns.
func (t *tableOf[Row]) pointers(row *Row, into []any) []any {
	value := reflect.ValueOf(row).Elem()
	for _, c := range t.columns {
		into = append(into, value.FieldByIndex(c.field).Addr().Interface())
	}
	return into
}

// values returns the fields of a row to be sent: as pointers, which costs no copies, except those
// that are pointers themselves.
func (t *tableOf[Row]) values(row *Row, into []any) []any {
	value := reflect.ValueOf(row).Elem()
	for _, c := range t.columns {
		switch field := value.FieldByIndex(c.field); {
		case field.Kind() != reflect.Pointer:
			into = append(into, field.Addr().Interface())
		case field.IsNil():
			into = append(into, nil)
		default:
			into = append(into, field.Interface())
		}
	}
	return into
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}
