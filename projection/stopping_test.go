package projection_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestTableConstraint: Postgres refuses a row when it is written, which can be long after its event was folded. The
// event is found and becomes a dead letter, even when no event follows, or only events of other types.
func TestTableConstraint(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 3, 1000} {
		t.Run(fmt.Sprint("batches of ", size), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			refused := projection.NewTable[positionsRow]("refused", &projection.Options{
				DDL: `create table {refused} (stream text primary key, positions text not null, numbers text check (numbers not like '%-1 %'))`,
			}, projection.Fold(counting, func(e eventstore.Event[counted]) string { return e.Stream.String() },
				func(row *positionsRow, e eventstore.Event[counted]) projection.Op {
					row.Positions += fmt.Sprint(e.Position, " ")
					row.Numbers += fmt.Sprint(e.Data.N, " ")
					if e.Data.N == -2 {
						row.Numbers = "\x00" // Postgres cannot store this text
					}
					return projection.Put
				}))
			f.put("a", bad)
			last := f.append(other, 1)
			config := *quiet
			config.BatchSize = size
			r, _ := f.start(&config, f.store, refused)
			f.wait(r, last)
			f.put("b", 0, 0, bad, 0)
			f.put("c", 0, -2)
			f.put("d", 0)
			f.wait(r, f.put("e", 0))
			f.checkFold(kinds[1], r, "refused")
			if heads, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "refused", Version: projection.Live}, "", 0, 10); err != nil || len(heads) != 3 {
				t.Errorf("%d keys are parked, %v; want a, b and c", len(heads), err)
			}
			if s := f.statusOf(r, "refused"); s.Parked != 4 {
				t.Errorf("%d events are parked, want 4", s.Parked)
			}
		})
	}
}

// TestDroppedTable: without its table a projection makes no progress and says why. Once the table is there again, the
// projection continues.
func TestDroppedTable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, kinds[0].make(f, "handler", projection.Options{}, nothing), kinds[1].make(f, "table", projection.Options{}, nothing))
	f.wait(r, f.put("a", 0))
	f.exec(`alter table model rename to gone`)
	f.exec(`alter table table_v1 rename to gone_too`)
	last := f.put("b", 0, 0)
	for name, reason := range map[string]string{"handler": `relation "model" does not exist`, "table": `relation "table_v1" does not exist`} {
		f.until(name+" says why", func() bool { return strings.Contains(f.statusOf(r, name).Problem(), reason) })
		if err := r.Health(t.Context()); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("health: %v, want %s", err, reason)
		}
	}
	f.exec(`create table model (like gone including all)`)
	f.exec(`insert into model select * from gone`)
	f.exec(`alter table gone_too rename to table_v1`)
	f.wait(r, last)
	f.noLetters()
	for _, k := range kinds[:2] {
		f.checkFold(k, r, k.name)
	}
}

// TestCheckpointAhead: the log ends before the checkpoint, as after a restore from a backup. The projection says so
// once and stops. Nothing is changed until an operator changes it.
func TestCheckpointAhead(t *testing.T) {
	t.Parallel()
	f := setup(t)
	restored := kinds[0].make(f, "restored", projection.Options{}, nothing)
	r, stop := f.start(quiet, f.store, restored, kinds[0].make(f, "good", projection.Options{}, nothing))
	f.wait(r, f.put("a", 0, 0))
	stop()
	f.exec(`update tidemark.projection_partitions set checkpoint = 1000000 where projection = 'restored'`)
	config, failed := alarmed()
	r, _ = f.start(config, f.store, restored, kinds[0].make(f, "good", projection.Options{}, nothing))
	f.stopped(r, "restored", "was a backup restored?")
	f.wait(r, f.put("a", 0), "good")
	<-failed
	if err := r.Operator().Resume(t.Context(), projection.Ref{Name: "restored", Version: projection.AllVersions}); err != nil {
		t.Fatal(err)
	}
	f.stopped(r, "restored", "was a backup restored?")
	if s := f.statusOf(r, "restored"); s.Checkpoint != 1000000 || s.Handled != 2 {
		t.Errorf("checkpoint %d after %d events, want both unchanged", s.Checkpoint, s.Handled)
	}
	f.checkFold(kinds[0], r, "good")
	if err := r.Operator().Reset(t.Context(), projection.Ref{Name: "restored", Version: projection.Live}, 2); err != nil { // as the reason advises
		t.Fatal(err)
	}
	if err := r.Operator().Resume(t.Context(), projection.Ref{Name: "restored", Version: projection.AllVersions}); err != nil {
		t.Fatal(err)
	}
	f.wait(r, f.put("a", 0))
	f.checkFold(kinds[0], r, "restored")
}

// TestManyPoison: the number of calls for many bad events in one batch grows linearly with the number of events.
func TestManyPoison(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const keys = 150
	var last eventstore.Position
	for n := range keys {
		last = f.put(fmt.Sprint("key", n), 0, bad, 0)
	}
	var calls [3]atomic.Int64
	var projections []*projection.Projection
	for n, k := range kinds {
		projections = append(projections, k.make(f, k.name, projection.Options{}, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
			calls[n].Add(1)
			if e.Data.N == bad {
				panic("bad")
			}
			return nil
		}))
	}
	r, _ := f.start(quiet, f.store, projections...)
	f.wait(r, last)
	for n, k := range kinds {
		f.checkFold(k, r, k.name)
		if s := f.statusOf(r, k.name); s.Parked != 2*keys {
			t.Errorf("%s: %d parked, want %d", k.name, s.Parked, 2*keys)
		}
		if c := calls[n].Load(); c > 4*keys {
			t.Errorf("%s: %d calls for %d events of which every third is bad, want %d at most", k.name, c, 3*keys, 4*keys)
		}
	}
}

// TestMaxParked: a projection stops before it has more than MaxParked dead letters. After Retry and Resume it continues
// where it was.
func TestMaxParked(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var fixed atomic.Bool
	var projections []*projection.Projection
	for _, k := range kinds {
		projections = append(projections, k.make(f, k.name, projection.Options{MaxParked: 3}, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
			if e.Data.N == bad && !fixed.Load() {
				panic("bad")
			}
			return nil
		}))
	}
	r, _ := f.start(quiet, f.store, projections...)
	f.wait(r, f.put("a", bad, 0, 0))
	last := f.put("b", 0, bad, 0)
	for _, k := range kinds {
		f.stopped(r, k.name, "over the limit of 3")
		if s := f.statusOf(r, k.name); s.Parked != 3 || s.Checkpoint >= last {
			t.Errorf("%s: %d parked at checkpoint %d, want 3 before %d", k.name, s.Parked, s.Checkpoint, last)
		}
	}
	fixed.Store(true)
	for _, k := range kinds {
		f.retry(r, 3, k.name)
		if err := r.Operator().Resume(t.Context(), projection.Ref{Name: k.name, Version: projection.AllVersions}); err != nil {
			t.Fatal(err)
		}
	}
	f.wait(r, last)
	for _, k := range kinds {
		f.checkFold(k, r, k.name)
	}
}

// TestSplitConstraint: the parts of one event have different keys, and Postgres refuses the row of one part. The error
// does not say which part it is, so all parts become dead letters. The projection continues with other events.
func TestSplitConstraint(t *testing.T) {
	t.Parallel()
	f := setup(t)
	split := codec.New(codec.Split("counted", func(e counted) []counted { return []counted{{e.N}, {e.N + 1000}} }))
	key := func(e eventstore.Event[counted]) string { return fmt.Sprint(e.Data.N) }
	table := projection.NewTable("parts", &projection.Options{
		DDL: `create table {parts} (key text primary key, events bigint not null, total bigint not null check (total <> 1003))`,
	}, projection.Fold(split, key, func(row *sum, e eventstore.Event[counted]) projection.Op {
		row.Events++
		row.Total = int64(e.Data.N)
		return projection.Put
	}))
	r, _ := f.start(quiet, f.store, table)
	f.wait(r, f.append(counting, 6))
	if n := texts(f, `select key from parts where key in ('3', '1003') or total = 5 order by key`); !slices.Equal(n, []string{"5"}) {
		t.Errorf("rows %v, want only the row of the last event", n)
	}
	letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "parts", Version: projection.Live}, "", 0, 10)
	if err != nil || len(letters) != 2 {
		t.Errorf("dead letters %+v, %v; want the two parts", letters, err)
	}
}

// TestFailWithoutError: Fail(nil) makes the event a dead letter, and does not skip it.
func TestFailWithoutError(t *testing.T) {
	t.Parallel()
	f := setup(t)
	p := projection.NewTable("nothing", &projection.Options{DDL: tallyDDL("nothing")}, projection.Fold(counting,
		func(e eventstore.Event[counted]) string { return e.Stream.Key },
		func(*tally, eventstore.Event[counted]) projection.Op { return projection.Fail(nil) }))
	r, _ := f.start(quiet, f.store, p)
	f.wait(r, f.put("a", 0))
	if s := f.statusOf(r, "nothing"); s.Parked != 1 {
		t.Errorf("%d events are parked, want the one that failed", s.Parked)
	}
}

// TestTableThatCannotHoldRows: a table that does not fit its row type stops the projection. Otherwise each key would
// have a dead letter.
func TestTableThatCannotHoldRows(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var projections []*projection.Projection
	broken := map[string][2]string{
		"more":   {`create table {more} (stream text primary key, positions text, numbers text, note text not null)`, "column note"},
		"less":   {`create table {less} (stream text primary key, positions text)`, "no column numbers"},
		"no_key": {`create table {no_key} (stream text, positions text, numbers text)`, "no primary key or unique index"},
	}
	for name, b := range broken {
		options := &projection.Options{DDL: b[0]}
		projections = append(projections, projection.NewTable[positionsRow](name, options, projection.Fold(counting,
			func(e eventstore.Event[counted]) string { return e.Stream.String() },
			func(*positionsRow, eventstore.Event[counted]) projection.Op { return projection.Put })))
	}
	r, _ := f.start(quiet, f.store, projections...)
	f.put("a", 0)
	f.put("b", 0)
	for name, b := range broken {
		f.stopped(r, name, b[1])
		if s := f.statusOf(r, name); s.Parked > 0 {
			t.Errorf("%s: %d events are parked", name, s.Parked)
		}
	}
}
