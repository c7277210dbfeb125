package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// rolled is a row of the read model that gets new versions. It has the number of events of a stream, and the position
// of the last one. Both only grow.
type rolled struct {
	Key     string `db:"key,key"`
	N, Last int64
}

const (
	rollDDL   = `create table {tally} (key text primary key, n bigint not null, last bigint not null)`
	rollTotal = `select count(*), coalesce(sum(n), 0)::bigint, coalesce(max(last), 0)::bigint from tally`
)

type rollHook func(context.Context, pgx.Tx, eventstore.Event[counted]) error

// rollKind is a way to make a projection of that read model. The hook is called for each event.
type rollKind func(o projection.Options, hook rollHook) *projection.Projection

func rollOptions(o projection.Options) *projection.Options {
	o.Tables = []string{"tally"}
	if o.DDL == "" {
		o.DDL = rollDDL
	}
	return &o
}

func rollTable(o projection.Options, hook rollHook) *projection.Projection {
	return projection.NewTable("tally", rollOptions(o), projection.Fold(counting,
		func(e eventstore.Event[counted]) string { return e.Stream.Key },
		func(row *rolled, e eventstore.Event[counted]) projection.Op {
			if hook != nil {
				if err := hook(context.Background(), nil, e); err != nil {
					return projection.Fail(err)
				}
			}
			row.N, row.Last = row.N+1, int64(e.Position)
			return projection.Put
		}))
}

func rollHandler(o projection.Options, hook rollHook) *projection.Projection {
	return projection.New("tally", rollOptions(o), projection.On(counting, rollWrite(hook)))
}

func rollWrite(hook rollHook) projection.Handler[counted] {
	return func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		if hook != nil {
			if err := hook(ctx, tx, e); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `insert into {tally} as t (key, n, last) values ($1, 1, $2)
			on conflict (key) do update set n = t.n + 1, last = excluded.last`, e.Stream.Key, e.Position)
		return err
	}
}

var rollKinds = map[string]rollKind{"table": rollTable, "handler": rollHandler}

// rollProcess starts projections as another process would, with its own connections.
func (f *fixture) rollProcess(config *projection.Config, projections ...*projection.Projection) (*projection.Runner, func()) {
	f.Helper()
	pool, err := pgxpool.NewWithConfig(context.Background(), f.pool.Config())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		f.Fatal(err)
	}
	other := *f
	other.pool = pool
	return other.start(config, store, projections...)
}

func (f *fixture) rollPhase(version int, phase string) {
	f.Helper()
	f.until(fmt.Sprintf("version %d of tally is %s", version, phase), func() bool {
		return f.rollNumber(`select count(*) from tidemark.projections where name = 'tally' and version = $1 and phase = $2`, version, phase) == 1
	})
}

// rollNumber returns the number that a query finds.
func (f *fixture) rollNumber(sql string, args ...any) (n int64) {
	f.Helper()
	if err := f.pool.QueryRow(f.Context(), sql, args...).Scan(&n); err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
	return n
}

// rollAppend stores n events in a stream.
func (f *fixture) rollAppend(key string, n int) (eventstore.Receipt, error) {
	draft, err := counting.Encode(counted{1})
	if err != nil {
		return eventstore.Receipt{}, err
	}
	var drafts []eventstore.Draft
	for range n {
		drafts = append(drafts, draft)
	}
	return f.store.Append(f.Context(), eventstore.StreamID{Category: "counter", Key: key}, eventstore.Any, drafts...)
}

// rollHistory stores events of several streams.
func (f *fixture) rollHistory(streams, each int) (last eventstore.Position) {
	f.Helper()
	for n := range streams {
		receipt, err := f.rollAppend(fmt.Sprint("old-", n), each)
		if err != nil {
			f.Fatal(err)
		}
		last = receipt.Position
	}
	return last
}

// checkRolled compares the view that readers use with the log.
func (f *fixture) checkRolled() {
	f.Helper()
	fold := `select substr(stream, 9) as key, count(*) as n, max(position) as last from tidemark.events where type = 'counted' group by stream`
	rows := func(from string) []rolled {
		found, _ := f.pool.Query(f.Context(), `select key, n, last from (`+from+`) t order by key`)
		all, err := pgx.CollectRows(found, pgx.RowToStructByPos[rolled])
		if err != nil {
			f.Fatal(err)
		}
		return all
	}
	if diff := cmp.Diff(rows(fold), rows(`select key, n, last from tally`)); diff != "" {
		f.Errorf("the read model differs from the log (-log +model):\n%s", diff)
	}
}

// rollTraffic has writers and readers that work while versions change.
type rollTraffic struct {
	*fixture
	cancel   context.CancelFunc
	running  sync.WaitGroup
	runners  [2]atomic.Pointer[projection.Runner] // the runners whose Wait the writers call
	appended atomic.Int64
	reads    atomic.Int64
}

// rollLoad starts three writers that append, wait for their own event and read it. It also starts a writer that does
// not wait, and readers that check that the read model never goes backwards.
func (f *fixture) rollLoad(r *projection.Runner) *rollTraffic {
	f.Helper()
	pool, err := pgxpool.NewWithConfig(context.Background(), f.pool.Config())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	ctx, cancel := context.WithCancel(f.Context())
	t := &rollTraffic{fixture: f, cancel: cancel}
	t.runners[0].Store(r)
	for n := range 3 {
		t.running.Go(func() { t.check(ctx, func() error { return t.write(ctx, pool, n) }) })
	}
	t.running.Go(func() {
		pace := time.NewTicker(2 * time.Millisecond)
		defer pace.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			<-pace.C
			if n%10 == 0 && t.outrun(ctx, pool) {
				n--
				continue
			}
			if _, err := f.rollAppend(fmt.Sprint("open-", n%7), 1); err == nil {
				t.appended.Add(1)
			}
		}
	})
	for range 2 {
		t.running.Go(func() { t.check(ctx, func() error { return t.read(ctx, pool) }) })
	}
	f.Cleanup(t.stop)
	return t
}

func (t *rollTraffic) check(ctx context.Context, do func() error) {
	if err := do(); err != nil && ctx.Err() == nil {
		t.Error(err)
	}
}

func (t *rollTraffic) stop() { t.cancel(); t.running.Wait() }

// outrun reports whether the slowest running version is more than 100 positions behind. On a busy machine a writer that
// does not wait can be faster than that version. Then the version could never become live, whatever the engine does.
func (t *rollTraffic) outrun(ctx context.Context, pool *pgxpool.Pool) (far bool) {
	_ = pool.QueryRow(ctx, `
		select (select max(position) from tidemark.events) - min(checkpoint) > 100
		  from tidemark.projection_partitions
		 where lease_expires > clock_timestamp()`).Scan(&far) // null while no version runs
	return far
}

func (t *rollTraffic) write(ctx context.Context, pool *pgxpool.Pool, number int) error {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("new-%d-%d", number, n/20) // a new key after 20 appends, so the number of rows grows too
		receipt, err := t.rollAppend(key, 1+n%4)
		if err != nil {
			return err
		}
		t.appended.Add(1)
		r := t.runners[n%2].Load()
		if r == nil {
			r = t.runners[0].Load()
		}
		// A Wait that takes longer is a failure.
		waiting, cancel := context.WithTimeout(ctx, time.Minute)
		err = r.Wait(waiting, receipt.Position)
		cancel()
		if err != nil {
			return err
		}
		var version eventstore.Version
		if err := pool.QueryRow(ctx, `select coalesce(max(n), 0)::bigint from tally where key = $1`, key).Scan(&version); err != nil {
			return err
		}
		if version < receipt.Version {
			return fmt.Errorf("after Wait(%d) the view has %d events of %s, want %d", receipt.Position, version, key, receipt.Version)
		}
	}
	return nil
}

func (t *rollTraffic) read(ctx context.Context, pool *pgxpool.Pool) error {
	var before, now [3]int64
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for ; ctx.Err() == nil; t.reads.Add(1) {
		<-pace.C
		if err := pool.QueryRow(ctx, rollTotal).Scan(&now[0], &now[1], &now[2]); err != nil {
			return fmt.Errorf("a reader: %w", err)
		}
		for n := range now {
			if now[n] < before[n] {
				return fmt.Errorf("the read model went backwards: rows, sum and position were %v, and are %v", before, now)
			}
		}
		before = now
	}
	return nil
}

// grow waits until there are 30 more appends and 30 more reads.
func (t *rollTraffic) grow() {
	t.Helper()
	appended, reads := t.appended.Load()+30, t.reads.Load()+30
	t.until("30 more appends and 30 more reads", func() bool {
		return t.Failed() || t.appended.Load() > appended && t.reads.Load() > reads
	})
}

func (t *rollTraffic) switchTo(r *projection.Runner, version int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Operator().Switch(ctx, projection.Ref{Name: "tally", Version: version}); err != nil {
		t.Fatal(err)
	}
}

var errRollHalt = errors.New("it has to stop here")

// rollEffect returns a hook with a side effect in the same database, guarded by Once.
func rollEffect(version int) rollHook {
	return func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		first, err := projection.Once(ctx, tx, "effect")
		if err == nil && first {
			_, err = tx.Exec(ctx, `insert into effects values ($1, $2)`, e.Position, version)
		}
		return err
	}
}

// rollEffects checks that each event has had its effect once.
func (f *fixture) rollEffects() {
	f.Helper()
	missing := f.rollNumber(`select count(*) from tidemark.events where type = 'counted' and position not in (select position from effects)`)
	twice := f.rollNumber(`select count(*) - count(distinct position) from effects`)
	if missing != 0 || twice != 0 {
		f.Errorf("%d effects are missing, %d happened again", missing, twice)
	}
}

// TestRolling deploys version 2 beside version 1 under rollTraffic, switches back to 1 and again to 2, and stops the
// process of version 1.
func TestRolling(t *testing.T) {
	t.Parallel()
	for name, make := range rollKinds {
		for _, partitions := range [][2]int{{1, 1}, {1, 4}, {4, 4}, {4, 1}} {
			t.Run(fmt.Sprintf("%s/%d to %d", name, partitions[0], partitions[1]), func(t *testing.T) {
				t.Parallel()
				f := setup(t)
				f.exec(`create table effects (position bigint, version int)`)
				version := func(n int) *projection.Projection {
					hook := rollEffect(n)
					if name == "table" {
						hook = nil
					}
					return make(projection.Options{Version: n, Partitions: partitions[n-1]}, hook)
				}
				config := *quiet
				config.BatchSize = 20 // many batches, so that a switch can come between them
				last := f.rollHistory(40, 10)
				r1, stop1 := f.rollProcess(&config, version(1))
				f.wait(r1, last)
				load := f.rollLoad(r1)
				load.grow()

				r2, _ := f.rollProcess(&config, version(2))
				load.runners[1].Store(r2)
				f.rollPhase(2, "live")
				load.grow()
				if name == "handler" && f.rollNumber(`select count(*) from effects where version = 2 and position <= $1`, last) > 0 {
					t.Error("building version 2 had effects")
				}
				load.switchTo(r2, 1)
				load.grow()
				load.switchTo(r1, 2)
				load.grow()
				load.runners[0].Store(r2)
				stop1()
				load.grow()
				load.stop()
				f.wait(r2, f.rollHistory(1, 1))
				f.checkRolled()
				if name == "handler" {
					f.rollEffects()
				}
			})
		}
	}
}

// TestRollingWithoutTheOldProcess: no process runs version 1 any more, or version 1 has stopped at an event that it
// cannot handle. Version 2 becomes live, and handles the events that version 1 has not handled.
func TestRollingWithoutTheOldProcess(t *testing.T) {
	t.Parallel()
	for name, make := range rollKinds {
		for _, partitions := range [][2]int{{1, 1}, {1, 4}, {4, 4}, {4, 1}} {
			for _, halted := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d to %d/halted %v", name, partitions[0], partitions[1], halted), func(t *testing.T) {
					t.Parallel()
					f := setup(t)
					f.exec(`create table effects (position bigint, version int)`)
					hook := func(version int) rollHook {
						effect := rollEffect(version)
						return func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
							if halted && version == 1 && e.Stream.Key == "halt" {
								return projection.Fatal(errRollHalt)
							}
							if tx == nil { // a fold
								return nil
							}
							return effect(ctx, tx, e)
						}
					}
					r1, stop1 := f.rollProcess(quiet, make(projection.Options{Partitions: partitions[0]}, hook(1)))
					f.wait(r1, f.rollHistory(20, 3))
					if halted {
						if _, err := f.rollAppend("halt", 1); err != nil {
							t.Fatal(err)
						}
						f.until("version 1 has stopped", func() bool {
							return f.rollNumber(`select count(*) from tidemark.projections where state = 'stopped'`) == 1
						})
					} else {
						stop1()
					}
					last := f.rollHistory(20, 3)
					r2, _ := f.rollProcess(quiet, make(projection.Options{Version: 2, Partitions: partitions[1]}, hook(2)))
					f.rollPhase(2, "live")
					f.wait(r2, last)
					f.checkRolled()
					if name == "handler" {
						f.rollEffects()
					}
				})
			}
		}
	}
}
