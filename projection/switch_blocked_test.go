package projection_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// slowVersion returns a projection, and a configuration with which its batches have one event. While slow is set, each
// batch takes 400 ms.
func slowVersion(slow *atomic.Bool) (*projection.Config, *projection.Projection) {
	config := *quiet
	config.BatchSize = 1
	hook := func(ctx context.Context, _ pgx.Tx, _ eventstore.Event[counted]) error {
		if slow.Load() {
			select {
			case <-time.After(400 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		return nil
	}
	return &config, rollHandler(projection.Options{}, hook)
}

// otherColumns has another column type than rollDDL. The view for readers cannot be changed to such a table while
// another view depends on it.
var otherColumns = strings.Replace(rollDDL, "n bigint", "n numeric", 1)

// TestBlockedSwitch: a version cannot become live, because another view depends on the view for readers. The live
// version is not interrupted, and few warnings are logged. When the other view is dropped, Switch succeeds without a
// long wait.
func TestBlockedSwitch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var slow atomic.Bool
	config, one := slowVersion(&slow)
	r1, _ := f.rollProcess(config, one)
	f.wait(r1, f.rollHistory(3, 3))
	f.exec(`create view theirs as select sum(n) as n from tally`)
	var warnings atomic.Int64
	told := *quiet
	told.Logger = slog.New(slog.NewTextHandler(rollWriter(func(line string) {
		if strings.Contains(line, "cannot switch") {
			warnings.Add(1)
		}
	}), nil))
	two := func() *projection.Projection {
		return rollTable(projection.Options{Version: 2, DDL: otherColumns, Partitions: 2}, nil)
	}
	f.rollProcess(&told, two())
	r2, _ := f.rollProcess(&told, two())
	f.until("version 2 has tried to become live", func() bool { return warnings.Load() > 0 })
	fenced := `select fencing_token from tidemark.projection_partitions where version = 1`
	before := f.rollNumber(fenced)
	slow.Store(true)
	f.wait(r1, f.rollHistory(10, 1))
	slow.Store(false)
	if n := warnings.Load(); n > 8 {
		t.Errorf("%d warnings in about four seconds, want 8 at most", n)
	}
	if after := f.rollNumber(fenced); after != before {
		t.Errorf("the live version was interrupted %d times", after-before)
	}
	f.exec(`drop view theirs`)
	start := time.Now()
	if err := r2.Operator().Switch(t.Context(), projection.Ref{Name: "tally", Version: 2}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Switch took %s after the other view was dropped, want 2 s at most", took)
	}
	f.checkRolled()
}

// TestStuckVersion: a version that fails shortly before it has caught up does not hold up the live version.
func TestStuckVersion(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var slow, stuck atomic.Bool
	config, one := slowVersion(&slow)
	r1, _ := f.rollProcess(config, one)
	f.wait(r1, f.rollHistory(3, 3))
	slow.Store(true)
	stuck.Store(true)
	failing := make(chan struct{}, 1)
	f.rollProcess(quiet, rollHandler(projection.Options{Version: 2}, func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
		if !stuck.Load() {
			return nil
		}
		select {
		case failing <- struct{}{}:
		default:
		}
		return projection.Transient(errRollHalt)
	}))
	f.await("version 2 fails", failing)
	start := time.Now()
	f.wait(r1, f.rollHistory(5, 1))
	t.Logf("five batches took %s", time.Since(start))
	slow.Store(false)
	stuck.Store(false)
	f.rollPhase(2, "live")
	f.checkRolled()
}

// TestNoLiveVersion: when the live version was deleted by hand, a version that is being built waits and logs why.
func TestNoLiveVersion(t *testing.T) {
	t.Parallel()
	for name, kind := range rollKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			r1, stop := f.rollProcess(quiet, kind(projection.Options{}, nil))
			f.wait(r1, f.rollHistory(2, 2))
			stop()
			gate := newRollGate(f, 1)
			config, said := rollNotice("no version is live")
			f.rollProcess(config, kind(projection.Options{Version: 2}, gate.hook))
			<-gate.reached
			f.exec(`delete from tidemark.projections where version = 1`)
			gate.open()
			f.until("version 2 logs that no version is live", said.Load)
		})
	}
}

// TestInlineDuringASwitch: no other version becomes live while appends keep the live version inline, or are about to.
func TestInlineDuringASwitch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.rollProcess(quiet, rollTable(projection.Options{}, nil))
	f.wait(r, f.rollHistory(2, 2))
	gate := newRollGate(f, 3) // version 2 cannot become live until the gate is opened
	r2, _ := f.rollProcess(quiet, rollTable(projection.Options{Version: 2}, gate.hook))
	<-gate.reached
	f.until("version 1 is held", func() bool {
		return f.rollNumber(`select count(*) from tidemark.projections where held_until > clock_timestamp()`) == 1
	})
	f.exec(`update tidemark.projections set inline = -1 where version = 1`) // as StartInline does
	gate.open()
	f.until("version 1 is not held any more", func() bool {
		return f.rollNumber(`select count(*) from tidemark.projections where held_until > clock_timestamp()`) == 0
	})
	if s := f.rollStatus(r2, 2); s.Phase != "building" {
		t.Fatalf("version 2 is %s, want building", s.Phase)
	}
	if err := r2.Operator().Switch(t.Context(), projection.Ref{Name: "tally", Version: 2}); !errors.Is(err, projection.ErrRefused) {
		t.Errorf("switch while appends are about to keep version 1: %v, want ErrRefused", err)
	}
	f.exec(`update tidemark.projections set inline = null where version = 1`)
	f.rollPhase(2, "live")
	f.checkRolled()
}

// asking counts the statements that contain a text.
type asking struct {
	text string
	n    atomic.Int64
}

func (a *asking) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	if strings.Contains(d.SQL, a.text) {
		a.n.Add(1)
	}
	return ctx
}

func (a *asking) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestBoundIsPatient: a version must not overtake the live version, which is paused. While it waits, it does not ask
// the database all the time.
func TestBoundIsPatient(t *testing.T) {
	t.Parallel()
	f := setup(t)
	_, stop := f.rollProcess(quiet, rollHandler(projection.Options{}, nil))
	f.rollPhase(1, "live")
	stop()
	asked := &asking{text: "own.fencing_token"}
	config := f.pool.Config()
	config.ConnConfig.Tracer = asked
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	traced := *f
	traced.pool = pool
	r, _ := traced.start(quiet, f.store, rollHandler(projection.Options{}, nil), rollHandler(projection.Options{Version: 2}, nil))
	f.rollPhase(2, "live")
	if err := r.Operator().Pause(t.Context(), projection.Ref{Name: "tally", Version: 2}, "a test"); err != nil {
		t.Fatal(err)
	}
	last := f.rollHistory(1, 1)
	asked.n.Store(0)
	f.until("version 1 waits for version 2", func() bool { return asked.n.Load() > 5 })
	before := asked.n.Load()
	time.Sleep(time.Second)
	if n := asked.n.Load() - before; n > 30 {
		t.Errorf("version 1 asked the database %d times in a second, want 30 at most", n)
	}
	if err := r.Operator().Resume(t.Context(), projection.Ref{Name: "tally", Version: 2}); err != nil {
		t.Fatal(err)
	}
	f.wait(r, last)
	f.until("version 1 continues", func() bool { return f.rollStatus(r, 1).Checkpoint >= last })
}
