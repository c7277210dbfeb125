package projection_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestDeafHandler: a handler that ignores its context keeps its goroutine, but it does not keep a connection of the
// pool.
func TestDeafHandler(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := f.pool.Config()
	config.MaxConns = 2
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	f.pool = pool
	over := make(chan struct{})
	t.Cleanup(pool.Close)
	t.Cleanup(func() { close(over) })
	options := &projection.Options{Timeout: 20 * time.Millisecond, MaxAttempts: 3}
	deaf := projection.New("deaf", options, projection.On(counting, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
		if e.Data.N == bad {
			<-over
		}
		return nil
	}))
	r, _ := f.start(quiet, f.store, deaf, record("good", nil))
	last := f.put("a", bad, 0)
	f.wait(r, last) // three attempts take three connections, and the pool has two
	f.checkModel("good")
	if parked := f.statusOf(r, "deaf").Parked; parked != 2 {
		t.Errorf("%d events are parked, want 2: the event that is not handled and the one behind it", parked)
	}
	f.until("the pool free", func() bool { return pool.Stat().AcquiredConns() == 0 })
}

// trouble controls the faults of a pool's connections.
type trouble struct {
	ends   atomic.Int32 // how many of the next reads return io.EOF
	silent atomic.Bool  // a connection that is written to while this is set receives nothing any more
}

type troubledConn struct {
	net.Conn
	*trouble
	dead   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (c *troubledConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.dead.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	if left := c.ends.Load(); left > 0 && c.ends.CompareAndSwap(left, left-1) {
		return 0, io.EOF
	}
	return n, err
}

// Write makes the connection dead for good if it is used while silent is set.
func (c *troubledConn) Write(p []byte) (int, error) {
	if c.silent.Load() {
		c.dead.Store(true)
	}
	return c.Conn.Write(p)
}

func (c *troubledConn) SetDeadline(t time.Time) error {
	if !t.IsZero() && c.dead.Load() { // pgx has given up
		c.once.Do(func() { close(c.closed) })
	}
	return c.Conn.SetDeadline(t)
}

func (c *troubledConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// troubled returns a fixture whose pool has the faults of the returned trouble. The test's own statements need the pool
// of the old fixture.
func (f *fixture) troubled() (*fixture, *trouble) {
	f.Helper()
	var tr trouble
	config := f.pool.Config()
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return &troubledConn{Conn: conn, trouble: &tr, closed: make(chan struct{})}, err
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	return &fixture{T: f.T, pool: pool, store: f.store}, &tr
}

// TestLostConnections: a connection ends in the middle of a batch, without an error from the server. No event is
// blamed.
func TestLostConnections(t *testing.T) {
	t.Parallel()
	for _, k := range kinds[:2] {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			other, tr := f.troubled()
			var calls atomic.Int32
			p := k.make(f, k.name, projection.Options{MaxAttempts: 1}, func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
				if calls.Add(1) <= 20 {
					tr.ends.Store(1) // the next answer is usually the one to the checkpoint's statement
				}
				return nil
			})
			r, _ := other.start(quiet, f.store, p)
			for events := int32(1); calls.Load() < events; events++ { // the end may have met another statement
				f.wait(r, f.put("a", 0))
			}
			f.checkFold(k, r, k.name)
			if s := f.statusOf(r, k.name); s.Parked > 0 {
				t.Errorf("%d events are parked after %d calls", s.Parked, calls.Load())
			}
		})
	}
}

// TestSilentConnection: the connection of a batch is dead but not closed. The batch is given up and done again,
// although its process continues to renew its lease.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other, tr := f.troubled()
	config := *quiet
	config.Lease = time.Second
	var once sync.Once
	r, _ := other.start(&config, f.store, record("a", func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
		once.Do(func() {
			tr.silent.Store(true)
			time.AfterFunc(50*time.Millisecond, func() { tr.silent.Store(false) }) // as after a failover to another server
		})
		return nil
	}))
	f.wait(r, f.put("a", 0))
	f.checkModel("a")
}

// TestLockedTable: while another session locks the read model, no event is blamed.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := f.pool.Config()
	config.ConnConfig.RuntimeParams["lock_timeout"] = "20ms"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	k := kinds[1]
	p := k.make(f, "locked", projection.Options{MaxAttempts: 1}, func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil })
	other := &fixture{T: t, pool: pool, store: f.store}
	r, _ := other.start(quiet, f.store, p)
	f.wait(r, f.put("a", 0))
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }() // does nothing the second time
	if _, err := tx.Exec(t.Context(), `lock table locked_v1 in share mode`); err != nil {
		t.Fatal(err)
	}
	last := f.put("a", 1, 2)
	f.put("b", 3)
	f.until("failing", func() bool { return !f.statusOf(r, "locked").Partitions[0].FailingSince.IsZero() })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(r, last+1)
	if s := f.statusOf(r, "locked"); s.Parked > 0 {
		t.Errorf("%d events are parked, want none", s.Parked)
	}
	f.checkFold(k, r, "locked")
}

// TestLogGoesBack: a failover loses the end of the log and of the read model. The runner handles the new events, and
// not the lost events that it has in memory.
func TestLogGoesBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, record("a", nil))
	kept := f.put("a", 0)
	f.wait(r, kept)
	f.wait(r, f.put("a", 1, 2, 3))
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }() // does nothing after the commit
	for _, sql := range []string{
		`set local session_replication_role = replica`,
		`delete from tidemark.events where position > 1`,
		`select setval('tidemark.events_position_seq', 1)`,
		`delete from model where position > 1`,
		`update tidemark.projection_partitions set checkpoint = 1, handled = 1`,
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil || kept != 1 {
		t.Fatalf("first position %d, %v", kept, err)
	}
	last := f.put("b", 4, 5, 6, 7)
	f.until("all handled", func() bool { return len(f.model("a")) >= 5 })
	if err := r.Wait(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	f.checkModel("a")
	var sum int
	if err := f.pool.QueryRow(t.Context(), `select sum(n) from model`).Scan(&sum); err != nil || sum != 4+5+6+7 {
		t.Errorf("the numbers add up to %d, want %d, the sum of the new events; %v", sum, 4+5+6+7, err)
	}
}

// TestFailureOver: a failure that is not about an event leaves the status when its cause is gone, without a new event.
func TestFailureOver(t *testing.T) {
	t.Parallel()
	f := setup(t)
	log := &failingLog{Store: f.store}
	r, stop := f.start(quiet, log, record("a", nil))
	f.wait(r, f.put("a", 0))
	log.fail.Store(true)
	f.put("other", 0) // makes the runner read again
	f.until("failing", func() bool { return !f.statusOf(r, "a").Partitions[0].FailingSince.IsZero() })
	log.fail.Store(false)
	f.until("healthy", func() bool { return r.Health(t.Context()) == nil })

	// A failure of a process that has ended leaves the status too.
	stop()
	f.exec(`update tidemark.projection_partitions set error = 'as it ended', failing_since = now()`)
	r, _ = f.start(quiet, f.store, record("a", nil))
	f.until("healthy", func() bool { return r.Health(t.Context()) == nil })
}

type failingLog struct {
	*eventstore.Store
	fail atomic.Bool
}

func (l *failingLog) Next(ctx context.Context, after eventstore.Mark, filter eventstore.Filter, limit int) (eventstore.Page, error) {
	p, err := l.Store.Next(ctx, after, filter, limit)
	if l.fail.Load() {
		return p, errors.New("no log today")
	}
	return p, err
}

// TestRenewWhileLocked: while a long operation locks the rows of one projection, the process renews its leases of the
// others.
func TestRenewWhileLocked(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.Lease = time.Second
	r, _ := f.start(&config, f.store, record("a", nil), record("b", nil))
	f.wait(r, f.put("a", 0))
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	var until time.Time
	if err := tx.QueryRow(t.Context(), `select lease_expires from tidemark.projection_partitions where projection = 'a' for update`).Scan(&until); err != nil {
		t.Fatal(err)
	}
	f.until("the other lease renewed for longer", func() bool {
		var expires time.Time
		if err := f.pool.QueryRow(t.Context(), `select lease_expires from tidemark.projection_partitions where projection = 'b'`).Scan(&expires); err != nil {
			t.Fatal(err)
		}
		return expires.After(until.Add(2 * config.Lease))
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(r, f.put("a", 1))
	f.checkModel("a")
}
