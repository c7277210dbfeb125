package projection

import (
	"fmt"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

// Op is what becomes of a row after an event: [Put], [Delete], [Skip] or [Fail].
type Op struct {
	outcome rowset.Outcome
	err     error
}

// The outcomes of a fold.
var (
	Put    = Op{outcome: rowset.Put}    // the row is stored as the fold has left it
	Delete = Op{outcome: rowset.Delete} // there is no such row any more
	Skip   = Op{outcome: rowset.Skip}   // the event does not concern the row, which the fold has not changed
)

// Fail says that the event cannot be folded into the row: it becomes a dead letter, and the row stays as it
// was.
func Fail(err error) Op { return Op{outcome: rowset.Fail, err: err} }

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
	s.fold = func(row any, d meaning, done func(rowset.Outcome, error) error) error {
		r := row.(*Row)
		for _, event := range d.events.([]eventstore.Event[E]) {
			op := fold(r, event)
			if err := done(op.outcome, op.err); err != nil {
				return err
			}
		}
		return nil
	}
	return FoldSource[Row]{s}
}

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
	var sources []source
	for _, f := range folds {
		sources = append(sources, f.source)
	}
	p := mustMake("NewTable", name, &o, sources)
	var err error
	if p.table, err = rowset.New[Row](identifier(o.Tables[0], p.options.Version)); err != nil {
		panic(fmt.Sprintf("projection.NewTable: projection %q: %v", name, err))
	}
	return p
}
