package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/migrations"
)

// TestSequenceIsReadWhole: nextval() writes a value up to 32 ahead into the sequence before it writes the real value.
// An append that sees the first value takes a fence that protects nothing.
func TestSequenceIsReadWhole(t *testing.T) {
	t.Parallel()
	_, pool := open(t)
	var definitions string
	if err := pool.QueryRow(t.Context(), `
		select string_agg(pg_get_functiondef(oid), '')
		  from pg_proc
		 where pronamespace = 'tidemark'::regnamespace`).Scan(&definitions); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(definitions, `:= coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);`); n != 4 {
		t.Errorf("the functions read the sequence under its lock %d times, want 4 times:\n%s", n, definitions)
	}
	mustExec(t, pool, `create function probe(tries int) returns int language plpgsql as $$
		declare seen bigint; impossible int := 0;
		begin
			for i in 1 .. tries loop
				seen := coalesce(pg_sequence_last_value('tidemark.events_position_seq'), 0);
				if nextval('tidemark.events_position_seq') <= seen then
					impossible := impossible + 1;
				end if;
			end loop;
			return impossible;
		end $$`)
	var sessions sync.WaitGroup
	for range 4 {
		sessions.Go(func() {
			var impossible int
			if err := pool.QueryRow(t.Context(), `select probe(20000)`).Scan(&impossible); err != nil || impossible > 0 {
				t.Errorf("%d values were read before they were given out, %v", impossible, err)
			}
		})
	}
	sessions.Wait()
}

// TestDurability: events that a reader has passed must survive a crash, even if the session has turned
// synchronous_commit off.
func TestDurability(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	for set, want := range map[string]string{"off": "local", "on": "on"} {
		tx := begin(t, pool)
		mustExec(t, tx, `set local synchronous_commit = `+set)
		mustAppend(t, store.WithTx(tx), "a", eventstore.NoStream)
		var got string
		if err := tx.QueryRow(t.Context(), `show synchronous_commit`).Scan(&got); err != nil || got != want {
			t.Errorf("synchronous_commit was %s and is %s after an append, %v; want %s", set, got, err, want)
		}
		tx.Rollback(t.Context())
	}
}

// TestSequenceBehindLog: after a restore without the sequence there is no tidemark, because positions would be given
// out again.
func TestSequenceBehindLog(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	for n := range eventstore.Version(5) {
		mustAppend(t, store, "a", n)
	}
	mustExec(t, pool, `select setval('tidemark.events_position_seq', 2)`)
	if _, err := store.Tidemark(t.Context()); !errors.Is(err, eventstore.ErrNoTidemark) || !strings.Contains(err.Error(), "setval") {
		t.Errorf("%v, want ErrNoTidemark and what to do", err)
	}
}

// TestLogThatWentBack: a store remembers nothing of a log that no longer exists.
func TestLogThatWentBack(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	for n := range eventstore.Version(5) {
		mustAppend(t, store, "a", n)
	}
	keysAfter(t, store, 0)
	if err := errors.Join(migrations.Down(t.Context(), pool, nil), migrations.Up(t.Context(), pool, nil)); err != nil {
		t.Fatal(err)
	}
	end := mustAppend(t, store, "new", eventstore.NoStream).Position
	page, err := store.Next(t.Context(), eventstore.After(0), eventstore.Filter{}, 10)
	if err != nil || len(page.Events) != 1 || page.Through != end {
		t.Errorf("%+v, %v; want one event through %d", page, err, end)
	}
}

// TestOldSnapshot: a read in a transaction that keeps its snapshot is refused, even after other reads.
func TestOldSnapshot(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustAppend(t, store, "a", eventstore.NoStream)
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	mustExec(t, tx, `select 1`)
	mustAppend(t, store, "a", 1)
	keysAfter(t, store, 0)
	if page, err := store.WithTx(tx).Next(t.Context(), eventstore.After(0), eventstore.Filter{}, 10); !errors.Is(err, eventstore.ErrNoTidemark) {
		t.Errorf("%+v, %v; want ErrNoTidemark", page, err)
	}
}

// TestForeignWriter: no event that another client can append stops a reader.
func TestForeignWriter(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	stored := 0
	for i, arguments := range []string{
		`array[E'thing-a\nb'], array[0], array[1], array[gen_random_uuid()], array['t'], array[1::smallint], array['{}'::json], array['[]'::json]`,
		`array['thing-' || repeat('x', 300)], array[0], array[1], array[gen_random_uuid()], array['t'], array[1::smallint], array['{}'::json], array[null::json]`,
		`array['thing-c'], array[0], array[1], array[gen_random_uuid()], array['t'], array[1::smallint], array['{}'::json], array['{"actor":"psql","headers":{"n":1}}'::json]`,
		`array['thing-d'], array[0], array[1], array[gen_random_uuid()], array[''], array[1::smallint], array['{}'::json], array[null::json]`,
		`array['thing-e'], array[0], array[1], array[gen_random_uuid()], array['t'], array[0::smallint], array['{}'::json], array[null::json]`,
	} {
		if _, err := pool.Exec(t.Context(), `select * from tidemark.append(`+arguments+`)`); err == nil {
			stored++
		} else {
			t.Logf("%d: %v", i, err)
		}
	}
	read := 0
	for event, err := range store.ReadAll(t.Context(), 0, eventstore.Filter{}) {
		if err != nil {
			t.Fatalf("after %d events: %v", read, err)
		}
		read++
		if event.Stream.Key == "c" && event.Metadata.Actor != "psql" {
			t.Errorf("metadata %+v, want the part that fits", event.Metadata)
		}
	}
	if read != stored || stored != 2 {
		t.Errorf("%d stored, %d read, want 2 of each", stored, read)
	}
}

// TestSearchPath: functions and views that shadow Postgres's own change nothing.
func TestSearchPath(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `create schema odd`)
	mustExec(t, pool, `create function odd.hashtext(text) returns int language sql as 'select 1'`)
	mustExec(t, pool, `create function odd.cardinality(text[]) returns int language sql as 'select 7'`)
	one := mustAppend(t, store, "one", eventstore.NoStream).Position
	tx := begin(t, pool)
	mustExec(t, tx, `set local search_path = odd, pg_catalog`)
	mustExec(t, tx, `create temp view pg_locks as select * from pg_catalog.pg_locks where false`)
	appendIn(t, store, tx)
	mustAppend(t, store, "two", eventstore.NoStream)
	checkTidemark(t, store, one)
	checkTidemark(t, store.WithTx(tx), one)
}

// TestExecuteAlone: a role that may only execute the functions can append, and cannot do anything else to events.
func TestExecuteAlone(t *testing.T) {
	t.Parallel()
	_, pool := open(t)
	var database string
	if err := pool.QueryRow(t.Context(), `select current_database()`).Scan(&database); err != nil {
		t.Fatal(err)
	}
	role := pgx.Identifier{"writer_of_" + database}.Sanitize() // roles belong to the whole server
	mustExec(t, pool, `create role `+role)
	t.Cleanup(func() {
		_, _ = pool.Exec(context.Background(), `drop owned by `+role)
		_, _ = pool.Exec(context.Background(), `drop role `+role)
	})
	const call = `select * from tidemark.append(array['thing-%s'], array[0], array[1], array[gen_random_uuid()],
		array['t'], array[1::smallint], array['{}'::json], array[null::json])`
	as := func(sql string) error {
		tx := begin(t, pool)
		defer tx.Rollback(context.Background())
		mustExec(t, tx, `set local role `+role)
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			return err
		}
		return tx.Commit(t.Context())
	}
	mustExec(t, pool, `grant usage on schema tidemark to `+role)
	if err := as(fmt.Sprintf(call, "a")); err == nil {
		t.Error("a role without any right has appended")
	}
	mustExec(t, pool, `grant execute on all functions in schema tidemark to `+role)
	if err := as(fmt.Sprintf(call, "b")); err != nil {
		t.Errorf("append: %v", err)
	}
	for _, sql := range []string{
		`insert into tidemark.events select * from tidemark.events`,
		`update tidemark.events set version = 9`,
		`delete from tidemark.events`,
		`truncate tidemark.events`,
		`select * from tidemark.events`,
	} {
		if err := as(sql); err == nil {
			t.Errorf("%s was allowed", sql)
		}
	}
}
