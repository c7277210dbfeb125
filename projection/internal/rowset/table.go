package rowset

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"unicode"

	"github.com/jackc/pgx/v5"
)

// Querier is a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Table is a table whose rows have a Go type.
type Table interface {
	// Open returns Rows without any row in memory. When no row has changed, it keeps at most limit rows. fresh says
	// that the table is empty: rows that are not in memory are not loaded.
	Open(limit int, fresh bool) Rows
	// Describe asks Postgres about the table's columns. It returns a [ShapeError] if the table cannot hold the rows.
	Describe(ctx context.Context, db Querier) error
}

// New returns a table for rows of a type: a struct with a field for each column, one of which is the key. The error
// says why Row is not such a type.
func New[Row any](name pgx.Identifier) (Table, error) {
	columns, err := columnsOf[Row]()
	if err != nil {
		return nil, err
	}
	t := &tableOf[Row]{name: name, quoted: name.Sanitize(), columns: columns}
	t.prepare()
	return t, nil
}

// column is a field of a row type.
type column struct {
	name   string
	field  []int
	isText bool // the field is a string, of whatever type the column is
}

// tableOf is a table with rows of type Row. The first column is the key.
type tableOf[Row any] struct {
	name    pgx.Identifier
	quoted  string // the name
	columns []column

	loadSQL, deleteSQL string
	described          atomic.Pointer[tableShape]
}

// columnsOf returns the columns of a row type. The key comes first.
func columnsOf[Row any]() ([]column, error) {
	t := reflect.TypeFor[Row]()
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("rows are structs, not %v", t)
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
			return nil, fmt.Errorf("two fields of %v are the column %s", t, tag)
		}
		taken[tag] = true
		for n := 1; n < len(f.Index); n++ {
			if t.FieldByIndex(f.Index[:n]).Type.Kind() == reflect.Pointer {
				return nil, fmt.Errorf("%v embeds a pointer, which would be nil: embed the struct", t)
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
		return nil, fmt.Errorf(`one field of %v, a string, must be the key and have a tag such as db:"account,key"`, t)
	}
	return columns, nil
}

// snake returns a name in snake case, such as opened_on for OpenedOn, and id for ID.
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

// names returns the quoted names of the columns, each with a prefix.
func (t *tableOf[Row]) names(prefix string) string {
	var names []string
	for _, c := range t.columns {
		names = append(names, prefix+pgx.Identifier{c.name}.Sanitize())
	}
	return strings.Join(names, ", ")
}

func (t *tableOf[Row]) prepare() {
	key := pgx.Identifier{t.columns[0].name}.Sanitize()
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
		  from ` + t.quoted + `
		 where ` + key + ` = any ($1)`
	t.deleteSQL = `
		delete from ` + t.quoted + `
		 where ` + key + ` = any ($1)`
}

// Open implements [Table].
func (t *tableOf[Row]) Open(limit int, fresh bool) Rows {
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

// values returns the fields of a row to be sent. Fields are returned as pointers, which avoids copies. A field that is
// a pointer is returned as it is.
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
