package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrChanged means that a schema differs from the schema that the migrations of this release make: see [SchemaError].
var ErrChanged = errors.New("schema differs from what this release of tidemark makes")

// Difference is an object of a schema that differs from the object that the migrations make.
type Difference struct {
	Object  string // such as "column events.position" or "trigger events_immutable on events"
	Problem string // such as "is missing"
}

// SchemaError says how a schema differs from the schema that the migrations of this release make. It unwraps to
// [ErrChanged].
type SchemaError struct {
	Schema      string
	Differences []Difference // at least one, in the order of their objects
	RenamedFrom string       // the schema that the functions still name, if Schema was renamed; otherwise ""
}

// Unwrap returns [ErrChanged].
func (e *SchemaError) Unwrap() error { return ErrChanged }

// Error names up to five differences, and says what to do.
func (e *SchemaError) Error() string {
	if e.RenamedFrom != "" {
		return fmt.Sprintf("%v: schema %s was renamed from %s, and its functions still use %s: "+
			"rename it back (alter schema %s rename to %s)", ErrChanged, e.Schema, e.RenamedFrom, e.RenamedFrom, e.Schema, e.RenamedFrom)
	}
	const most = 5
	var told []string
	for n, d := range e.Differences {
		if n == most {
			told = append(told, fmt.Sprintf("and %d more", len(e.Differences)-most))
			break
		}
		told = append(told, d.Object+" "+d.Problem)
	}
	return fmt.Sprintf("%v: in schema %s, %s: it was edited, restored in part, or migrated by another release; "+
		"make the objects as the release's migrations do, or migrate an empty schema and copy the data",
		ErrChanged, e.Schema, strings.Join(told, "; "))
}

// catalogSQL returns the objects of a schema, in the form of [objects].
const catalogSQL = `
with classes as (
    select c.oid, c.relname::text as name, c.relkind
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1)
select 'table ' || c.name as object, '' as text, '' as body
  from classes c
 where c.relkind = 'r'
union all
select 'column ' || c.name || '.' || a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod),
                 case when a.attnotnull then 'not null' end,
                 case when l.collname = 'C' then 'collate "C"' end,
                 case when a.atthasdef or a.attidentity <> '' then 'default' end),
       ''
  from classes c
  join pg_attribute a on a.attrelid = c.oid
  left join pg_collation l on l.oid = a.attcollation
 where c.relkind = 'r'
   and a.attnum > 0
   and not a.attisdropped
union all
select k.name || ' of ' || c.name, count(*) || ' of them', ''
  from classes c
  join pg_constraint t on t.conrelid = c.oid
  join (values ('p'::"char", 'primary key'), ('u', 'unique'), ('f', 'foreign key'), ('c', 'check')) as k (kind, name)
       on k.kind = t.contype
 group by k.name, c.name
union all
select 'index ' || c.name || ' on ' || o.name,
       concat_ws(' ', case when i.indisvalid then 'valid' else 'invalid' end, case when i.indisunique then 'unique' end),
       ''
  from classes c
  join pg_index i on i.indexrelid = c.oid
  join classes o on o.oid = i.indrelid
 where not exists (select from pg_constraint t where t.conindid = c.oid)
union all
select 'sequence ' || c.name, 'cache ' || s.seqcache, ''
  from classes c
  join pg_sequence s on s.seqrelid = c.oid
 where not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'i') -- of identity columns
union all
select 'trigger ' || t.tgname || ' on ' || c.name,
       concat_ws(' ', case when t.tgtype::int & 2 > 0 then 'before' else 'after' end,
                 concat_ws(' or ', case when t.tgtype::int & 8 > 0 then 'delete' end,
                           case when t.tgtype::int & 4 > 0 then 'insert' end,
                           case when t.tgtype::int & 32 > 0 then 'truncate' end,
                           case when t.tgtype::int & 16 > 0 then 'update' end),
                 'for each', case when t.tgtype::int & 1 > 0 then 'row' else 'statement' end,
                 p.proname,
                 case when t.tgenabled not in ('O', 'A') then 'disabled' end),
       ''
  from classes c
  join pg_trigger t on t.tgrelid = c.oid
  join pg_proc p on p.oid = t.tgfoid
 where not t.tgisinternal
union all
select 'function ' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
       concat_ws(' ', case when p.prosecdef then 'security definer' end,
                 (select string_agg(s, '; ' order by s collate "C") from unnest(p.proconfig) s)),
       p.prosrc
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = $1`

// there returns the objects that are in the schema.
func (m *migrator) there(ctx context.Context) (objects, error) {
	found := objects{}
	var name string
	var d definition
	rows, _ := m.conn.Query(ctx, catalogSQL, m.schema)
	_, err := pgx.ForEachRow(rows, []any{&name, &d.text, &d.body}, func() error {
		d.body = unix(d.body)
		found[name] = d
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("migrations: read the catalog of schema %s: %w", m.schema, err)
	}
	return found, nil
}

// check compares the schema with the objects that these steps make. It returns a [SchemaError] if they differ.
func (m *migrator) check(ctx context.Context, steps []Migration) error {
	have, err := m.there(ctx)
	if err != nil {
		return err
	}
	want := wanted(steps)
	differences := compare(want, have, m.schema)
	if len(differences) == 0 {
		return nil
	}
	return fmt.Errorf("migrations: %w", &SchemaError{
		Schema: m.schema, Differences: differences, RenamedFrom: renamedFrom(want, have, m.schema),
	})
}
