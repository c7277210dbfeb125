package migrations_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/migrations"
)

// TestCustomSchema: two stores in one database are independent of each other.
func TestCustomSchema(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	custom := &migrations.Config{Schema: "second_1"}
	mustUp(t, pool, nil)
	if err := migrations.Validate(t.Context(), pool, custom); !errors.Is(err, migrations.ErrPending) {
		t.Errorf("only the default one is migrated: %v, want ErrPending", err)
	}
	mustUp(t, pool, custom)

	first, second := open(t, pool, migrations.DefaultSchema), open(t, pool, custom.Schema)
	mustAppend(t, first, `"a"`)
	mustAppend(t, second, `"b"`)
	mustAppend(t, first, `"c"`)
	if diff := cmp.Diff([]string{`"a"`, `"c"`}, payloads(t, first)); diff != "" {
		t.Errorf("default schema (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`"b"`}, payloads(t, second)); diff != "" {
		t.Errorf("custom schema (-want +got):\n%s", diff)
	}

	// Down of one store leaves the other unchanged.
	mustDown(t, pool, custom)
	for _, object := range objects(t, pool) {
		if strings.Contains(object, custom.Schema) {
			t.Errorf("left behind: %s", object)
		}
	}
	if err := migrations.Validate(t.Context(), pool, nil); err != nil {
		t.Errorf("the default one: %v", err)
	}
	mustAppend(t, first, `"d"`)
}

// strayFunctions lists the functions of a schema whose text names the default schema. It looks for the word with a dot,
// or after "schema": the word alone proves nothing, because a function has the same name.
const strayFunctions = `
select p.oid::regprocedure::text
  from pg_proc p
 where p.pronamespace = $1::regnamespace
   and pg_get_functiondef(p.oid) ~* '("tidemark"|\mtidemark)\s*\.|schema\s+"?tidemark\M'
 order by 1`

// strayDependencies lists the objects of one schema that depend on objects of another schema.
const strayDependencies = `
with ours as (
    select 'pg_class'::regclass as classid, oid, relnamespace as schema from pg_class
    union all
    select 'pg_proc'::regclass, oid, pronamespace from pg_proc
    union all
    select 'pg_type'::regclass, oid, typnamespace from pg_type
    union all
    select 'pg_trigger'::regclass, t.oid, c.relnamespace from pg_trigger t join pg_class c on c.oid = t.tgrelid
    union all
    select 'pg_attrdef'::regclass, d.oid, c.relnamespace from pg_attrdef d join pg_class c on c.oid = d.adrelid
    union all
    select 'pg_constraint'::regclass, oid, connamespace from pg_constraint)
select pg_describe_object(d.classid, d.objid, d.objsubid) || ' needs ' ||
       pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
  from pg_depend d
  join ours a on (a.classid, a.oid) = (d.classid, d.objid)
  join ours b on (b.classid, b.oid) = (d.refclassid, d.refobjid)
 where a.schema = $1::regnamespace
   and b.schema = $2::regnamespace
 order by 1`

// TestSubstitutionIsComplete: no object in a custom schema refers to the default schema. Both schemas exist, because
// otherwise a reference to the default schema would make Up fail.
func TestSubstitutionIsComplete(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	const schema = "elsewhere"
	mustUp(t, pool, nil)
	mustUp(t, pool, &migrations.Config{Schema: schema})

	if got := query[string](t, pool, strayFunctions, schema); len(got) > 0 {
		t.Errorf("functions that name the default schema: %v", got)
	}
	if got := query[string](t, pool, strayFunctions, migrations.DefaultSchema); len(got) < 3 {
		t.Errorf("the check is blind: it finds only %v in the default schema itself", got)
	}
	if got := query[string](t, pool, strayDependencies, schema, migrations.DefaultSchema); len(got) > 0 {
		t.Errorf("objects that need the default schema: %v", got)
	}
	if got := query[string](t, pool, strayDependencies, schema, schema); len(got) == 0 {
		t.Error("the check is blind: it finds no dependency within the schema")
	}
	rename := strings.NewReplacer(" "+schema, " tidemark", `"`, "").Replace
	var want, got []string
	for _, object := range objects(t, pool) {
		if strings.Contains(object, schema) {
			got = append(got, rename(object))
		} else {
			want = append(want, object)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the schemas differ (-default +custom):\n%s", diff)
	}
}

// TestCustomSchemaAlone: a store works in a database without the default schema. This also holds for a schema whose
// name is an SQL keyword or contains the default name.
func TestCustomSchemaAlone(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{"_", "user", "tidemark_2", "my_tidemark", strings.Repeat("x", 63)} {
		t.Run(schema, func(t *testing.T) {
			t.Parallel()
			pool := empty(t)
			config := &migrations.Config{Schema: schema}
			mustUp(t, pool, config)
			store := open(t, pool, schema)
			mustAppend(t, store, `1`)
			if diff := cmp.Diff([]string{`1`}, payloads(t, store)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			mustDown(t, pool, config)
			if got := objects(t, pool); len(got) > 0 {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

func TestInvalidSchema(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	for _, schema := range []string{"X", "a-b", `a"b`, "a b", "1a", "ä", "a.b", "a\n", strings.Repeat("a", 64), "pg_x"} {
		config := &migrations.Config{Schema: schema}
		for what, err := range map[string]error{
			"Up":       migrations.Up(t.Context(), pool, config),
			"Down":     migrations.Down(t.Context(), pool, config),
			"Validate": migrations.Validate(t.Context(), pool, config),
			"Pending":  pendingErr(t, pool, config),
		} {
			if !errors.Is(err, migrations.ErrInvalidSchema) {
				t.Errorf("%s in schema %q: %v, want ErrInvalidSchema", what, schema, err)
			}
		}
	}
	if got := objects(t, pool); len(got) > 0 {
		t.Errorf("created: %v", got)
	}
	// Empty means the default.
	mustUp(t, pool, &migrations.Config{})
	if err := migrations.Validate(t.Context(), pool, nil); err != nil {
		t.Error(err)
	}
}

func pendingErr(t *testing.T, pool *pgxpool.Pool, config *migrations.Config) error {
	_, err := migrations.Pending(t.Context(), pool, config)
	return err
}
