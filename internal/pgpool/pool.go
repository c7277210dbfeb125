// Package pgpool bounds what is done with a pool of connections, whatever the pool's configuration: a
// connection that is dead without anybody having said so costs seconds.
//
// pgxpool alone waits without end in three places. It asks an idle connection for a sign of life before it
// gives that out. A new connection that is never answered holds its place in the pool for two minutes, and a
// closed one for fifteen seconds. A statement waits until the kernel gives up, which takes a quarter of an hour.
package pgpool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrNoAnswer means that Postgres did not answer in time, or could not be connected to in time.
var ErrNoAnswer = errors.New("no answer from Postgres")

// unreached is ErrNoAnswer before anything was sent. It does not unwrap to the error of a context that is not the
// caller's.
type unreached struct{ text string }

func (e *unreached) Error() string {
	return fmt.Sprintf("%v: cannot connect in time: %s", ErrNoAnswer, e.text)
}
func (e *unreached) Is(target error) bool { return target == ErrNoAnswer }

// NothingDone reports that the statement had no effect, see pgerr.NothingDone.
func (e *unreached) NothingDone() bool { return true }

const (
	// Answer is how long a statement may take without a row of it. A page over a slow line takes longer,
	// and brings rows meanwhile.
	Answer = 10 * time.Second
	// commitAnswer is the same for COMMIT and ROLLBACK: a commit may wait for a standby.
	commitAnswer = time.Minute
	// patientAnswer is Answer for a statement that may have to look at a large table.
	patientAnswer = time.Minute
	// Connect is how long the pool, and then a connection beside it, may take.
	Connect = 3 * time.Second
	// suspicion replaces Connect while the pool is known to have dead connections.
	suspicion = 50 * time.Millisecond
	// turn is how long a place for a connection beside the pool is waited for, in the order of coming, until the
	// pool is asked again.
	turn = Connect
	// pingAnswer is how long an idle connection may take for a sign of life.
	pingAnswer = time.Second
	// maxSpares is how many connections a Pool has beside the one of the application at most.
	maxSpares = 2
)

type patientKey struct{}

// Patient returns a context under which a statement may take a minute without a row: for what may have to
// look at a large table.
func Patient(ctx context.Context) context.Context {
	return context.WithValue(ctx, patientKey{}, true)
}

func answer(ctx context.Context) time.Duration {
	if ctx.Value(patientKey{}) != nil {
		return patientAnswer
	}
	return Answer
}

// Pool is a pool of the application whose connections are acquired and used within bounds. It adds no
// connection to the pool as long as that gives one within seconds. Its methods may be called from any
// goroutine.
type Pool struct {
	pool    *pgxpool.Pool
	spares  chan struct{} // one for each connection beside the pool
	suspect atomic.Bool   // the pool gave nothing the last time, although not all of it is in use
	healing atomic.Bool
	clock   clock
}

// New returns a Pool over one of the application, which stays the application's to close.
func New(pool *pgxpool.Pool) *Pool {
	return &Pool{pool: pool, spares: make(chan struct{}, maxSpares)}
}

// Acquire returns a connection, which must be released. When all connections of the pool are dead, or on
// their way without an end, it makes one beside the pool. When all are in use it waits until ctx is done.
// The error is [ErrNoAnswer] when Postgres cannot be reached in time.
func (p *Pool) Acquire(ctx context.Context) (*Conn, error) {
	for {
		patience := Connect
		if p.suspect.Load() {
			patience = suspicion
		}
		conn, err := p.fromPool(ctx, patience)
		if conn != nil || !errors.Is(err, ErrNoAnswer) {
			return conn, err
		}
		go p.heal()
		conn, err = p.spare(ctx)
		var said *pgconn.PgError
		switch {
		case errors.As(err, &said): // Postgres answers, so the pool is merely in use
			p.suspect.Store(false)
		case !errors.Is(err, errNoSpare):
			return conn, err
		}
	}
}

func (p *Pool) fromPool(ctx context.Context, patience time.Duration) (*Conn, error) {
	bound, cancel := context.WithCancel(ctx)
	defer cancel()
	alarm := p.clock.after(patience, cancel)
	defer p.clock.stop(alarm)
	conn, err := p.pool.Acquire(deadline{bound, time.Now().Add(patience)})
	if err == nil {
		p.suspect.Store(false)
		return &Conn{conn: conn.Conn(), pooled: conn}, nil
	}
	if ctx.Err() == nil && bound.Err() != nil {
		return nil, fmt.Errorf("%w: the pool gave no connection within %s", ErrNoAnswer, patience)
	}
	return nil, err
}

// deadline is a context with a deadline that a clock watches. The pool bounds by it how long it asks an
// idle connection for a sign of life.
type deadline struct {
	context.Context
	at time.Time
}

func (d deadline) Deadline() (time.Time, bool) {
	if at, ok := d.Context.Deadline(); ok && at.Before(d.at) {
		return at, true
	}
	return d.at, true
}

// heal closes the idle connections of the pool that give no sign of life, all at once: the pool would find
// one after the other.
func (p *Pool) heal() {
	if !p.healing.CompareAndSwap(false, true) {
		return
	}
	defer p.healing.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), Connect)
	defer cancel()
	var all sync.WaitGroup
	for _, idle := range p.pool.AcquireAllIdle(ctx) {
		all.Go(func() {
			defer idle.Release()
			w := p.Watch(idle.Conn(), pingAnswer)
			_ = w.Stop(idle.Conn().Ping(context.Background()))
		})
	}
	all.Wait()
}

var errNoSpare = errors.New("pgpool: all spare connections are in use")

// spare makes a connection beside the pool, as the pool would make it.
func (p *Pool) spare(ctx context.Context) (*Conn, error) {
	select {
	case p.spares <- struct{}{}:
	case <-time.After(turn):
		return nil, errNoSpare
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	conn, err := p.Dial(ctx)
	if err != nil {
		<-p.spares
		return nil, err
	}
	// If all of the pool is in use others need not wait shorter for it.
	p.suspect.Store(p.pool.Stat().AcquiredConns() < p.pool.Config().MaxConns)
	return &Conn{conn: conn, spares: p.spares}, nil
}

// Dial makes a connection as the pool does, which never becomes the pool's, or returns [ErrNoAnswer] after
// [Connect] for each host. It is for [Close].
func (p *Pool) Dial(ctx context.Context) (*pgx.Conn, error) {
	config := p.pool.Config()
	within := boundHosts(config.ConnConfig)
	bound, cancel := context.WithTimeoutCause(ctx, within, ErrNoAnswer)
	defer cancel()
	conn, err := dial(bound, config)
	if err != nil && ctx.Err() == nil && (bound.Err() != nil || pgconn.Timeout(err)) {
		return nil, &unreached{err.Error()}
	}
	return conn, err
}

// maxAddresses is how many addresses of one host may not answer before one that does.
const maxAddresses = 3

// boundHosts lets each host of a configuration, and each address of a host, have its share of the time, so that one that
// does not answer leaves some for the next, and returns the time of all.
func boundHosts(config *pgx.ConnConfig) time.Duration {
	address := func(host string, port uint16) string { return fmt.Sprint(host, ":", port) }
	hosts := map[string]int{address(config.Host, config.Port): 1} // and the ways to connect, such as with TLS and without
	for _, f := range config.Fallbacks {
		hosts[address(f.Host, f.Port)]++
	}
	ways := 1
	for _, n := range hosts {
		ways = max(ways, n)
	}
	share := Connect / time.Duration(ways)
	if config.ConnectTimeout == 0 || config.ConnectTimeout > share {
		config.ConnectTimeout = share
	}
	return time.Duration(max(len(hosts), maxAddresses)) * Connect
}

func dial(ctx context.Context, config *pgxpool.Config) (*pgx.Conn, error) {
	config.ConnConfig.OnNotification = nil // of the application's listener
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil || config.AfterConnect == nil {
		return conn, err
	}
	if err := config.AfterConnect(ctx, conn); err != nil {
		Close(conn)
		return nil, err
	}
	return conn, nil
}

// Cut closes a connection without a word to the other side, which may be dead.
func Cut(conn *pgx.Conn) {
	wire := conn.PgConn().Conn()
	if secure, ok := wire.(interface{ NetConn() net.Conn }); ok {
		wire = secure.NetConn() // closing the outer one would send something
	}
	_ = wire.Close()
}

// Conn is a connection of a pool, or one beside it.
type Conn struct {
	conn   *pgx.Conn
	pooled *pgxpool.Conn // nil if it is beside the pool
	spares <-chan struct{}
}

// Conn returns the connection itself, on which nothing is bounded.
func (c *Conn) Conn() *pgx.Conn { return c.conn }

// Release gives the connection back.
func (c *Conn) Release() {
	if c.pooled != nil {
		c.pooled.Release()
		return
	}
	if c.spares == nil { // it was hijacked
		return
	}
	Close(c.conn)
	<-c.spares
}

// Hijack takes the connection away from the pool: the caller closes it.
func (c *Conn) Hijack() *pgx.Conn {
	if c.pooled != nil {
		return c.pooled.Hijack()
	}
	<-c.spares
	c.spares = nil
	return c.conn
}

// Close closes a connection that is beside the pool, and waits a second at most until that was sent.
func Close(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), pingAnswer)
	defer cancel()
	_ = conn.Close(ctx)
}
