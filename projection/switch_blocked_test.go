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

// slowVersion returns a projection whose batches are of one event and take long, once slow is set.
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

// otherColumns is a table to which a view that others depend on cannot be changed.
var otherColumns = strings.Replace(rollDDL, "n bigint", "n numeric", 1)

// TestBlockedSwitch: a version that cannot take over, since a view depends on the one readers see, does not keep
// the live version from its work, and does not fill the log. An operator who calls Switch need not wait.
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
	f.rollUntil("version 2 has tried to take over", func() bool { return warnings.Load() > 0 })
	fenced := `select fencing_token from tidemark.projection_partitions where version = 1`
	before := f.rollNumber(fenced)
	slow.Store(true)
	f.wait(r1, f.rollHistory(10, 1))
	slow.Store(false)
	if n := warnings.Load(); n > 8 {
		t.Errorf("%d warnings in about four seconds", n)
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
		t.Errorf("Switch took %s when nothing was in the way any more", took)
	}
	f.checkRolled()
}

// TestStuckVersion: a version that is nearly where the live one is, and fails there, does not keep that one from its
// work either.
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

// TestNoLiveVersion: when somebody has deleted the live version by hand, the one that is built says so, and waits.
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
			f.rollUntil("version 2 says that none is live", said.Load)
		})
	}
}

// TestInlineDuringASwitch: what appends keep, or are about to, does not get another version under their hands.
func TestInlineDuringASwitch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.rollProcess(quiet, rollTable(projection.Options{}, nil))
	f.wait(r, f.rollHistory(2, 2))
	gate := newRollGate(f, 3) // version 2 cannot take over until it is opened
	r2, _ := f.rollProcess(quiet, rollTable(projection.Options{Version: 2}, gate.hook))
	<-gate.reached
	f.rollUntil("version 1 is held", func() bool {
		return f.rollNumber(`select count(*) from tidemark.projections where held_until > clock_timestamp()`) == 1
	})
	f.exec(`update tidemark.projections set inline = -1 where version = 1`) // as StartInline does
	gate.open()
	f.rollUntil("version 1 goes on", func() bool {
		return f.rollNumber(`select count(*) from tidemark.projections where held_until > clock_timestamp()`) == 0
	})
	if s := f.rollStatus(r2, 2); s.Phase != "building" {
		t.Fatalf("version 2 is %s", s.Phase)
	}
	if err := r2.Operator().Switch(t.Context(), projection.Ref{Name: "tally", Version: 2}); !errors.Is(err, projection.ErrRefused) {
		t.Errorf("switch below a projection that appends keep: %v, want ErrRefused", err)
	}
	f.exec(`update tidemark.projections set inline = null where version = 1`)
	f.rollPhase(2, "live")
	f.checkRolled()
}

// asking counts the statements of one kind.
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

// TestBoundIsPatient: a version that may not go beyond a live one that is paused does not ask all the time.
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
	f.rollUntil("version 1 wants to go on", func() bool { return asked.n.Load() > 5 })
	before := asked.n.Load()
	time.Sleep(time.Second)
	if n := asked.n.Load() - before; n > 30 {
		t.Errorf("it asked %d times in a second", n)
	}
	if err := r.Operator().Resume(t.Context(), projection.Ref{Name: "tally", Version: 2}); err != nil {
		t.Fatal(err)
	}
	f.wait(r, last)
	f.rollUntil("version 1 goes on", func() bool { return f.rollStatus(r, 1).Checkpoint >= last })
}
