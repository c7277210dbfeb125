package projection_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// rollGate is a hook that holds up a version after a number of events, until the gate is opened.
type rollGate struct {
	after   int64
	seen    atomic.Int64
	reached chan struct{}
	opened  chan struct{}
	once    sync.Once
}

func newRollGate(f *fixture, after int64) *rollGate {
	g := &rollGate{after: after, reached: make(chan struct{}, 1), opened: make(chan struct{})}
	f.Cleanup(g.open) // a fold cannot be cancelled
	return g
}

func (g *rollGate) open() { g.once.Do(func() { close(g.opened) }) }

func (g *rollGate) hook(ctx context.Context, _ pgx.Tx, _ eventstore.Event[counted]) error {
	if g.seen.Add(1) <= g.after {
		return nil
	}
	select {
	case g.reached <- struct{}{}:
	default:
	}
	select {
	case <-g.opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fixture) rollStatus(r *projection.Runner, version int) projection.ProjectionStatus {
	f.Helper()
	s, err := r.Status(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range s.Projections {
		if p.Version == version {
			return p
		}
	}
	f.Fatalf("the status has no version %d", version)
	return projection.ProjectionStatus{}
}

func (f *fixture) rollTables(version int) int64 {
	return f.rollNumber(`select count(*) from pg_tables where tablename = $1`, fmt.Sprintf("tally_v%d", version))
}

// rollNotice returns a configuration, and a flag that is set when the message is logged.
func rollNotice(message string) (*projection.Config, *atomic.Bool) {
	logged := new(atomic.Bool)
	config := *quiet
	config.Logger = slog.New(slog.NewTextHandler(rollWriter(func(line string) {
		if strings.Contains(line, message) {
			logged.Store(true)
		}
	}), nil))
	return &config, logged
}

type rollWriter func(string)

func (w rollWriter) Write(line []byte) (int, error) { w(string(line)); return len(line), nil }

// small returns a configuration with batches of ten events.
func small() *projection.Config {
	c := *quiet
	c.BatchSize = 10
	return &c
}

// TestBuild reads the status of a version while it is built, pauses it, stops its process half-way and starts it again.
// Then the version becomes live.
func TestBuild(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r1, _ := f.rollProcess(quiet, rollHandler(projection.Options{}, nil))
	last := f.rollHistory(10, 10)
	f.wait(r1, last)
	gate := newRollGate(f, 55)
	r2, stop2 := f.rollProcess(small(), rollHandler(projection.Options{Version: 2}, gate.hook))
	<-gate.reached
	s := f.rollStatus(r2, 2)
	if s.Phase != "building" || s.Progress == nil || s.Progress.Total != 100 || s.Progress.Done != 50 || s.Rate <= 0 || s.Progress.ETA <= 0 {
		t.Errorf("while it is built: %+v, progress %+v", s, s.Progress)
	}
	f.rollHistory(1, 5)
	if s := f.rollStatus(r2, 2); s.Progress.Total != 105 {
		t.Errorf("with five more events the total is %d, want 105", s.Progress.Total)
	}
	if live := f.rollStatus(r2, 1); live.Phase != "live" || live.Progress != nil {
		t.Errorf("version 1: %+v", live)
	}
	if err := r1.Operator().Pause(t.Context(), projection.Ref{Name: "tally", Version: 2}, "too much at a time"); err != nil {
		t.Fatal(err)
	}
	gate.open() // the batch under way is not committed
	if err := r2.Operator().Switch(t.Context(), projection.Ref{Name: "tally", Version: 2}); !errors.Is(err, projection.ErrRefused) {
		t.Errorf("switch to a paused version: %v, want ErrRefused", err)
	}
	f.wait(r1, f.rollHistory(1, 1))
	stop2()
	if s := f.rollStatus(r2, 2); s.State != "paused" || s.Reason != "too much at a time" || s.Progress.Done != 50 {
		t.Errorf("paused: %+v, progress %+v", s, s.Progress)
	}
	if err := r1.Operator().Resume(t.Context(), projection.Ref{Name: "tally", Version: 2}); err != nil {
		t.Fatal(err)
	}
	again := newRollGate(f, 1000)
	var effects atomic.Int64
	r2, _ = f.rollProcess(small(), rollHandler(projection.Options{Version: 2}, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		first, err := projection.Once(ctx, tx, "an effect that only version 2 has")
		if err == nil && first {
			effects.Add(1)
		}
		return errors.Join(err, again.hook(ctx, tx, e))
	}))
	f.rollPhase(2, "live")
	f.wait(r2, f.rollHistory(1, 1))
	if n := effects.Load(); n != 1 {
		t.Errorf("version 2 had %d effects, want 1: the event that it has handled as the live version", n)
	}
	if n := again.seen.Load(); n != 57 {
		t.Errorf("after the restart version 2 handled %d events, want the 57 after the checkpoint", n)
	}
	f.checkRolled()
}

// TestCancelBuild drops a version that is being built while a batch is under way. The version's process continues to
// run.
func TestCancelBuild(t *testing.T) {
	t.Parallel()
	for name, kind := range rollKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			config, lost := rollNotice("projection: lost the lease of a partition")
			r1, _ := f.rollProcess(quiet, kind(projection.Options{}, nil))
			f.wait(r1, f.rollHistory(10, 20))
			gate := newRollGate(f, 55)
			config.BatchSize = 10
			r2, _ := f.rollProcess(config, kind(projection.Options{Version: 2}, gate.hook))
			<-gate.reached
			operator, err := projection.NewOperator(pgtest.Connect(t, f.pool.Config().ConnString(), func(c *pgxpool.Config) {
				c.ConnConfig.RuntimeParams["application_name"] = "dropping"
			}), nil)
			if err != nil {
				t.Fatal(err)
			}
			dropped := make(chan error, 1)
			go func() { dropped <- operator.Drop(t.Context(), projection.Ref{Name: "tally", Version: 2}) }()
			f.until("Drop waits for the batch, or is done", func() bool {
				// Drop can wait for other locks before, and version 2 could become live meanwhile.
				return len(dropped) > 0 || f.isBlocked(`application_name = 'dropping' and wait_event = 'relation'`)
			})
			gate.open() // the batch continues now
			if err := <-dropped; err != nil {
				t.Fatal(err)
			}
			if n := f.rollTables(2); n != 0 {
				t.Error("the table of version 2 is still there")
			}
			if err := r1.Operator().Drop(t.Context(), projection.Ref{Name: "tally", Version: 1}); !errors.Is(err, projection.ErrRefused) {
				t.Errorf("drop the live version: %v, want ErrRefused", err)
			}
			if err := r1.Operator().Drop(t.Context(), projection.Ref{Name: "tally", Version: 7}); !errors.Is(err, projection.ErrRefused) || !errors.Is(err, projection.ErrUnknownProjection) {
				t.Errorf("drop an unknown version: %v", err)
			}
			f.until("the other process has lost the lease", lost.Load)
			f.until("the dropped version handles no event any more", func() bool {
				seen := gate.seen.Load()
				f.wait(r2, f.rollHistory(1, 1)) // waits for the live version, which the first process runs
				return gate.seen.Load() == seen
			})
			f.checkRolled()
			// Version 2 can be built again, from the beginning.
			f.rollProcess(quiet, kind(projection.Options{Version: 2}, nil))
			f.rollPhase(2, "live")
			f.checkRolled()
		})
	}
}

// TestSwitchWaits: an old version that is behind becomes live only when it has all events that readers have seen.
func TestSwitchWaits(t *testing.T) {
	t.Parallel()
	f := setup(t)
	one, two := rollTable(projection.Options{}, nil), rollTable(projection.Options{Version: 2}, nil)
	_, stop1 := f.rollProcess(quiet, one)
	f.rollPhase(1, "live")
	r2, _ := f.rollProcess(quiet, two)
	f.rollPhase(2, "live")
	stop1()
	f.wait(r2, f.rollHistory(5, 5))
	if err := r2.Operator().Switch(t.Context(), projection.Ref{Name: "tally", Version: 3}); !errors.Is(err, projection.ErrRefused) || !errors.Is(err, projection.ErrUnknownProjection) {
		t.Errorf("switch to an unknown version: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r2.Operator().Switch(ctx, projection.Ref{Name: "tally", Version: 1}); err == nil {
		t.Error("Switch to a version that is behind and that no process runs returned no error")
	}
	f.checkRolled()
	f.rollProcess(quiet, one)
	if err := r2.Operator().Switch(t.Context(), projection.Ref{Name: "tally", Version: 1}); err != nil {
		t.Fatal(err)
	}
	f.wait(r2, f.rollHistory(5, 5))
	f.checkRolled()
	if phase := f.rollStatus(r2, 2).Phase; phase != "retired" {
		t.Errorf("version 2 is %s, want retired", phase)
	}
}

// TestWaitAfterTheSwitch: the version of a process is ahead of the live version, but is not live any more. Its Wait
// must not return before readers see the event. The process only polls, so it learns late of the switch.
func TestWaitAfterTheSwitch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.PollOnly = true
	for range 5 {
		f.exec(`drop view if exists tally; drop table if exists tally_v1, tally_v2`)
		f.exec(`delete from tidemark.projections`)
		r1, stop1 := f.rollProcess(&config, rollTable(projection.Options{}, nil))
		last := f.rollHistory(2, 5)
		f.wait(r1, last)
		gate := newRollGate(f, f.rollNumber(`select count(*) from tidemark.events`))
		r2, stop2 := f.rollProcess(quiet, rollTable(projection.Options{Version: 2}, gate.hook))
		f.rollPhase(2, "live")
		last = f.rollHistory(1, 1)
		<-gate.reached // version 2 is held up before the last event
		f.until("version 1 has handled the event", func() bool { return f.rollStatus(r1, 1).Checkpoint >= last })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := r1.Wait(ctx, last); err == nil {
			t.Error("Wait returned although readers do not see the event")
		}
		cancel()
		gate.open()
		f.wait(r1, last)
		f.wait(r2, last)
		f.checkRolled()
		stop1()
		stop2()
	}
}

// TestOnlyHigherVersionsTakeOver: version 3 becomes live while version 2 is still being built. When version 2 has
// caught up, it does not replace version 3.
func TestOnlyHigherVersionsTakeOver(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r1, _ := f.rollProcess(quiet, rollTable(projection.Options{}, nil))
	f.wait(r1, f.rollHistory(2, 5))
	gate := newRollGate(f, 3)
	f.rollProcess(quiet, rollTable(projection.Options{Version: 2}, gate.hook))
	<-gate.reached
	r3, _ := f.rollProcess(quiet, rollTable(projection.Options{Version: 3}, nil))
	f.rollPhase(3, "live")
	gate.open()
	last := f.rollHistory(1, 1)
	f.until("version 2 has caught up", func() bool { return f.rollStatus(r3, 2).Checkpoint >= last })
	// A version that has caught up tries to become live five times a second.
	deadline := time.Now().Add(600 * time.Millisecond)
	f.until("version 2 has tried", func() bool { return time.Now().After(deadline) })
	if live := f.rollNumber(`select version from tidemark.projections where phase = 'live'`); live != 3 {
		t.Errorf("version %d is live, want 3", live)
	}
}

// TestOtherKeys: a new version has as many partitions as the old one, but other keys. So partitions with the same
// number do not have the same events in both versions. No effect is lost.
func TestOtherKeys(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create table effects (position bigint, version int)`)
	version := func(n int) *projection.Projection {
		effect := rollEffect(n)
		hook := func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
			if n == 1 && e.Stream.Key == "old-3" {
				return projection.Transient(errRollHalt)
			}
			return effect(ctx, tx, e)
		}
		key := func(e eventstore.Event[counted]) string { return e.Stream.Key }
		if n == 2 {
			key = func(e eventstore.Event[counted]) string { return "x" + e.Stream.Key }
		}
		return projection.New("tally", rollOptions(projection.Options{Version: n, Partitions: 8}), projection.OnKeyed(counting, key, rollWrite(hook)))
	}
	_, stop1 := f.rollProcess(small(), version(1))
	last := f.rollHistory(20, 2)
	f.until("seven of eight partitions of version 1 have caught up", func() bool {
		return f.rollNumber(`select count(*) from tidemark.projection_partitions where checkpoint >= $1`, last) == 7
	})
	r2, _ := f.rollProcess(quiet, version(2))
	f.until("all partitions of version 2 have made progress", func() bool {
		return f.rollNumber(`select count(*) from tidemark.projection_partitions where version = 2 and checkpoint > 0`) == 8
	})
	deadline := time.Now().Add(600 * time.Millisecond) // it tries five times a second
	f.until("version 2 has tried", func() bool { return time.Now().After(deadline) })
	stop1()
	f.rollPhase(2, "live")
	f.wait(r2, last)
	f.rollEffects()
	f.checkRolled()
}
