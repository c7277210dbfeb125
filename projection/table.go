package projection

import (
	"fmt"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

// Op is the outcome of a fold for its row: [Put], [Delete], [Skip] or [Fail].
type Op struct {
	outcome rowset.Outcome
	err     error
}

// The outcomes of a fold.
var (
	Put    = Op{outcome: rowset.Put}    // the row is stored as the fold has changed it
	Delete = Op{outcome: rowset.Delete} // the row is deleted, or stays absent
	Skip   = Op{outcome: rowset.Skip}   // the event does not concern the row, and the row stays as it was
)

// Fail says that the event cannot be folded into the row. The event becomes a dead letter, and the row stays as it was.
func Fail(err error) Op { return Op{outcome: rowset.Fail, err: err} }

// FoldSource is a kind of events that are folded into rows of type Row: see [Fold].
type FoldSource[Row any] struct{ source source }

// Fold says how the events whose types are in the codec change the rows of a table: key returns the key of the row, and
// fold changes the row. Both must be pure, because they may be called more than once for an event. A row that does not
// exist yet is zero except for its key. The key of an event must never change. Fold panics when the codec or one of the
// functions is nil, or the codec decodes no type.
func Fold[Row, E any](c *codec.Codec[E], key func(eventstore.Event[E]) string, fold func(*Row, eventstore.Event[E]) Op) FoldSource[Row] {
	mustHave("Fold", c, given{"the key", key == nil}, given{"the fold", fold == nil})
	return foldSource(keyed(newSource(c), key, nil), fold)
}

// FoldKeys is [Fold] for events that can concern several rows, such as a transfer from one account to another. The
// function fold is called once for each key, and reads the key from the row. An event without keys concerns no row.
// When an event cannot be folded into one of its rows, it is a dead letter of that row alone.
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

// NewTable returns a projection that is a table with one row per key. Events are folded into the rows. The runner loads
// the rows that a batch concerns, folds in memory, and writes the rows back together. While the table is built from the
// beginning of the log, the runner keeps rows in memory and copies them in.
//
// Row is a struct with a field for each column that the folds use. A field of type string can hold a column of any
// type, such as a date, as text. The column's name is the field's tag, such as `db:"opened_on"`, or else the field's
// name in snake case. The tag "-" leaves a field out. One field, of type string, is the key: its tag ends with ",key",
// and its column is the primary key or has a unique index.
//
// The table has the name of the projection unless [Options.Tables] has another name. [Options.DDL] must make the table.
// NewTable panics like [New], and when Row does not have this form.
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
