package projection_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestColumns: when a version with other columns becomes live, readers see the new columns and keep their rights.
func TestColumns(t *testing.T) {
	t.Parallel()
	for name, ddl := range map[string]string{
		"added":   `create table {tally} (key text primary key, n bigint not null, last bigint not null, more text)`,
		"dropped": `create table {tally} (key text primary key, last bigint not null, n bigint not null)`,
		"changed": `create table {tally} (key text primary key, n numeric not null, last bigint not null)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			old := strings.Replace(rollDDL, "n bigint", "gone text, n bigint", 1)
			if name != "dropped" {
				old = rollDDL
			}
			config := small()
			r1, _ := f.rollProcess(config, rollHandler(projection.Options{DDL: old}, nil))
			f.wait(r1, f.rollHistory(10, 3))
			f.exec(`grant select on tally to public`)
			load := f.rollLoad(r1)
			r2, _ := f.rollProcess(config, rollHandler(projection.Options{Version: 2, DDL: ddl}, nil))
			load.runners[1].Store(r2)
			f.rollPhase(2, "live")
			load.grow()
			if f.rollNumber(`select count(*) from pg_class c, aclexplode(c.relacl) a where c.relname = 'tally' and a.grantee = 0`) != 1 {
				t.Error("readers have lost their rights")
			}
			load.switchTo(r1, 1)
			load.grow()
			load.stop()
			f.wait(r1, f.rollHistory(1, 1))
			f.checkRolled()
		})
	}
}

// TestDependentView: another view depends on the view for readers, so a version with other columns cannot become live.
// The other view is not lost, and the live version continues.
func TestDependentView(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r1, _ := f.rollProcess(quiet, rollTable(projection.Options{}, nil))
	f.wait(r1, f.rollHistory(3, 3))
	f.exec(`create view theirs as select sum(n) as n from tally`)
	r2, _ := f.rollProcess(quiet, rollTable(projection.Options{Version: 2, DDL: strings.Replace(rollDDL, "n bigint", "n numeric", 1)}, nil))
	f.until("version 2 has caught up", func() bool {
		return f.rollNumber(`select coalesce(min(checkpoint), 0) from tidemark.projection_partitions where version = 2`) > 0
	})
	if err := r2.Operator().Switch(t.Context(), projection.Ref{Name: "tally", Version: 2}); err == nil || !strings.Contains(err.Error(), "tally") || !strings.Contains(err.Error(), "depend") {
		t.Errorf("switch: %v, want it to say that a view depends on tally", err)
	}
	for range 3 {
		f.wait(r1, f.rollHistory(3, 3))
		if n := f.rollNumber(`select n::bigint from theirs`); n != f.rollNumber(`select count(*) from tidemark.events`) {
			t.Errorf("the dependent view shows %d events, want all", n)
		}
	}
	f.exec(`drop view theirs`)
	f.rollPhase(2, "live")
	f.checkRolled()
}

// TestLongReader: a new version cannot become live until a long report has ended that reads the view. Other readers and
// the live version are not held up.
func TestLongReader(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r1, _ := f.rollProcess(quiet, rollTable(projection.Options{}, nil))
	f.wait(r1, f.rollHistory(3, 3))
	report, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := report.Exec(t.Context(), rollTotal); err != nil {
		t.Fatal(err)
	}
	r2, _ := f.rollProcess(quiet, rollTable(projection.Options{Version: 2}, nil))
	f.until("version 2 waits for the lock on the view", func() bool {
		return f.rollNumber(`select count(*) from pg_locks where not granted and mode = 'AccessExclusiveLock'`) > 0
	})
	var slow []time.Duration
	for range 20 {
		start := time.Now()
		f.wait(r1, f.rollHistory(1, 1))
		f.rollNumber(`select count(*) from tally`)
		slow = append(slow, time.Since(start))
	}
	slices.Sort(slow)
	t.Logf("an append, a Wait and a read took %v (median), at most %v", slow[10], slow[19])
	if slow[19] > 600*time.Millisecond {
		t.Errorf("an append, a Wait and a read took %v beside a long reader, want 600 ms at most", slow[19])
	}
	if s := f.rollStatus(r2, 2); s.Phase != "building" {
		t.Errorf("version 2 is %s while the report reads the view, want building", s.Phase)
	}
	if err := report.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.rollPhase(2, "live")
	f.checkRolled()
}

// TestRegisterTogether starts eight processes at the same time, first with a new projection and then with a new
// version.
func TestRegisterTogether(t *testing.T) {
	t.Parallel()
	f := setup(t)
	last := f.rollHistory(8, 3)
	for version := 1; version <= 2; version++ {
		var starting sync.WaitGroup
		for range 8 {
			starting.Go(func() {
				f.rollProcess(small(), rollTable(projection.Options{Version: version, Partitions: 4}, nil))
			})
		}
		starting.Wait()
		f.rollPhase(version, "live")
	}
	r, _ := f.rollProcess(quiet, rollTable(projection.Options{Version: 2, Partitions: 4}, nil))
	f.wait(r, last)
	f.checkRolled()
	if n := f.rollNumber(`select count(*) from tidemark.projection_audit where action in ('create', 'switch')`); n != 3 {
		t.Errorf("the audit has %d entries for create and switch, want two for create and one for switch", n)
	}
}

// TestAddedType: when a type is added to an existing projection, the status lists it until AcceptTypes is called, with
// the position up to which its events are missing. A new version handles all events of the type.
func TestAddedType(t *testing.T) {
	t.Parallel()
	f := setup(t)
	version := func(n int, sources ...*codec.Codec[counted]) *projection.Projection {
		var all []projection.HandlerSource
		for _, c := range sources {
			all = append(all, projection.On(c, rollWrite(nil)))
		}
		return projection.New("tally", rollOptions(projection.Options{Version: n}), all...)
	}
	r, stop := f.rollProcess(quiet, version(1, counting))
	f.append(other, 3)
	last := f.append(counting, 2)
	f.wait(r, last)
	stop()
	r, stop = f.rollProcess(quiet, version(1, counting, other))
	f.wait(r, f.append(other, 4))
	want := map[string]eventstore.Position{"other": last}
	if got := f.rollStatus(r, 1).Added; !maps.Equal(got, want) {
		t.Errorf("added types: %v, want %v", got, want)
	}
	events := func() int64 { return f.rollNumber(`select sum(n)::bigint from tally`) }
	if n := events(); n != 6 {
		t.Errorf("version 1 has %d events, want 6: those of the added type only from now on", n)
	}
	if err := r.Operator().AcceptTypes(t.Context(), projection.Ref{Name: "tally", Version: 1}); err != nil {
		t.Fatal(err)
	}
	if got := f.rollStatus(r, 1).Added; len(got) != 0 {
		t.Errorf("added types after AcceptTypes: %v, want none", got)
	}
	r2, _ := f.rollProcess(quiet, version(2, counting, other))
	f.rollPhase(2, "live")
	f.wait(r2, last)
	if n := events(); n != 9 || len(f.rollStatus(r2, 2).Added) != 0 {
		t.Errorf("version 2 has %d events, want all 9; added %v", n, f.rollStatus(r2, 2).Added)
	}
	// One process runs both versions, and the old version is dropped while it runs.
	stop()
	both, _ := f.rollProcess(quiet, version(1, counting, other), version(2, counting, other))
	for _, to := range []int{1, 2} {
		if err := both.Operator().Switch(t.Context(), projection.Ref{Name: "tally", Version: to}); err != nil {
			t.Fatal(err)
		}
		f.wait(both, f.append(other, 1))
	}
	if err := both.Operator().Drop(t.Context(), projection.Ref{Name: "tally", Version: 1}); err != nil {
		t.Fatal(err)
	}
	f.wait(both, f.append(counting, 1))
	if n := events(); n != 12 || f.rollTables(1) != 0 {
		t.Errorf("after Drop: %d events, want 12; %d old tables", n, f.rollTables(1))
	}
}

// TestHandlerWritesToTheView: a handler that writes to the view for readers stops its projection, in the first version
// already. Otherwise the next version would write into the table that readers see.
func TestHandlerWritesToTheView(t *testing.T) {
	t.Parallel()
	f := setup(t)
	options := &projection.Options{Tables: []string{"plain"}, DDL: `create table {plain} (n int)`}
	p := projection.New("plain", options, projection.On(counting,
		func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
			_, err := tx.Exec(ctx, `insert into plain values ($1)`, e.Data.N)
			return err
		}))
	r, _ := f.start(quiet, f.store, p)
	f.put("a", 0)
	f.stopped(r, "plain", "it is the view for readers")
}
