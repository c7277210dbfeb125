package projection_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// by returns a projection that writes each event into the model, with the number of the runner that handles it.
func by(who int, name string, partitions int, hook func(context.Context, eventstore.Event[counted])) *projection.Projection {
	return projection.New(name, &projection.Options{Partitions: partitions}, projection.On(counting,
		func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
			if hook != nil {
				hook(ctx, event)
			}
			_, err := tx.Exec(ctx, `insert into model values ($1, $2, $3)`, name, event.Position, who)
			return err
		}))
}

// TestLeasesAreWrittenSeldom: a process does not write its leases and memberships again while most of their length is
// left, because each write costs WAL. It writes those that have less.
func TestLeasesAreWrittenSeldom(t *testing.T) {
	t.Parallel()
	f := setup(t)
	s := f.staller()
	r, _ := s.start(&projection.Config{Lease: time.Hour}, f.store, by(1, "a", 3, nil))
	f.awaitShares(r, 3)
	const rows = `
		select string_agg(ctid || ' ' || (expires > clock_timestamp() + interval '59 min'), ', ' order by name)
		  from (select ctid, lease_expires as expires, 'partition ' || partition from tidemark.projection_partitions
		         union all
		        select ctid, expires, 'member' from tidemark.projection_members) as leases (ctid, expires, name)`
	read := func() (found string) {
		t.Helper()
		if err := f.pool.QueryRow(t.Context(), rows).Scan(&found); err != nil {
			t.Fatal(err)
		}
		return found
	}
	before := read()
	renewals := s.renewals.Load()
	s.until("some renewals", func() bool { return s.renewals.Load() > renewals+4 })
	if after := read(); after != before {
		t.Errorf("the rows were %s and are %s: they were written again", before, after)
	}
	f.exec(`update tidemark.projection_partitions set lease_expires = clock_timestamp() + interval '39 min'`)
	f.exec(`update tidemark.projection_members set expires = clock_timestamp() + interval '29 min'`)
	f.until("all are written again", func() bool { return strings.Count(read(), "true") == 4 })
}

// appendKeys stores one event in each of n streams, and returns the position of the last event.
func (f *fixture) appendKeys(n int) (last eventstore.Position) {
	f.Helper()
	var changes []eventstore.Change
	for i := range n {
		draft, err := counting.Encode(counted{i})
		if err != nil {
			f.Fatal(err)
		}
		changes = append(changes, eventstore.Change{
			Stream: eventstore.StreamID{Category: "counter", Key: fmt.Sprint(i)}, Expected: eventstore.Any, Events: []eventstore.Draft{draft},
		})
	}
	receipts, err := f.store.Commit(f.Context(), changes...)
	if err != nil {
		f.Fatal(err)
	}
	return receipts[n-1].Position
}

// checkSet compares the events that a projection has handled with the log. The order does not matter, because
// partitions run in parallel.
func (f *fixture) checkSet(name string, types ...string) {
	f.Helper()
	var want []eventstore.Position
	for _, t := range types {
		want = append(want, f.log(t)...)
	}
	got := f.model(name)
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("read model %s differs from the log (-log +model):\n%s", name, diff)
	}
}

func (f *fixture) status(r *projection.Runner, name string) projection.ProjectionStatus {
	f.Helper()
	s, err := r.Status(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range s.Projections {
		if p.Name == name {
			return p
		}
	}
	f.Fatalf("there is no status of %q", name)
	return projection.ProjectionStatus{}
}

// shares returns how many partitions each runner has, of all projections together.
func (f *fixture) shares(r *projection.Runner) map[string]int {
	f.Helper()
	s, err := r.Status(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	shares := make(map[string]int)
	for _, p := range s.Projections {
		for _, partition := range p.Partitions {
			shares[partition.Owner]++
		}
	}
	return shares
}

// awaitShares waits until every partition has an owner and the owners have as many partitions as wanted, the smallest
// share first.
func (f *fixture) awaitShares(r *projection.Runner, want ...int) {
	f.Helper()
	f.until(fmt.Sprintf("partitions are spread %v", want), func() bool {
		shares := f.shares(r)
		if shares[""] > 0 {
			return false
		}
		return slices.Equal(slices.Sorted(maps.Values(shares)), want)
	})
}

// owner returns the runner that has a lease of a projection, or "" if no runner has one.
func (f *fixture) owner(name string) (owner string) {
	f.Helper()
	err := f.pool.QueryRow(f.Context(), `
		select coalesce(max(lease_owner), '')
		  from tidemark.projection_partitions
		 where projection = $1`, name).Scan(&owner)
	if err != nil {
		f.Fatal(err)
	}
	return owner
}

// expire makes the leases of a runner expire, as if it was not heard of for that time.
func (f *fixture) expire(owner string) {
	f.Helper()
	f.exec(`update tidemark.projection_members set expires = clock_timestamp() - interval '1 second' where owner = $1`, owner)
	f.exec(`update tidemark.projection_partitions set lease_expires = clock_timestamp() - interval '1 second' where lease_owner = $1`, owner)
}

// staller is a fixture for a runner whose lease renewals can be held back while its handlers continue.
type staller struct {
	*fixture
	stalled  atomic.Pointer[chan struct{}] // nil while renewals are not held back; wake closes the channel
	renewing sync.RWMutex                  // read-locked by the renewals under way
	renewals atomic.Int64                  // that have ended
	advanced chan error                    // the outcome of each attempt to move a checkpoint
}

func (f *fixture) staller() *staller {
	f.Helper()
	s := &staller{advanced: make(chan error, 100)}
	config := f.pool.Config()
	config.ConnConfig.Tracer = s
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	s.fixture = &fixture{T: f.T, pool: pool, store: f.store}
	return s
}

// stall holds back the runner's renewals until wake is called or the test ends.
func (s *staller) stall() (wake func()) {
	over := make(chan struct{})
	s.stalled.Store(&over)
	s.renewing.Lock() // wait for the renewals under way
	defer s.renewing.Unlock()
	wake = func() {
		if s.stalled.CompareAndSwap(&over, nil) {
			close(over)
		}
	}
	s.Cleanup(wake)
	return wake
}

type isRenewal struct{}

// TraceBatchStart holds back a renewal, on any connection.
func (s *staller) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	if !strings.Contains(data.Batch.QueuedQueries[0].SQL, "projection_members") {
		return ctx
	}
	s.renewing.RLock()
	if over := s.stalled.Load(); over != nil {
		s.renewing.RUnlock()
		select {
		case <-*over:
		case <-ctx.Done():
		}
		return ctx
	}
	return context.WithValue(ctx, isRenewal{}, sync.OnceFunc(s.renewing.RUnlock))
}

func (s *staller) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (s *staller) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchEndData) {
	if ended, ok := ctx.Value(isRenewal{}).(func()); ok { // this method can be called twice
		ended()
		s.renewals.Add(1)
	}
}

type isAdvance struct{}

func (s *staller) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, isAdvance{}, strings.Contains(data.SQL, "advance_partition"))
}

func (s *staller) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if ctx.Value(isAdvance{}) == true {
		s.advanced <- data.Err
	}
}

// checkRefused waits for the next attempt to move a checkpoint, which the fencing token must refuse.
func (s *staller) checkRefused() {
	s.Helper()
	select {
	case err := <-s.advanced:
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "TM006" {
			s.Fatalf("the former owner moves the checkpoint: %v, want SQLSTATE TM006", err)
		}
	case <-time.After(20 * time.Second):
		s.Fatal("the batch did not end within 20 s")
	}
}

// gate stops the first call of pass until the gate is opened or the test ends.
type gate struct {
	once    atomic.Bool
	reached chan struct{}
	open    chan struct{}
	over    <-chan struct{}
}

func (f *fixture) gate() *gate {
	return &gate{reached: make(chan struct{}), open: make(chan struct{}), over: f.Context().Done()}
}

func (g *gate) pass() {
	if g.once.CompareAndSwap(false, true) {
		close(g.reached)
		select {
		case <-g.open:
		case <-g.over:
		}
	}
}

func (f *fixture) await(what string, c <-chan struct{}) {
	f.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		f.Fatal("did not happen within 20 s: " + what)
	}
}

// TestStolenLease: a runner loses its lease in the middle of a batch and continues the batch. It changes nothing,
// whether the new owner has already passed the same events or still handles them.
func TestStolenLease(t *testing.T) {
	t.Parallel()
	for name, passed := range map[string]bool{"passed": true, "at the same events": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			old, first, second := f.staller(), f.gate(), f.gate()
			f.append(counting, 2)
			old.start(quiet, f.store, by(1, "a", 1, func(_ context.Context, event eventstore.Event[counted]) {
				if event.Version == 2 { // the first event is already written
					first.pass()
				}
			}))
			f.await("the first runner's handler", first.reached)
			old.stall()
			zombie := f.owner("a")
			last := f.append(counting, 2)
			r, _ := f.start(quiet, f.store, by(2, "a", 1, func(_ context.Context, event eventstore.Event[counted]) {
				if event.Version == 2 && !passed {
					second.pass()
				}
			}))
			f.until("the lease is stolen", func() bool {
				f.expire(zombie)
				return f.owner("a") != zombie
			})
			if passed {
				f.wait(r, last)
			} else {
				f.await("the second runner's handler", second.reached)
			}
			close(first.open)
			old.checkRefused()
			close(second.open)
			f.wait(r, last)
			f.checkModel("a")
			var others int
			if err := f.pool.QueryRow(t.Context(), `select count(*) from model where n <> 2`).Scan(&others); err != nil || others > 0 {
				t.Errorf("%d rows of the runner that had lost its lease, %v; want none", others, err)
			}
		})
	}
}

// TestStolenLeaseOfTable: rows that a runner has folded in memory before it lost its lease do not overwrite the rows of
// the new owner.
func TestStolenLeaseOfTable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	table := func(g *gate) *projection.Projection { // g may be nil
		return projection.NewTable("tallies", &projection.Options{DDL: tallyDDL("tallies")}, tallyFold(func(event eventstore.Event[counted]) {
			if g != nil && event.Version == 2 {
				g.pass()
			}
		}))
	}
	old, g := f.staller(), f.gate()
	f.append(counting, 2)
	old.start(quiet, f.store, table(g))
	f.await("the first runner's fold", g.reached)
	old.stall()
	zombie := f.owner("tallies")
	last := f.append(counting, 3)
	r, _ := f.start(quiet, f.store, table(nil))
	f.until("the lease is stolen", func() bool {
		f.expire(zombie)
		return f.owner("tallies") != zombie
	})
	f.wait(r, last)
	close(g.open)
	old.checkRefused()
	f.checkTallies("tallies")
}

// TestPauseInABatch: a batch that is under way when a projection is paused or stopped is not committed afterwards.
func TestPauseInABatch(t *testing.T) {
	t.Parallel()
	for action, halt := range map[string]func(*projection.Operator, context.Context, projection.Ref, string) error{
		"pause": (*projection.Operator).Pause, "stop": (*projection.Operator).Stop,
	} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			g := f.gate()
			var xid atomic.Value // of the first batch
			r, _ := f.start(quiet, f.store, record("a", func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
				if event.Version != 2 {
					return nil
				}
				var id string
				if err := tx.QueryRow(ctx, `select pg_current_xact_id()::text`).Scan(&id); err != nil {
					return err
				}
				xid.CompareAndSwap(nil, id)
				g.pass()
				return nil
			}))
			last := f.append(counting, 3)
			f.await("the handler", g.reached)
			if err := halt(r.Operator().Operator, t.Context(), projection.Ref{Name: "a", Version: projection.AllVersions}, "a test"); err != nil {
				t.Fatal(err)
			}
			before := f.model("a")
			close(g.open)
			var outcome string
			f.until("the batch ends", func() bool {
				if err := f.pool.QueryRow(t.Context(), `select pg_xact_status($1::xid8)`, xid.Load()).Scan(&outcome); err != nil {
					t.Fatal(err)
				}
				return outcome != "in progress"
			})
			if outcome != "aborted" {
				t.Errorf("the batch that was under way: %s, want aborted", outcome)
			}
			if diff := cmp.Diff(before, f.model("a")); diff != "" {
				t.Errorf("the read model has changed after it was halted (-before +after):\n%s", diff)
			}
			status := f.status(r, "a")
			if want := map[string]string{"pause": "paused", "stop": "stopped"}[action]; string(status.State) != want || status.Reason != "a test" {
				t.Errorf("state %q, reason %q; want %q", status.State, status.Reason, want)
			}
			if healthy := r.Health(t.Context()) == nil; healthy != (action == "pause") {
				t.Errorf("after %s, healthy is %t", action, healthy)
			}
			if err := r.Operator().Resume(t.Context(), projection.Ref{Name: "a", Version: projection.AllVersions}); err != nil {
				t.Fatal(err)
			}
			f.wait(r, last)
			f.checkModel("a")
		})
	}
}

// TestPausedStaysPaused: no runner handles events of a paused projection, not even a runner that is started later,
// until some process calls Resume.
func TestPausedStaysPaused(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first, _ := f.start(quiet, f.store, by(1, "a", 2, nil), by(1, "b", 2, nil))
	f.wait(first, f.appendKeys(4))
	if err := first.Operator().Pause(t.Context(), projection.Ref{Name: "a", Version: projection.AllVersions}, "a test"); err != nil {
		t.Fatal(err)
	}
	second, _ := f.start(quiet, f.store, by(2, "a", 2, nil), by(2, "b", 2, nil))
	f.awaitShares(second, 2, 2)
	last := f.appendKeys(8)
	f.wait(second, last, "b") // projection b has handled all events
	if n := len(f.model("a")); n != 4 {
		t.Errorf("the paused projection has handled %d events, want none", n-4)
	}
	if err := second.Operator().Resume(t.Context(), projection.Ref{Name: "a", Version: projection.AllVersions}); err != nil {
		t.Fatal(err)
	}
	f.wait(first, last, "a")
	f.checkSet("a", "counted")
}
