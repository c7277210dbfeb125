package projection

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// rows are the rows of a table that a partition holds in memory. They are what the table holds, as of
// the last flush, and what the events since have made of them. Nobody else writes rows of these keys
// as long as the fencing token is the same.
type rows interface {
	// load makes sure that the rows of some items' keys are in memory.
	load(ctx context.Context, db querier, items []item, which []int) error
	// fold folds an item into its row, which must have been loaded. After an error the rows are of
	// no use any more.
	fold(i *item) error
	// dirty is how many rows have changed since the last flush.
	dirty() int
	// flush writes the rows that have changed; copying the new ones in is faster for many.
	flush(ctx context.Context, tx pgx.Tx) error
	// flushed notes that the flush was committed.
	flushed()
	// replace writes the row of a key that was folded anew, or deletes it if there is none.
	replace(ctx context.Context, tx pgx.Tx, key string) error
}

// entry is a row in memory.
type entry[Row any] struct {
	row     Row
	stored  bool // it is in the table
	present bool // it is to be there
	changed bool
}

type rowsOf[Row any] struct {
	*tableOf[Row]
	entries  map[string]*entry[Row]
	changed  []*entry[Row]
	limit    int  // of entries, when nothing is dirty
	complete bool // what is not in memory is not in the table
}

// described is what Postgres says of a table.
type described struct {
	upsertSQL string
	copies    bool     // COPY takes all of them as pgx sends them
	texts     []bool   // per column: sent as text, since it is an array or of a type that pgx does not know
	oids      []uint32 // per column
}

func (r *rowsOf[Row]) load(ctx context.Context, db querier, items []item, which []int) error {
	var missing []string
	for _, n := range which {
		key := items[n].keyText()
		if _, ok := r.entries[key]; ok || items[n].err != nil {
			continue
		}
		e := &entry[Row]{}
		r.clear(e, key)
		r.entries[key] = e
		if !r.complete {
			missing = append(missing, key)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	found, err := db.Query(ctx, r.loadSQL, missing)
	if err != nil {
		return err
	}
	var key string
	var row Row
	pointers := r.pointers(&row, nil)
	_, err = pgx.ForEachRow(found, pointers, func() error {
		key = *pointers[0].(*string)
		e := r.entries[key]
		if e == nil {
			return mark(fmt.Errorf("%w: %q", errOtherKey, key), poison)
		}
		e.row, e.stored, e.present = row, true, true
		row = *new(Row) // what it points to belongs to the entry now
		return nil
	})
	return err
}

// clear makes a row what it is before its first event.
func (r *rowsOf[Row]) clear(e *entry[Row], key string) {
	e.row = *new(Row)
	reflect.ValueOf(&e.row).Elem().FieldByIndex(r.columns[0].field).SetString(key)
}

// errOtherKey is why rows cannot be loaded of which the table has the keys in another form: padded, or
// as another number.
var errOtherKey = errors.New("the key column does not hold keys as they are: the table has")

// errWrongKey is why a fold cannot be stored that has changed the row's key.
var errWrongKey = errors.New("the fold has changed the key of the row")

func (r *rowsOf[Row]) fold(i *item) (err error) {
	if i.err != nil {
		return i.err
	}
	defer recovered(&err)
	e := r.entries[i.key]
	return i.source.row.(foldFunc[Row])(&e.row, i.decoded, func(op Op) error {
		switch op.kind {
		case put:
			if reflect.ValueOf(&e.row).Elem().FieldByIndex(r.columns[0].field).String() != i.key {
				return mark(errWrongKey, poison)
			}
			e.present = true
		case remove:
			e.present = false
			r.clear(e, i.key)
		case skip:
			return nil
		case failed:
			if op.err == nil {
				return errors.New("the fold returned Fail without an error")
			}
			return op.err
		default:
			return errors.New("the fold returned none of Put, Delete, Skip and Fail")
		}
		if !e.changed {
			e.changed = true
			r.changed = append(r.changed, e)
		}
		return nil
	})
}

func (r *rowsOf[Row]) dirty() int { return len(r.changed) }

// copyFrom is from how many new rows on they are copied in.
const copyFrom = 200

func (r *rowsOf[Row]) flush(ctx context.Context, tx pgx.Tx) error {
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
		if _, err := tx.Exec(ctx, r.deleteSQL, gone); err != nil {
			return err
		}
	}
	d, err := r.describe(ctx, tx)
	if err != nil {
		return err
	}
	if len(added) < copyFrom || !d.copies {
		kept, added = append(kept, added...), nil
	}
	if err = r.upsert(ctx, tx, d, kept); err == nil {
		err = r.copyIn(ctx, tx, added)
	}
	if err != nil {
		r.described.Store(nil) // it may have changed
	}
	return err
}

// copyIn writes new rows.
func (r *rowsOf[Row]) copyIn(ctx context.Context, tx pgx.Tx, added []*entry[Row]) error {
	if len(added) == 0 {
		return nil
	}
	names := make([]string, len(r.columns))
	for n, c := range r.columns {
		names[n] = c.name
	}
	table := strings.Split(r.name, ".")
	table[len(table)-1] += fmt.Sprintf("_v%d", r.version)
	next, values := 0, make([]any, 0, len(r.columns))
	_, err := tx.CopyFrom(ctx, table, names, pgx.CopyFromFunc(func() ([]any, error) {
		if next == len(added) {
			return nil, nil
		}
		next++
		values = r.values(&added[next-1].row, values[:0])
		for n, c := range r.columns {
			if c.isText && values[n] != nil { // which pgx turns into what the column is
				values[n] = plainText(values[n])
			}
		}
		return values, nil
	}))
	return err
}

// plainText returns the string that a pointer to one, of whatever name, points to.
func plainText(pointer any) any { return reflect.ValueOf(pointer).Elem().String() }

func (r *rowsOf[Row]) keyOf(e *entry[Row]) string {
	return reflect.ValueOf(&e.row).Elem().FieldByIndex(r.columns[0].field).String()
}

// upsert writes rows with one statement, from arrays with an element per row.
func (r *rowsOf[Row]) upsert(ctx context.Context, tx pgx.Tx, d *described, entries []*entry[Row]) error {
	if len(entries) == 0 {
		return nil
	}
	arrays := make([][]any, len(r.columns))
	texts := tx.Conn().TypeMap()
	var values []any
	for _, e := range entries {
		values = r.values(&e.row, values[:0])
		for n, p := range values {
			if d.texts[n] {
				text, err := texts.Encode(d.oids[n], pgtype.TextFormatCode, p, []byte{}) // nil is NULL
				if err != nil {
					return fmt.Errorf("column %s: %w", r.columns[n].name, err)
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
		// What the arrays hold cannot be told from their Go type. Within a transaction a pooler allows it.
		args = append(args, pgx.QueryExecModeDescribeExec)
	}
	for n := range arrays {
		args = append(args, arrays[n])
	}
	_, err := tx.Exec(ctx, d.upsertSQL, args...)
	return err
}

// attribute is a column as Postgres has it.
type attribute struct {
	Name    string
	OID     uint32
	Type    string
	IsArray bool
	IsEnum  bool // or an array of them

	IsRequired bool // there is no row without a value for it
}

func (r *rowsOf[Row]) attributes(ctx context.Context, tx pgx.Tx) (map[string]attribute, error) {
	found, _ := tx.Query(ctx, r.describeSQL, physical(r.name, r.version))
	attributes, err := pgx.CollectRows(found, pgx.RowToStructByPos[attribute])
	byName := make(map[string]attribute)
	for _, a := range attributes {
		byName[a.Name] = a
	}
	return byName, err
}

// complain returns an error when no row could ever be written.
func (r *rowsOf[Row]) complain(byName map[string]attribute) error {
	table := physical(r.name, r.version)
	for _, c := range r.columns {
		if _, ok := byName[c.name]; !ok {
			return Fatal(fmt.Errorf("table %s has no column %s, which %T has", table, c.name, *new(Row)))
		}
	}
	for name, a := range byName {
		has := slices.ContainsFunc(r.columns, func(c column) bool { return c.name == name })
		if a.IsRequired && !has {
			return Fatal(fmt.Errorf("column %s of table %s is not null and has no default, and %T has no such field",
				name, table, *new(Row)))
		}
	}
	return nil
}

// describe asks Postgres for the types of the columns, and makes the statement, unless it is known.
func (r *rowsOf[Row]) describe(ctx context.Context, tx pgx.Tx) (*described, error) {
	if d := r.described.Load(); d != nil {
		return d, nil
	}
	byName, err := r.attributes(ctx, tx)
	if err != nil {
		return nil, err
	}
	if err := r.complain(byName); err != nil {
		return nil, err
	}
	var arrays, selected, sets []string
	d := &described{copies: true}
	for n, c := range r.columns {
		a := byName[c.name]
		column := pgx.Identifier{c.name}.Sanitize()
		_, known := tx.Conn().TypeMap().TypeForOID(a.OID)
		d.copies = d.copies && (known || a.IsEnum) // pgx sends what it does not know as text, like enums
		known = known && !c.isText
		asText, element, value := a.IsArray || !known, a.Type, "u."+column
		if asText {
			element, value = "text", value+"::"+a.Type
		}
		switch {
		case !known && a.IsArray && !c.isText:
			a.OID = pgtype.TextArrayOID
		case !known:
			a.OID = pgtype.TextOID
		}
		d.texts, d.oids = append(d.texts, asText), append(d.oids, a.OID)
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", n+1, element))
		selected = append(selected, value)
		if n > 0 {
			sets = append(sets, column+" = excluded."+column)
		}
	}
	action := "nothing"
	if len(sets) > 0 {
		action = "update set " + strings.Join(sets, ", ")
	}
	d.upsertSQL = fmt.Sprintf(`
		insert into %s (%s)
		select %s
		  from unnest(%s) as u (%s)
		on conflict (%s) do %s`,
		physical(r.name, r.version), r.names(""), strings.Join(selected, ", "), strings.Join(arrays, ", "), r.names(""),
		pgx.Identifier{r.columns[0].name}.Sanitize(), action)
	r.described.Store(d)
	return d, nil
}

func (r *rowsOf[Row]) flushed() {
	for _, e := range r.changed {
		e.stored, e.changed = e.present, false
	}
	clear(r.changed)
	r.changed = r.changed[:0]
	if len(r.entries) <= r.limit {
		return
	}
	r.complete = false
	for key := range r.entries { // any of them: there is no order in a map
		if delete(r.entries, key); len(r.entries) <= r.limit/2 {
			return
		}
	}
}

func (r *rowsOf[Row]) replace(ctx context.Context, tx pgx.Tx, key string) error {
	if _, err := tx.Exec(ctx, r.deleteSQL, []string{key}); err != nil {
		return err
	}
	return r.flush(ctx, tx)
}
