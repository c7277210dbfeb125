package projection_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// by returns a projection that writes each event into the model, and who has handled it.
func by(who int, name string, partitions int, hook func(context.Context, eventstore.Event[counted])) *projection.Projection {
	return projection.New(name, &projection.Options{Partitions: partitions}, projection.On(codec,
		func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
			if hook != nil {
				hook(ctx, event)
			}
			_, err := tx.Exec(ctx, `insert into model values ($1, $2, $3)`, name, event.Position, who)
			return err
		}))
}

// appendKeys stores an event in each of n streams and returns the position of the last one.
func (f *fixture) appendKeys(n int) (last eventstore.Position) {
	f.Helper()
	var changes []eventstore.Change
	for i := range n {
		draft, err := codec.Encode(counted{i})
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

// checkSet compares what a projection has handled with the log, whatever the order of its partitions.
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

// eventually asks again and again, and returns how long it took until the answer was yes.
func (f *fixture) eventually(within time.Duration, what string, ask func() bool) time.Duration {
	f.Helper()
	start := time.Now()
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	for !ask() {
		if time.Since(start) > within {
			f.Fatalf("not within %s: %s", within, what)
		}
		<-retry.C
	}
	return time.Since(start)
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

// shares returns how many partitions of the projections each runner has.
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

// awaitShares returns when the partitions are spread like this, the smallest share first, and nobody
// is without an owner.
func (f *fixture) awaitShares(within time.Duration, r *projection.Runner, want ...int) time.Duration {
	f.Helper()
	return f.eventually(within, fmt.Sprintf("partitions are spread %v", want), func() bool {
		shares := f.shares(r)
		if shares[""] > 0 {
			return false
		}
		var got []int
		for _, n := range shares {
			got = append(got, n)
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// owner returns who has a lease of a projection; "" if nobody has.
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

// expire makes it so that a runner was not heard of for the time of its leases.
func (f *fixture) expire(owner string) {
	f.Helper()
	f.exec(`update tidemark.projection_members set expires = clock_timestamp() - interval '1 second' where owner = $1`, owner)
	f.exec(`update tidemark.projection_partitions set lease_expires = clock_timestamp() - interval '1 second' where lease_owner = $1`, owner)
}

// staller is the fixture for a runner that can be kept from renewing its leases, while its handlers go on.
type staller struct {
	*fixture
	stalled  atomic.Pointer[chan struct{}] // closed when it is over
	advanced chan error                    // the outcome of each attempt to move a checkpoint
}

func (f *fixture) staller() *staller {
	f.Helper()
	s := &staller{advanced: make(chan error, 100)}
	config := f.pool.Config()
	config.ConnConfig.Tracer = s
	config.PrepareConn = func(ctx context.Context, _ *pgx.Conn) (bool, error) {
		_, isLease := ctx.Deadline() // batches have none
		if over := s.stalled.Load(); over != nil && isLease {
			select {
			case <-*over:
			case <-ctx.Done():
				return true, ctx.Err()
			}
		}
		return true, nil
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	s.fixture = &fixture{T: f.T, pool: pool, store: f.store}
	return s
}

// stall keeps the runner from renewing until the test ends or wake is called.
func (s *staller) stall() (wake func()) {
	over := make(chan struct{})
	s.stalled.Store(&over)
	wake = func() {
		if s.stalled.CompareAndSwap(&over, nil) {
			close(over)
		}
	}
	s.Cleanup(wake)
	return wake
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
			s.Fatalf("the commit behind the new owner: %v, want SQLSTATE TM006", err)
		}
	case <-time.After(20 * time.Second):
		s.Fatal("the batch did not come to its end")
	}
}

// gate stops who goes through it first, until it is opened or the test ends.
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
		f.Fatal("waited in vain for " + what)
	}
}

// TestStolenLease: a runner whose lease was stolen in the middle of its batch changes nothing when
// it goes on, whether its successor has already passed the same events or is still at them.
func TestStolenLease(t *testing.T) {
	t.Parallel()
	for name, passed := range map[string]bool{"passed": true, "at the same events": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			old, first, second := f.staller(), f.gate(), f.gate()
			f.append(codec, 2)
			old.start(quiet, f.store, by(1, "a", 1, func(_ context.Context, event eventstore.Event[counted]) {
				if event.Version == 2 { // when the first was written
					first.pass()
				}
			}))
			f.await("the first runner's handler", first.reached)
			old.stall()
			zombie := f.owner("a")
			last := f.append(codec, 2)
			r, _ := f.start(quiet, f.store, by(2, "a", 1, func(_ context.Context, event eventstore.Event[counted]) {
				if event.Version == 2 && !passed {
					second.pass()
				}
			}))
			f.eventually(20*time.Second, "the lease is stolen", func() bool {
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
				t.Errorf("%d rows of the runner that had lost its lease, %v", others, err)
			}
		})
	}
}

// TestStolenLeaseOfTable: rows that were folded in memory before the lease was stolen do not overwrite
// what the successor has made of them.
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
	f.append(codec, 2)
	old.start(quiet, f.store, table(g))
	f.await("the first runner's fold", g.reached)
	old.stall()
	zombie := f.owner("tallies")
	last := f.append(codec, 3)
	r, _ := f.start(quiet, f.store, table(nil))
	f.eventually(20*time.Second, "the lease is stolen", func() bool {
		f.expire(zombie)
		return f.owner("tallies") != zombie
	})
	f.wait(r, last)
	close(g.open)
	old.checkRefused()
	f.checkTallies("tallies")
}

// TestPauseInABatch: what was under way when a projection was paused is not committed afterwards.
func TestPauseInABatch(t *testing.T) {
	t.Parallel()
	for action, halt := range map[string]func(*projection.Runner, context.Context, string, int, string) error{
		"pause": (*projection.Runner).Pause, "stop": (*projection.Runner).Stop,
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
			last := f.append(codec, 3)
			f.await("the handler", g.reached)
			if err := halt(r, t.Context(), "a", 0, "a test"); err != nil {
				t.Fatal(err)
			}
			before := f.model("a")
			close(g.open)
			var outcome string
			f.eventually(20*time.Second, "the batch comes to its end", func() bool {
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
			if want := map[string]string{"pause": "paused", "stop": "stopped"}[action]; status.State != want || status.Reason != "a test" {
				t.Errorf("state %q, reason %q; want %q", status.State, status.Reason, want)
			}
			if healthy := r.Health(t.Context()) == nil; healthy != (action == "pause") {
				t.Errorf("healthy: %t", healthy)
			}
			if err := r.Resume(t.Context(), "a", 0); err != nil {
				t.Fatal(err)
			}
			f.wait(r, last)
			f.checkModel("a")
		})
	}
}

// TestPausedStaysPaused: nobody handles events of a paused projection, not even a runner that was
// started later, until it is resumed from anywhere.
func TestPausedStaysPaused(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first, _ := f.start(quiet, f.store, by(1, "a", 2, nil), by(1, "b", 2, nil))
	f.wait(first, f.appendKeys(4))
	if err := first.Pause(t.Context(), "a", 0, "a test"); err != nil {
		t.Fatal(err)
	}
	second, _ := f.start(quiet, f.store, by(2, "a", 2, nil), by(2, "b", 2, nil))
	f.awaitShares(20*time.Second, second, 2, 2)
	last := f.appendKeys(8)
	f.wait(second, last, "b") // which has seen them all
	if n := len(f.model("a")); n != 4 {
		t.Errorf("%d events were handled of a paused projection", n-4)
	}
	if err := second.Resume(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	f.wait(first, last, "a")
	f.checkSet("a", "counted")
}

// TestShares: the partitions are spread evenly, whoever comes and goes.
func TestShares(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run := func(who int) (*projection.Runner, func()) { return f.start(quiet, f.store, by(who, "a", 16, nil)) }
	first, stopFirst := run(1)
	f.awaitShares(20*time.Second, first, 16)
	_, stopSecond := run(2)
	f.awaitShares(20*time.Second, first, 8, 8)
	f.appendKeys(30)
	third, _ := run(3)
	f.awaitShares(20*time.Second, third, 5, 5, 6)
	f.appendKeys(30)
	stopFirst()
	f.awaitShares(20*time.Second, third, 8, 8)
	stopSecond()
	f.awaitShares(20*time.Second, third, 16)
	f.wait(third, f.appendKeys(30))
	f.checkSet("a", "counted")
}

// TestSharesOfManyProjections: those that have one partition are not all with the same runner.
func TestSharesOfManyProjections(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run := func(who int) *projection.Runner {
		var all []*projection.Projection
		for i := range 6 {
			all = append(all, by(who, fmt.Sprint("p", i), 1, nil))
		}
		r, _ := f.start(quiet, f.store, all...)
		return r
	}
	r := run(1)
	f.awaitShares(20*time.Second, r, 6)
	run(2)
	f.awaitShares(20*time.Second, r, 3, 3) // as it is for names that follow one another
}

// TestTakeover: what a runner gives back when it stops is taken over long before a lease expires: in
// milliseconds by those who listen, and within a second or two by those who only poll.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pollOnly bool
		within   time.Duration
	}{"listening": {false, time.Second / 2}, "polling": {true, 3 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			config := *quiet
			config.Lease, config.PollOnly = 30*time.Second, test.pollOnly
			_, stop := f.start(&config, f.store, by(1, "a", 16, nil))
			r, _ := f.start(&config, f.store, by(2, "a", 16, nil))
			f.awaitShares(20*time.Second, r, 8, 8)
			last := f.appendKeys(30)
			start := time.Now()
			stop()
			f.awaitShares(20*time.Second, r, 16)
			took := time.Since(start)
			t.Logf("taken over after %s", took)
			if took > test.within {
				t.Errorf("the partitions of a runner that stopped were taken over after %s, want less than %s", took, test.within)
			}
			f.wait(r, last)
			f.checkSet("a", "counted")
		})
	}
}

// TestSilentRunner: the partitions of a runner that is not heard of are taken over when its leases
// expire, and not before; when it is back it gets its share.
func TestSilentRunner(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const lease = 2 * time.Second
	config := *quiet
	config.Lease = lease
	silent := f.staller()
	silent.start(&config, f.store, by(1, "a", 4, nil))
	r, _ := f.start(&config, f.store, by(2, "a", 4, nil))
	f.awaitShares(20*time.Second, r, 2, 2)
	start := time.Now()
	wake := silent.stall()
	f.awaitShares(20*time.Second, r, 4)
	took := time.Since(start)
	t.Logf("taken over after %s", took)
	if took < lease/2 || took > 2*lease { // it had renewed them up to lease/3 before, and others look every lease/3
		t.Errorf("the partitions of a runner that is not heard of were taken over after %s, its lease is %s", took, lease)
	}
	f.wait(r, f.appendKeys(10))
	wake()
	f.awaitShares(20*time.Second, r, 2, 2)
	f.wait(r, f.appendKeys(10))
	f.checkSet("a", "counted")
}

// TestMembersThatAreGone: who has died does not count when the partitions are shared out.
func TestMembersThatAreGone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, by(1, "a", 4, nil))
	f.awaitShares(20*time.Second, r, 4)
	stop()
	const member = `insert into tidemark.projection_members (projection, version, owner, expires) values ('a', 1, $1, clock_timestamp() + $2)`
	f.exec(member, "long dead", -time.Minute)
	f.exec(member, "just dead", 2*time.Second)
	r, _ = f.start(quiet, f.store, by(1, "a", 4, nil))
	f.eventually(20*time.Second, "two partitions are left for another member", func() bool { return f.shares(r)[""] == 2 })
	f.awaitShares(20*time.Second, r, 4)
}

// TestPartitionsShareReading: all partitions of all projections are fed by reading the log once.
func TestPartitionsShareReading(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const events, names = 300, 3
	last := f.appendKeys(events)
	log := &countingLog{Log: f.store}
	var all []*projection.Projection
	for i := range names {
		all = append(all, by(1, fmt.Sprint("p", i), 4, nil))
	}
	config := *quiet
	config.BatchSize = 50
	r, _ := f.start(&config, log, all...)
	f.wait(r, last)
	for i := range names {
		f.checkSet(fmt.Sprint("p", i), "counted")
	}
	if n := log.events.Load(); n != events {
		t.Errorf("%d events were read, want the log once: %d", n, events)
	}
}

// TestWaitForAnotherRunner: who waits learns in milliseconds of the progress that another runner makes.
func TestWaitForAnotherRunner(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var worker atomic.Int64
	note := func(who int) *projection.Projection {
		return by(who, "a", 1, func(context.Context, eventstore.Event[counted]) { worker.Store(int64(who)) })
	}
	first, _ := f.start(quiet, f.store, note(0))
	f.wait(first, f.append(codec, 1))
	second, _ := f.start(quiet, f.store, note(1))
	f.eventually(20*time.Second, "the second runner is a member", func() bool {
		var n int
		err := f.pool.QueryRow(t.Context(), `select count(*) from tidemark.projection_members`).Scan(&n)
		return err == nil && n == 2
	})
	var took []time.Duration
	for range 30 {
		last := f.append(codec, 1)
		start := time.Now()
		f.wait(second, last)
		if worker.Load() == 0 { // or it may have been handed over
			took = append(took, time.Since(start))
		}
		last = f.append(codec, 1)
		start = time.Now()
		f.wait(first, last)
		if worker.Load() == 1 {
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	if len(took) == 0 {
		t.Fatal("no runner has waited for the other")
	}
	median := took[len(took)/2]
	t.Logf("median of %d: %s", len(took), median)
	if median > 200*time.Millisecond {
		t.Errorf("who waits for another runner waits for %s, want milliseconds", median)
	}
}

// TestPausedSubscription: no effect begins after the subscription was paused, also when its runner was
// only waiting for the next event.
func TestPausedSubscription(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var effects atomic.Int64
	r, _ := f.start(quiet, f.store, by(1, "b", 1, nil), projection.NewSubscription("mail", nil,
		projection.Effect(codec, func(context.Context, eventstore.Event[counted]) error {
			effects.Add(1)
			return nil
		})))
	f.wait(r, f.append(codec, 1))
	if err := r.Pause(t.Context(), "mail", 0, "a test"); err != nil {
		t.Fatal(err)
	}
	last := f.append(codec, 1)
	f.wait(r, last, "b")
	// The page reaches both: what is wrong happens now, or within the time that a few more take.
	for range 10 {
		last = f.append(codec, 1)
		f.wait(r, last, "b")
	}
	if n := effects.Load(); n != 1 {
		t.Errorf("%d effects after the subscription was paused", n-1)
	}
	if err := r.Resume(t.Context(), "mail", 0); err != nil {
		t.Fatal(err)
	}
	f.wait(r, last)
	if n := effects.Load(); n != 12 {
		t.Errorf("%d effects of 12 events", n)
	}
}

// The codecs of an old release, of a newer one that has one type more, and of one that has retired it.
type extra struct{ N int }

func countedType() eventstore.Type[any] {
	return eventstore.TypeOf("counted", func(e counted) any { return e })
}

func extraType() eventstore.Type[any] {
	return eventstore.TypeOf("extra", func(e extra) any { return e })
}

// release returns the projection as a release has it.
func release(types ...eventstore.Type[any]) *projection.Projection {
	return projection.New("a", &projection.Options{Partitions: 4}, projection.On(eventstore.NewCodec(types...),
		func(ctx context.Context, tx pgx.Tx, event eventstore.Event[any]) error {
			_, err := tx.Exec(ctx, `insert into model values ('a', $1, 0)`, event.Position)
			return err
		}))
}

// appendExtra stores events of the new type in streams of all partitions.
func (f *fixture) appendExtra(n int) (last eventstore.Position) {
	f.Helper()
	for i := range n {
		receipt, err := f.store.Append(f.Context(), eventstore.StreamID{Category: "counter", Key: fmt.Sprint(i)}, eventstore.Any,
			eventstore.Draft{Type: "extra", Data: []byte(`{"N":1}`)})
		if err != nil {
			f.Fatal(err)
		}
		last = receipt.Position
	}
	return last
}

// waitWithin waits for a shorter time than the leases of these tests: nobody waits for one to expire.
func (f *fixture) waitWithin(d time.Duration, r *projection.Runner, position eventstore.Position) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), d)
	defer cancel()
	if err := r.Wait(ctx, position); err != nil {
		f.Errorf("not within %s: %v", d, err)
	}
}

func talking() (*projection.Config, *logged) {
	config, said := *quiet, &logged{}
	config.Logger, config.Lease = slog.New(slog.NewTextHandler(said, nil)), 30*time.Second
	return &config, said
}

// logged is what a logger was told.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// TestOldRelease: a release that does not know an event type does not pass over events of it when a
// newer one runs beside it, and leaves the projection to that one at once.
func TestOldRelease(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config, said := talking()
	old, stopOld := f.start(config, f.store, release(countedType()))
	f.wait(old, f.appendKeys(10))
	f.appendKeys(10)
	newer, stopNewer := f.start(config, f.store, release(countedType(), extraType()))
	f.eventually(20*time.Second, "the newer release is known", func() bool { return len(f.status(old, "a").Added) > 0 })
	f.appendExtra(10)
	last := f.appendKeys(10)
	f.waitWithin(10*time.Second, newer, last)
	f.wait(newer, last)
	f.checkSet("a", "counted", "extra")
	f.eventually(20*time.Second, "the old release says that it leaves the projection", func() bool { return said.has("left to others") })

	// One that is started again neither handles anything nor keeps the newer one from it.
	stopOld()
	stopNewer()
	f.start(config, f.store, release(countedType()))
	newer, _ = f.start(config, f.store, release(countedType(), extraType()))
	f.appendExtra(10)
	f.waitWithin(10*time.Second, newer, f.appendKeys(10))
	f.checkSet("a", "counted", "extra")
}

// TestRetiredType: a release that has retired an event type runs the projection. One that has just
// dropped it does not, until somebody accepts that.
func TestRetiredType(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config, said := talking()
	r, stop := f.start(config, f.store, release(countedType(), extraType()))
	f.appendExtra(5)
	f.wait(r, f.appendKeys(10))
	stop()
	r, stop = f.start(config, f.store, release(countedType(), eventstore.Retired[any]("extra")))
	f.waitWithin(10*time.Second, r, f.appendKeys(10))
	stop()
	f.checkSet("a", "counted", "extra")
	if said.has("left to others") {
		t.Error("a release that has retired a type was locked out")
	}

	r, _ = f.start(config, f.store, release(countedType()))
	last := f.appendKeys(10)
	f.eventually(20*time.Second, "it is left to others", func() bool { return said.has("left to others") })
	if n := len(f.model("a")); n != 25 {
		t.Errorf("a release that does not know a type has handled %d events", n-25)
	}
	if err := r.Accept(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	f.waitWithin(10*time.Second, r, last)
	f.checkSet("a", "counted", "extra")
}

// stopper ends a context at the n-th statement.
type stopper struct {
	left atomic.Int64
	stop context.CancelFunc
}

func (s *stopper) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if s.left.Add(-1) == 0 {
		s.stop()
	}
	return ctx
}

func (s *stopper) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestStopAtEveryStatement: at whichever statement a runner is stopped, the next one goes on where it
// was. Most of all a checkpoint never goes back.
func TestStopAtEveryStatement(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for n := range int64(16) {
		f.append(codec, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // if there are fewer statements
		s := &stopper{stop: cancel}
		s.left.Store(n + 1)
		config := f.pool.Config()
		config.ConnConfig.Tracer = s
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		r, err := projection.NewRunner(pool, f.store, quiet, by(1, "a", 1, nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(ctx); err != nil {
			t.Errorf("stopped at statement %d: %v", n+1, err)
		}
		cancel()
		pool.Close()
		r, stop := f.start(quiet, f.store, by(1, "a", 1, nil))
		f.wait(r, f.append(codec, 1))
		stop()
		if f.checkModel("a"); t.Failed() {
			t.Fatalf("stopped at statement %d", n+1)
		}
	}
}
