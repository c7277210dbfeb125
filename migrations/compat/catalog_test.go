package compat_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// catalogSQL has one statement per kind of object. Together the statements describe a schema.
var catalogSQL = map[string]string{
	"tables": `
select concat_ws(' ', c.relkind, c.relname, c.relpersistence, c.reloptions)
  from pg_class c
 where c.relnamespace = 'tidemark'::regnamespace
 order by 1`,
	"columns": `
select concat_ws(' ', c.relname || '.' || a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
                 case when a.attnotnull then 'not null' end,
                 'default ' || pg_get_expr(d.adbin, d.adrelid), 'collate ' || l.collname,
                 a.attidentity, a.attgenerated, a.attstorage)
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid
  left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
  left join pg_collation l on l.oid = a.attcollation
 where c.relnamespace = 'tidemark'::regnamespace
   and c.relkind in ('r', 'p', 'v', 'm')
   and a.attnum > 0
   and not a.attisdropped
 order by 1`,
	"constraints": `
select concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
  from pg_constraint
 where connamespace = 'tidemark'::regnamespace
 order by 1`,
	"indexes": `
select indexdef
  from pg_indexes
 where schemaname = 'tidemark'
 order by 1`,
	"functions": `
select concat_ws(' ', pg_get_functiondef(oid), proacl)
  from pg_proc
 where pronamespace = 'tidemark'::regnamespace
 order by 1`,
	"triggers": `
select concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled)
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
 where c.relnamespace = 'tidemark'::regnamespace
   and not t.tgisinternal
 order by 1`,
	"sequences": `
select concat_ws(' ', s.seqrelid::regclass, format_type(s.seqtypid, null), s.seqstart, s.seqincrement,
                 s.seqmin, s.seqmax, s.seqcache, s.seqcycle, d.refobjid::regclass, d.refobjsubid)
  from pg_sequence s
  join pg_class c on c.oid = s.seqrelid
  left join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = s.seqrelid and d.deptype = 'a'
 where c.relnamespace = 'tidemark'::regnamespace
 order by 1`,
}

// leftSQL lists everything in a database that is neither Postgres's own nor the tools' tables.
const leftSQL = `
with ours as (
    select oid, nspname
      from pg_namespace
     where nspname !~ '^pg_'
       and nspname <> 'information_schema')
select 'schema ' || nspname
  from ours
 where nspname <> 'public'
union all
select 'relation ' || n.nspname || '.' || c.relname
  from pg_class c
  join ours n on n.oid = c.relnamespace
 where c.relname !~ '^(goose_db_version|schema_version)'
union all
select 'function ' || p.oid::regprocedure
  from pg_proc p
  join ours n on n.oid = p.pronamespace
 order by 1`

// catalog describes the schema of the store in a database.
func catalog(t *testing.T, pool *pgxpool.Pool) map[string][]string {
	t.Helper()
	catalog := make(map[string][]string, len(catalogSQL))
	for kind, sql := range catalogSQL {
		catalog[kind] = query(t, pool, sql)
	}
	return catalog
}

func query(t *testing.T, pool *pgxpool.Pool, sql string) []string {
	t.Helper()
	rows, _ := pool.Query(t.Context(), sql)
	values, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return values
}
