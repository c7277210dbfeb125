package migrations_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/migrations"
)

// TestValidateSeesChanges: Validate and Up name each object that differs from the one that the migrations make. Up then
// changes nothing.
func TestValidateSeesChanges(t *testing.T) {
	t.Parallel()
	for change, want := range map[string]migrations.Difference{
		`create or replace function tidemark.refuse_change() returns trigger language plpgsql as $$ begin return new; end $$`: {Object: "function refuse_change()", Problem: "has another text"},
		`alter function tidemark.tidemark() reset search_path`:                                                                {Object: "function tidemark()", Problem: "attributes"},
		`alter function tidemark.tidemark() security invoker`:                                                                 {Object: "function tidemark()", Problem: "attributes"},
		`drop function tidemark.tidemark()`:                                                                                   {Object: "function tidemark()", Problem: "is missing"},
		`alter table tidemark.events drop column metadata cascade`:                                                            {Object: "column events.metadata", Problem: "is missing"},
		`alter table tidemark.events alter column metadata type jsonb`:                                                        {Object: "column events.metadata", Problem: `is "jsonb", want "json"`},
		`alter table tidemark.snapshots alter column data drop not null`:                                                      {Object: "column snapshots.data", Problem: `is "bytea", want "bytea not null"`},
		`alter table tidemark.append_keys alter recorded_at drop default`:                                                     {Object: "column append_keys.recorded_at", Problem: "default"},
		`alter table tidemark.dead_letters alter column key type text collate "default"`:                                      {Object: "column dead_letters.key", Problem: "collate"},
		`alter table tidemark.events rename column type to kind`:                                                              {Object: "column events.type", Problem: "is missing"},
		`alter table tidemark.events drop constraint events_stream_version_key`:                                               {Object: "unique of events", Problem: "is missing"},
		`alter table tidemark.inbox drop constraint inbox_pkey`:                                                               {Object: "primary key of inbox", Problem: "is missing"},
		`alter table tidemark.projection_members drop constraint projection_members_projection_version_fkey`:                  {Object: "foreign key of projection_members", Problem: "is missing"},
		`alter table tidemark.events drop constraint events_schema_check`:                                                     {Object: "check of events", Problem: "of them"},
		`drop index tidemark.dead_letters_key`:                                                                                {Object: "index dead_letters_key on dead_letters", Problem: "is missing"},
		`drop index tidemark.projections_live; create index projections_live on tidemark.projections (name)`:                  {Object: "index projections_live on projections", Problem: `is "valid", want "valid unique"`},
		`drop trigger events_immutable on tidemark.events`:                                                                    {Object: "trigger events_immutable on events", Problem: "is missing"},
		`alter table tidemark.events disable trigger events_immutable`:                                                        {Object: "trigger events_immutable on events", Problem: "disabled"},
		`drop trigger events_immutable on tidemark.events; create trigger events_immutable before delete on tidemark.events execute function tidemark.refuse_change()`: {Object: "trigger events_immutable on events", Problem: "truncate or update"},
		`alter sequence tidemark.events_position_seq cache 100`: {Object: "sequence events_position_seq", Problem: `is "cache 100", want "cache 1"`},
		`drop table tidemark.inbox`:                             {Object: "table inbox", Problem: "is missing"},
		`create table tidemark.copy as table tidemark.inbox; drop table tidemark.inbox; alter table tidemark.copy rename to inbox`: {Object: "primary key of inbox", Problem: "is missing"},
	} {
		t.Run(change, func(t *testing.T) {
			t.Parallel()
			pool := empty(t)
			mustUp(t, pool, nil)
			mustExec(t, pool, change)
			before := objects(t, pool)
			for what, err := range map[string]error{
				"Validate": migrations.Validate(t.Context(), pool, nil),
				"Up":       migrations.Up(t.Context(), pool, nil),
			} {
				var differs *migrations.SchemaError
				if !errors.Is(err, migrations.ErrChanged) || !errors.As(err, &differs) {
					t.Fatalf("%s: %v, want a SchemaError", what, err)
				}
				if !slices.ContainsFunc(differs.Differences, func(d migrations.Difference) bool {
					return d.Object == want.Object && strings.Contains(d.Problem, want.Problem)
				}) {
					t.Errorf("%s: %v, want %v among them", what, differs.Differences, want)
				}
				if n := len(differs.Differences); n > 12 {
					t.Errorf("%s: %d differences after one change: %v", what, n, differs.Differences)
				}
			}
			if diff := cmp.Diff(before, objects(t, pool)); diff != "" {
				t.Errorf("something changed (-before +after):\n%s", diff)
			}
		})
	}
}

// TestValidateRenamedSchema: the functions of a renamed schema still write to the old name. A schema of that name may
// exist, and is then another store.
func TestValidateRenamedSchema(t *testing.T) {
	t.Parallel()
	for _, names := range [][2]string{{"tidemark", "moved"}, {"first", "tidemark"}, {"first", "second"}} {
		for _, twin := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s to %s, twin %t", names[0], names[1], twin), func(t *testing.T) {
				t.Parallel()
				pool := empty(t)
				from, to := &migrations.Config{Schema: names[0]}, &migrations.Config{Schema: names[1]}
				mustUp(t, pool, from)
				mustExec(t, pool, `alter schema `+names[0]+` rename to `+names[1])
				if twin {
					mustUp(t, pool, from)
				}
				var differs *migrations.SchemaError
				err := migrations.Validate(t.Context(), pool, to)
				if !errors.As(err, &differs) || differs.RenamedFrom != names[0] {
					t.Fatalf("%v, want a SchemaError that names %s", err, names[0])
				}
				if back := "alter schema " + names[1] + " rename to " + names[0]; !strings.Contains(err.Error(), back) {
					t.Errorf("%q does not say %q", err, back)
				}
				if twin {
					return
				}
				mustExec(t, pool, `alter schema `+names[1]+` rename to `+names[0])
				if err := migrations.Validate(t.Context(), pool, from); err != nil {
					t.Errorf("renamed back: %v", err)
				}
			})
		}
	}
}

// TestValidateLeavesOthersAlone: Validate ignores other objects in the schema, and the search_path.
func TestValidateLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{"tidemark", "elsewhere", "user"} {
		t.Run(schema, func(t *testing.T) {
			t.Parallel()
			pool, config := empty(t), &migrations.Config{Schema: schema}
			mustUp(t, pool, config)
			for _, sql := range []string{
				`create table %s.theirs (id int primary key check (id > 0), other int unique)`,
				`create index on %s.events (recorded_at)`,
				`alter table %s.inbox add column more text`,
				`create function %s.tidemark(int) returns int language sql as 'select 1'`,
				`alter database ` + query[string](t, pool, `select current_database()::text`)[0] + ` set search_path = %s`,
			} {
				mustExec(t, pool, fmt.Sprintf(sql, `"`+schema+`"`))
			}
			pool.Reset()
			if err := migrations.Validate(t.Context(), pool, config); err != nil {
				t.Error(err)
			}
			mustUp(t, pool, config)
		})
	}
}

// TestEverythingIsCompared: the comparison knows every object that the files make.
func TestEverythingIsCompared(t *testing.T) {
	t.Parallel()
	pool := empty(t)
	mustUp(t, pool, nil)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	wanted, there, err := migrations.Compared(t.Context(), conn.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(there, wanted); diff != "" {
		t.Errorf("what the files say (-catalog +files):\n%s", diff)
	}
	kinds := map[string]int{}
	for name := range wanted {
		kind, _, _ := strings.Cut(name, " ")
		kinds[kind]++
	}
	for _, kind := range []string{"table", "column", "primary", "unique", "foreign", "check", "index", "sequence", "trigger", "function"} {
		if kinds[kind] == 0 {
			t.Errorf("no %s is compared", kind)
		}
	}
}

// TestUpOverRemains: if the record of the applied migrations is gone, the error of Up says what may have happened.
func TestUpOverRemains(t *testing.T) {
	t.Parallel()
	for _, remains := range []string{
		`drop table tidemark.schema_migrations`,
		`delete from tidemark.schema_migrations`,
		`drop table tidemark.schema_migrations, tidemark.append_keys, tidemark.inbox, tidemark.events cascade`,
	} {
		pool := empty(t)
		mustUp(t, pool, nil)
		mustExec(t, pool, remains)
		err := migrations.Up(t.Context(), pool, nil)
		if err == nil || !strings.Contains(err.Error(), "001_events.sql") || !strings.Contains(err.Error(), "restored in part") {
			t.Errorf("%s: %v, want an error that says what may have happened", remains, err)
		}
	}
}
