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

// TestDeafHandler: what handlers that ignore their context hold are their goroutines, not the pool.
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
	f.wait(r, last) // three attempts take three connections
	f.checkModel("good")
	if parked := f.statusOf(r, "deaf").Parked; parked != 2 {
		t.Errorf("%d events are parked, want the one that is not handled and the one behind it", parked)
	}
	f.until("the pool free", func() bool { return pool.Stat().AcquiredConns() == 0 })
}

// trouble is what happens to the connections of a pool.
type trouble struct {
	ends   atomic.Int32 // how many reads are yet to find that the other side has closed
	silent atomic.Bool  // nothing arrives any more on the connections there are
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

// Write makes a connection dead for good that is used in the silence.
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

// troubled gives the fixture a pool with trouble. The test's own statements need another one.
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

// TestLostConnections: a connection that ends in the middle of a batch, without a word of the server,
// says nothing about its event.
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
					tr.ends.Store(1) // the next answer is that to the checkpoint
				}
				return nil
			})
			r, _ := other.start(quiet, f.store, p)
			for events := int32(1); calls.Load() < events; events++ { // another statement may have met the end
				f.wait(r, f.put("a", 0))
			}
			f.checkFold(k, r, k.name)
			if s := f.statusOf(r, k.name); s.Parked > 0 {
				t.Errorf("%d events are parked after %d calls", s.Parked, calls.Load())
			}
		})
	}
}

// TestSilentConnection: a batch on a connection that is dead, but that nobody has closed, is given up
// and done again, although its process goes on renewing its lease.
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
			time.AfterFunc(50*time.Millisecond, func() { tr.silent.Store(false) }) // another server has taken over
		})
		return nil
	}))
	f.wait(r, f.put("a", 0))
	f.checkModel("a")
}

// TestLockedTable: that somebody has locked the read model says nothing about events.
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
	defer func() { _ = tx.Rollback(context.Background()) }() // of no effect the second time
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
		t.Errorf("%d events are parked", s.Parked)
	}
	f.checkFold(k, r, "locked")
}

// TestLogGoesBack: after a failover that has lost the end of the log, with the read model, a runner
// does not handle what it remembers of it.
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
	defer func() { _ = tx.Rollback(context.Background()) }() // of no effect after the commit
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
		t.Errorf("the numbers add up to %d, want those of the log there is; %v", sum, err)
	}
}

// TestFailureOver: a failure that was of no event is over when nothing more happens.
func TestFailureOver(t *testing.T) {
	t.Parallel()
	f := setup(t)
	log := &failingLog{Store: f.store}
	r, stop := f.start(quiet, log, record("a", nil))
	f.wait(r, f.put("a", 0))
	log.fail.Store(true)
	f.put("other", 0) // so that it reads again
	f.until("failing", func() bool { return !f.statusOf(r, "a").Partitions[0].FailingSince.IsZero() })
	log.fail.Store(false)
	f.until("healthy", func() bool { return r.Health(t.Context()) == nil })

	// A failure that another process has left behind.
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

// TestRenewWhileLocked: an operation that takes long on one projection does not cost its process the
// leases of the others.
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
