package rowset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidemark-es/tidemark/internal/panics"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// Rows are rows of a table that one owner holds in memory: the rows of the table as of the last flush, with the changes
// made since then. Only the owner may write rows with these keys.
type Rows interface {
	// Load loads the rows of some keys, if they are not in memory yet.
	Load(ctx context.Context, db Querier, keys []string) error
	// Settled reports whether the row of a key is the row that the table would return for it. The key must have been
	// loaded. If the row is not settled, the rows must be flushed, and the key loaded again, before another change is
	// folded into it.
	Settled(key string) bool
	// Fold changes the row of a key, which must have been loaded. After an error the rows must not be used any more.
	Fold(key string, change Change) error
	// Dirty returns how many rows have changed since the last flush.
	Dirty() int
	// Flush writes the rows that have changed. Many new rows are written by COPY, which is faster.
	Flush(ctx context.Context, tx pgx.Tx) error
	// Flushed notes that the flush was committed.
	Flushed()
	// Replace writes the row of a key that was folded again from the beginning, or deletes it if there is none.
	Replace(ctx context.Context, tx pgx.Tx, key string) error
}

// Change changes a row.
type Change interface {
	// Apply changes the row that the pointer row points to, once or several times. After each change it calls done with
	// the outcome. It returns the first error of done.
	Apply(row any, done func(Outcome, error) error) error
}

// Outcome is what happens to a row after a change.
type Outcome int

// The outcomes of a change. Zero is none of them.
const (
	Put    Outcome = iota + 1 // the row is stored as it is
	Delete                    // the row is deleted, or stays absent
	Skip                      // the row is as it was before
	Fail                      // the row cannot be changed, for the reason given with it
)

// ValueError is why the row of one key cannot be read or written. The key comes last in its text. The text before the
// key determines the group of dead letters.
type ValueError struct{ err error }

// Error names the table, the field, the column and the row's key.
func (e *ValueError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *ValueError) Unwrap() error { return e.err }

// ShapeError is why no row of a table can ever be read or written.
type ShapeError struct{ err error }

// Error names the table and the column.
func (e *ShapeError) Error() string { return e.err.Error() }

func shapeError(format string, args ...any) error { return &ShapeError{fmt.Errorf(format, args...)} }

// entry is a row in memory.
type entry[Row any] struct {
	row     Row
	stored  bool // the row is in the table
	present bool // the row must be in the table after the next flush
	changed bool
	unsure  bool  // only the database knows which row it would return
	err     error // why the row cannot be loaded
}

type rowsOf[Row any] struct {
	table    *tableOf[Row]
	d        *tableShape
	keepers  []*keeper // nil if the rows are plain
	entries  map[string]*entry[Row]
	changed  []*entry[Row]
	limit    int  // of entries, after a flush
	complete bool // a row that is not in memory is not in the table either
}

// Load implements [Rows].
func (r *rowsOf[Row]) Load(ctx context.Context, db Querier, keys []string) error {
	if err := r.know(ctx, db); err != nil {
		return err
	}
	missing := make(map[string]*entry[Row])
	for _, key := range keys {
		if _, ok := r.entries[key]; ok {
			continue
		}
		e := &entry[Row]{}
		r.clear(e, key)
		r.entries[key] = e
		missing[key] = e
	}
	if len(missing) == 0 || r.complete {
		return nil
	}
	found, err := db.Query(ctx, r.table.loadSQL, slices.Collect(maps.Keys(missing)))
	if err != nil {
		return err
	}
	return r.read(found, missing)
}

// know describes the table, unless that was done before.
func (r *rowsOf[Row]) know(ctx context.Context, db Querier) error {
	if r.d != nil {
		return nil
	}
	if r.table.described.Load() == nil {
		if err := r.table.Describe(ctx, db); err != nil {
			return err
		}
	}
	if r.d = r.table.described.Load(); r.d == nil { // another partition has cleared the description after a failed flush
		return r.know(ctx, db)
	}
	if r.keepers = nil; !r.d.plain {
		r.keepers = r.d.keepers()
	}
	return nil
}

// read reads rows into their entries. A row that cannot be read is an error of its key only.
func (r *rowsOf[Row]) read(found pgx.Rows, missing map[string]*entry[Row]) error {
	defer found.Close()
	var row Row
	pointers := r.table.pointers(&row, nil)
	var plans []pgtype.ScanPlan
	for found.Next() {
		if plans == nil {
			for n, f := range found.FieldDescriptions() {
				plans = append(plans, found.Conn().TypeMap().PlanScan(f.DataTypeOID, f.Format, pointers[n]))
			}
		}
		raw := found.RawValues()
		key := string(raw[0]) // the key is read as text
		e := missing[key]
		if e == nil {
			return fmt.Errorf("%w: %q", ErrOtherKey, key)
		}
		e.err = r.scan(plans, raw, &row, pointers)
		e.row, e.stored, e.present = row, true, true
		row = *new(Row) // the values that the row points to belong to the entry now
	}
	return found.Err()
}

func (r *rowsOf[Row]) scan(plans []pgtype.ScanPlan, raw [][]byte, row *Row, pointers []any) (err error) {
	defer panics.Recover(&err)
	for n, plan := range plans {
		if err := plan.Scan(raw[n], pointers[n]); err != nil {
			return r.valueError("read from", n, string(raw[0]), err)
		}
		if r.keepers != nil {
			inUTC(reflect.ValueOf(row).Elem().FieldByIndex(r.table.columns[n].field))
		}
	}
	return nil
}

// valueError names the value that cannot be read or written.
func (r *rowsOf[Row]) valueError(does string, n int, key string, err error) error {
	c := r.table.columns[n]
	field := reflect.TypeFor[Row]().FieldByIndex(c.field)
	return &ValueError{fmt.Errorf("table %s: field %s (%v) cannot be %s column %q: %w (row %q)",
		r.table.quoted, field.Name, field.Type, does, c.name, err, key)}
}

// clear sets an entry to the row of a key before its first event.
func (r *rowsOf[Row]) clear(e *entry[Row], key string) {
	e.row = *new(Row)
	reflect.ValueOf(&e.row).Elem().FieldByIndex(r.table.columns[0].field).SetString(key)
}

// ErrOtherKey is the error when the table returns a key in another form than it was asked for: padded, or a number that
// is written in another way.
var ErrOtherKey = errors.New("the key column does not hold keys as they are: the table has")

// ErrWrongKey is the error of a fold that has changed the key of its row.
var ErrWrongKey = errors.New("the fold has changed the key of the row")

// Fold implements [Rows]. If the change panics, Fold returns an error.
func (r *rowsOf[Row]) Fold(key string, change Change) (err error) {
	defer panics.Recover(&err)
	e := r.entries[key]
	if e.err != nil {
		return e.err
	}
	before := e.row
	return change.Apply(&e.row, func(outcome Outcome, reason error) error {
		switch outcome {
		case Put:
			if r.keyOf(e) != key {
				return ErrWrongKey
			}
			e.present = true
			if err := r.settle(e); err != nil {
				return err
			}
		case Delete:
			e.present, e.unsure = false, false
			r.clear(e, key)
		case Skip:
			e.row = before
			return nil
		case Fail:
			if reason == nil {
				return errors.New("the fold returned Fail without an error")
			}
			return reason
		default:
			return errors.New("the fold returned none of Put, Delete, Skip and Fail")
		}
		if !e.changed {
			e.changed = true
			r.changed = append(r.changed, e)
		}
		before = e.row
		return nil
	})
}

// Settled implements [Rows].
func (r *rowsOf[Row]) Settled(key string) bool {
	e := r.entries[key]
	return !e.changed || !e.unsure
}

// settle sets a row to the row that the database would return for it, as far as that is certain.
func (r *rowsOf[Row]) settle(e *entry[Row]) error {
	if e.unsure = r.d.unsure; r.keepers == nil {
		return nil
	}
	var kept Row
	from, to := reflect.ValueOf(&e.row).Elem(), reflect.ValueOf(&kept).Elem()
	for n, k := range r.keepers {
		sure, err := k.take(from.FieldByIndex(r.table.columns[n].field), to.FieldByIndex(r.table.columns[n].field))
		if err != nil {
			return r.valueError("written to", n, r.keyOf(e), err)
		}
		e.unsure = e.unsure || !sure
	}
	e.row = kept
	return nil
}

// Dirty implements [Rows].
func (r *rowsOf[Row]) Dirty() int { return len(r.changed) }

// copyFrom is the number of new rows from which rows are written by COPY.
const copyFrom = 200

// Flush implements [Rows].
func (r *rowsOf[Row]) Flush(ctx context.Context, tx pgx.Tx) error {
	var added, kept []*entry[Row]
	var gone []string
	for _, e := range r.changed {
		switch {
		case e.present && !e.stored:
			added = append(added, e)
		case e.present:
			kept = append(kept, e)
		case e.stored:
			gone = append(gone, r.keyOf(e))
		}
	}
	if len(gone) > 0 {
		if _, err := tx.Exec(ctx, r.table.deleteSQL, gone); err != nil {
			return err
		}
	}
	if len(added) < copyFrom || !r.d.copies {
		kept, added = append(kept, added...), nil
	}
	err := r.upsert(ctx, tx, kept)
	if err == nil {
		err = r.copyIn(ctx, tx, added)
	}
	if err != nil {
		err = r.refused(append(kept, added...), err)
		r.table.described.Store(nil) // the table may have changed
	}
	return err
}

// refused returns the error of a failed flush, and names the row that cannot be written if it is known.
func (r *rowsOf[Row]) refused(entries []*entry[Row], err error) error {
	for _, k := range r.d.senders() {
		for _, e := range entries {
			from := reflect.ValueOf(&e.row).Elem().FieldByIndex(r.table.columns[k.column].field)
			if err := k.sends(from); err != nil {
				return r.valueError("written to", k.column, r.keyOf(e), err)
			}
		}
	}
	if len(entries) == 1 && pgerr.KindOf(err) == pgerr.Data {
		err = fmt.Errorf("table %s: %w (row %q)", r.table.quoted, err, r.keyOf(entries[0]))
	}
	return err
}

// copyIn writes new rows by COPY.
func (r *rowsOf[Row]) copyIn(ctx context.Context, tx pgx.Tx, added []*entry[Row]) error {
	if len(added) == 0 {
		return nil
	}
	names := make([]string, len(r.table.columns))
	for n, c := range r.table.columns {
		names[n] = c.name
	}
	next, values := 0, make([]any, 0, len(r.table.columns))
	_, err := tx.CopyFrom(ctx, r.table.name, names, pgx.CopyFromFunc(func() ([]any, error) {
		if next == len(added) {
			return nil, nil
		}
		next++
		values = r.table.values(&added[next-1].row, values[:0])
		for n, c := range r.table.columns {
			if c.isText && values[n] != nil { // pgx converts a plain string to the type of the column
				values[n] = plainText(values[n])
			}
		}
		return values, nil
	}))
	return err
}

// plainText returns the string that a pointer points to. The string may have a named type.
func plainText(pointer any) any { return reflect.ValueOf(pointer).Elem().String() }

func (r *rowsOf[Row]) keyOf(e *entry[Row]) string {
	return reflect.ValueOf(&e.row).Elem().FieldByIndex(r.table.columns[0].field).String()
}

// upsert writes rows with one statement. Its arguments are arrays with one element per row.
func (r *rowsOf[Row]) upsert(ctx context.Context, tx pgx.Tx, entries []*entry[Row]) error {
	if len(entries) == 0 {
		return nil
	}
	arrays := make([][]any, len(r.table.columns))
	texts := tx.Conn().TypeMap()
	var values []any
	for _, e := range entries {
		values = r.table.values(&e.row, values[:0])
		for n, p := range values {
			if r.d.texts[n] {
				text, err := texts.Encode(r.d.oids[n], pgtype.TextFormatCode, p, []byte{}) // nil is NULL
				if err != nil {
					return fmt.Errorf("column %s: %w", r.table.columns[n].name, err)
				}
				p = nil
				if text != nil {
					p = string(text)
				}
			}
			arrays[n] = append(arrays[n], p)
		}
	}
	var args []any
	switch tx.Conn().Config().DefaultQueryExecMode {
	case pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol:
		// Postgres must be asked for the types of the arrays, because their Go type does not say it. In a transaction a
		// pooler allows that.
		args = append(args, pgx.QueryExecModeDescribeExec)
	}
	for n := range arrays {
		args = append(args, arrays[n])
	}
	_, err := tx.Exec(ctx, r.d.upsertSQL, args...)
	return err
}

// Flushed implements [Rows].
func (r *rowsOf[Row]) Flushed() {
	for _, e := range r.changed {
		if e.stored, e.changed = e.present, false; e.unsure {
			delete(r.entries, r.keyOf(e))
			r.complete = false
		}
	}
	if r.d.volatile {
		clear(r.entries)
		r.complete = false
	}
	clear(r.changed)
	r.changed = r.changed[:0]
	if len(r.entries) <= r.limit {
		return
	}
	r.complete = false
	for key := range r.entries { // any entries: a map has no order
		if delete(r.entries, key); len(r.entries) <= r.limit/2 {
			return
		}
	}
}

// Replace implements [Rows].
func (r *rowsOf[Row]) Replace(ctx context.Context, tx pgx.Tx, key string) error {
	if _, err := tx.Exec(ctx, r.table.deleteSQL, []string{key}); err != nil {
		return err
	}
	return r.Flush(ctx, tx)
}
