package rowset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidemark-es/tidemark/internal/panics"
)

// tableShape is the description of a table by Postgres, and how the table's rows are written and kept.
type tableShape struct {
	upsertSQL string
	copies    bool     // COPY accepts all columns as pgx sends them
	texts     []bool   // per column: sent as text, because it is an array or of a type that pgx does not know
	oids      []uint32 // per column
	keeps     []keep   // per column
	plain     bool     // a row that is kept is the same as the row that the database returns
	unsure    bool     // triggers or rules may change any row when it is written
	volatile  bool     // statements on other tables may change stored rows
	types     *pgtype.Map
}

// attribute is a column of the table in Postgres.
type attribute struct {
	Name    string
	OID     uint32
	Type    string
	IsArray bool
	IsEnum  bool // an enum, or an array of enums

	IsRequired bool   // the column is not null and has no default
	IsComputed bool   // Postgres computes the value, and accepts no other
	Base       uint32 // the type below a domain
	Modifier   int32  // such as the scale of a numeric; -1 for none

	known     bool // pgx knows the type
	knownBase bool
}

// A domain may be based on another domain. The modifier is that of the column, or that of the first domain that has
// one.
const describeSQL = `
select attname::text, atttypid, format_type(atttypid, -1), format_type(atttypid, -1) like '%[]',
       coalesce(element.typtype, own.typtype) = 'e',
       attnotnull and not atthasdef and attidentity = '' as is_required,
       attgenerated <> '' or attidentity = 'a' as is_computed,
       base.oid, base.modifier
  from pg_attribute
  join pg_type own on own.oid = atttypid
  left join pg_type element on element.oid = own.typelem and own.typcategory = 'A'
 cross join lateral (
       with recursive below (oid, modifier, level) as (
           select atttypid, atttypmod, 0
            union all
           select t.typbasetype, case when below.modifier >= 0 then below.modifier else t.typtypmod end, level + 1
             from below
             join pg_type t on t.oid = below.oid and t.typtype = 'd')
       select oid, modifier
         from below
        order by level desc
        limit 1) base
 where attrelid = $1::regclass
   and attnum > 0
   and not attisdropped`

// Of the internal triggers, only those of foreign keys change rows. Foreign keys are in pg_constraint.
const tableSQL = `
select exists (select
                 from pg_trigger
                where tgrelid = c.oid
                  and not tgisinternal
                  and tgenabled <> 'D'
                  and tgtype & (4 | 16) > 0) or relhasrules, -- insert or update
       exists (select
                 from pg_constraint
                where conrelid = c.oid
                  and contype = 'f'
                  and (confdeltype in ('c', 'n', 'd') or confupdtype in ('c', 'n', 'd'))),
       exists (select
                 from pg_index i
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                where i.indrelid = c.oid
                  and i.indisunique
                  and i.indisvalid
                  and i.indimmediate
                  and i.indpred is null
                  and i.indnkeyatts = 1
                  and a.attname = $2)
  from pg_class c
 where c.oid = $1::regclass`

// Describe implements [Table].
func (t *tableOf[Row]) Describe(ctx context.Context, db Querier) error {
	d := &tableShape{copies: true, plain: t.whole()}
	var unique bool
	found, _ := db.Query(ctx, tableSQL, t.quoted, t.columns[0].name)
	_, err := pgx.ForEachRow(found, []any{&d.unsure, &d.volatile, &unique}, func() error { return nil })
	if err != nil {
		return err
	}
	attributes, iso, err := t.attributes(ctx, db, d)
	if err != nil {
		return err
	}
	if err := t.complain(attributes, unique); err != nil {
		return err
	}
	t.plan(d, attributes, iso)
	if err := t.fits(d, attributes); err != nil {
		return err
	}
	t.described.Store(d)
	return nil
}

// attributes returns the columns by name, and whether Postgres writes dates in ISO 8601.
func (t *tableOf[Row]) attributes(ctx context.Context, db Querier, d *tableShape) (map[string]attribute, bool, error) {
	found, err := db.Query(ctx, describeSQL, t.quoted)
	if err != nil {
		return nil, false, err
	}
	defer found.Close()
	byName, iso := make(map[string]attribute), false
	for found.Next() {
		var a attribute
		err := found.Scan(&a.Name, &a.OID, &a.Type, &a.IsArray, &a.IsEnum, &a.IsRequired, &a.IsComputed, &a.Base, &a.Modifier)
		if err != nil {
			return nil, false, err
		}
		conn := found.Conn() // the connection is not used by anything else now
		types := conn.TypeMap()
		_, a.known = types.TypeForOID(a.OID)
		_, a.knownBase = types.TypeForOID(a.Base)
		byName[a.Name] = a
		if d.types == nil {
			d.types = copyTypes(types)
			iso = strings.HasPrefix(conn.PgConn().ParameterStatus("DateStyle"), "ISO")
		}
	}
	return byName, iso, found.Err()
}

// complain returns an error if no row can ever be written.
func (t *tableOf[Row]) complain(byName map[string]attribute, unique bool) error {
	for _, c := range t.columns {
		a, ok := byName[c.name]
		switch {
		case !ok:
			return shapeError("table %s has no column %s, which %T has", t.quoted, c.name, *new(Row))
		case a.IsComputed:
			return shapeError("column %s of table %s is generated by Postgres, so that field %s of %T cannot be stored: "+
				`leave the field out with the tag db:"-"`, c.name, t.quoted, t.fieldName(c), *new(Row))
		}
	}
	for name, a := range byName {
		has := slices.ContainsFunc(t.columns, func(c column) bool { return c.name == name })
		if a.IsRequired && !a.IsComputed && !has {
			return shapeError("column %s of table %s is not null and has no default, and %T has no such field",
				name, t.quoted, *new(Row))
		}
	}
	if key := t.columns[0].name; !unique {
		return shapeError("column %s of table %s is the key of %T, and has no primary key or unique index of its own: "+
			"add one, and call Operator.Resume", key, t.quoted, *new(Row))
	}
	return nil
}

func (t *tableOf[Row]) fieldName(c column) string {
	return reflect.TypeFor[Row]().FieldByIndex(c.field).Name
}

// plan decides how each column is written and kept.
func (t *tableOf[Row]) plan(d *tableShape, byName map[string]attribute, iso bool) {
	var arrays, selected, sets []string
	types := d.typeMap()
	for n, c := range t.columns {
		a := byName[c.name]
		field := reflect.TypeFor[Row]().FieldByIndex(c.field).Type
		d.copies = d.copies && (a.known || a.IsEnum) && !(c.isText && custom(field)) // pgx sends values of types that it does not know as text, like enums
		k := keepOf(field, c.isText, a, iso)
		if k.how == keepEncoded && !c.isText && !encodes(types, a.Base, types.FormatCodeForOID(a.Base), field) {
			k.how = keepReload // sent as text, from which Postgres makes a value
		}
		d.keeps = append(d.keeps, k)
		d.plain = d.plain && d.keeps[n].how == keepAsIs
		column := pgx.Identifier{c.name}.Sanitize()
		known := a.known && !c.isText
		asText, element, value := a.IsArray || !known, a.Type, "u."+column
		if asText {
			element, value = "text", value+"::"+a.Type
		}
		oid := a.OID
		switch {
		case known:
		case a.knownBase && !c.isText: // the column's type is a domain
			oid = a.Base
		case a.IsArray && !c.isText:
			oid = pgtype.TextArrayOID
		default:
			oid = pgtype.TextOID
		}
		d.texts, d.oids = append(d.texts, asText), append(d.oids, oid)
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
		t.quoted, t.names(""), strings.Join(selected, ", "), strings.Join(arrays, ", "), t.names(""),
		pgx.Identifier{t.columns[0].name}.Sanitize(), action)
}

// unscannable is the type of the plan that pgx returns for a value that it cannot scan.
var unscannable = reflect.TypeOf(pgtype.NewMap().PlanScan(pgtype.BoolOID, pgtype.BinaryFormatCode, new(chan int)))

// fits returns an error if pgx can never write the type of a field to its column, or read it from there.
func (t *tableOf[Row]) fits(d *tableShape, byName map[string]attribute) error {
	types := d.typeMap()
	for n, c := range t.columns {
		if c.isText { // Postgres converts a text to any type
			continue
		}
		a, field := byName[c.name], reflect.TypeFor[Row]().FieldByIndex(c.field).Type
		does := ""
		if !encodes(types, d.oids[n], d.format(types, n), field) {
			does = "cannot be written to"
		} else if plan := types.PlanScan(a.Base, types.FormatCodeForOID(a.Base), reflect.New(field).Interface()); reflect.TypeOf(plan) == unscannable {
			does = "cannot be read from"
		}
		if does != "" {
			return shapeError("field %s of %T, which is %v, %s column %s of table %s, which is %s: "+
				"change the field, or the column and Options.Version",
				t.fieldName(c), *new(Row), field, does, c.name, t.quoted, a.Type)
		}
	}
	return nil
}

// typeMap returns a copy of the types for one goroutine. A map caches plans, so goroutines must not share it.
func (d *tableShape) typeMap() *pgtype.Map { return copyTypes(d.types) }

func copyTypes(types *pgtype.Map) *pgtype.Map {
	own := types.Copy()
	own.TryWrapEncodePlanFuncs = slices.Clone(types.TryWrapEncodePlanFuncs)
	own.TryWrapScanPlanFuncs = slices.Clone(types.TryWrapScanPlanFuncs)
	return own
}

// format returns the format in which a column is sent.
func (d *tableShape) format(types *pgtype.Map, n int) int16 {
	if d.texts[n] {
		return pgtype.TextFormatCode
	}
	return types.FormatCodeForOID(d.oids[n])
}

func encodes(types *pgtype.Map, oid uint32, format int16, field reflect.Type) (can bool) {
	var panicked error
	defer panics.Recover(&panicked) // the application's code may not expect a zero value
	if field.Kind() == reflect.Pointer {
		field = field.Elem()
	}
	can = true
	value := reflect.New(field).Interface()
	plan := types.PlanEncode(oid, format, value)
	if plan == nil {
		return false
	}
	_, err := plan.Encode(value, nil)
	return !errors.As(err, new(*json.UnsupportedTypeError))
}
