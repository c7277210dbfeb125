// Package pgpool bounds the use of a pool of connections, whatever the pool's configuration. A connection can be dead
// without a sign of it. With this package such a connection costs seconds.
//
// pgxpool alone waits too long in three places. It asks an idle connection for a sign of life before it gives the
// connection out, and waits for the answer without end. A new connection that is never answered holds its place in the
// pool for two minutes, and a closed one for fifteen seconds. A statement waits until the kernel gives up, which takes
// a quarter of an hour.
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

// ErrNoAnswer means that Postgres did not answer in time, or that it was not possible to connect in time.
var ErrNoAnswer = errors.New("no answer from Postgres")

// unreached is ErrNoAnswer for a connection that was not made in time: nothing was sent. It does not unwrap to the
// error of the context, because that context is not the caller's.
type unreached struct{ text string }

func (e *unreached) Error() string {
	return fmt.Sprintf("%v: cannot connect in time: %s", ErrNoAnswer, e.text)
}
func (e *unreached) Is(target error) bool { return target == ErrNoAnswer }

// NothingDone reports that the statement had no effect, see pgerr.NothingDone.
func (e *unreached) NothingDone() bool { return true }

const (
	// Answer is how long a statement can take without bringing a row. A page over a slow line takes longer in all, but
	// brings rows on the way.
	Answer = 10 * time.Second
	// commitAnswer is Answer for COMMIT and ROLLBACK: a commit can wait for a standby.
	commitAnswer = time.Minute
	// patientAnswer is Answer for a statement that may have to look at a large table.
	patientAnswer = time.Minute
	// Connect is how long the pool can take to give a connection. A connection beside the pool then gets this time for
	// each host and address.
	Connect = 3 * time.Second
	// suspicion replaces Connect while the pool is known to have dead connections.
	suspicion = 50 * time.Millisecond
	// turn is how long a caller waits for a place for a connection beside the pool, in the order of arrival, until it
	// asks the pool again.
	turn = Connect
	// pingAnswer is how long an idle connection can take for a sign of life.
	pingAnswer = time.Second
	// maxSpares is how many connections a Pool has at most beside the application's pool.
	maxSpares = 2
)

type patientKey struct{}

// Patient returns a context under which a statement can take a minute without bringing a row. It is for a statement
// that may have to look at a large table.
func Patient(ctx context.Context) context.Context {
	return context.WithValue(ctx, patientKey{}, true)
}

func answer(ctx context.Context) time.Duration {
	if ctx.Value(patientKey{}) != nil {
		return patientAnswer
	}
	return Answer
}

// Pool gives out the connections of a pool of the application, and bounds their use. It makes a connection beside the
// pool only if the pool gives none within seconds. Its methods may be called from any goroutine.
type Pool struct {
	pool    *pgxpool.Pool
	spares  chan struct{} // one for each connection beside the pool
	suspect atomic.Bool   // the pool gave no connection the last time, although not all of them are in use
	healing atomic.Bool
	clock   clock
}

// New returns a Pool over a pool of the application. The application closes its pool itself.
func New(pool *pgxpool.Pool) *Pool {
	return &Pool{pool: pool, spares: make(chan struct{}, maxSpares)}
}

// Raw returns the pool of the application.
func (p *Pool) Raw() *pgxpool.Pool { return p.pool }

// Acquire returns a connection, which must be released. If the pool gives no connection within [Connect], because its
// connections are dead, cannot be made, or are all in use, Acquire makes one beside the pool. If all places beside the
// pool are taken, or Postgres refuses another connection, it asks the pool again, until ctx is done. The error is
// [ErrNoAnswer] when Postgres cannot be reached in time.
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

// deadline is a context with a deadline that a clock watches. The pool asks an idle connection for a sign of life no
// longer than until this deadline.
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

// heal closes all idle connections of the pool that give no sign of life, at the same time. The pool alone would find
// them one after the other.
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

// spare makes a connection beside the pool, in the same way as the pool.
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
	// A pool whose connections are all in use is not suspect: other callers wait for it the full time.
	p.suspect.Store(p.pool.Stat().AcquiredConns() < p.pool.Config().MaxConns)
	return &Conn{conn: conn, spares: p.spares}, nil
}

// Dial makes a connection as the pool does. It never becomes the pool's: the caller closes it with [Close]. Dial
// returns [ErrNoAnswer] if it takes longer than [Connect] for each host, and for at least three hosts.
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

// maxAddresses is how many addresses of one host get a share of the time.
const maxAddresses = 3

// boundHosts gives each host of a configuration, and each address of a host, its share of the time. So a host that does
// not answer leaves time for the next one. It returns the time for all of them.
func boundHosts(config *pgx.ConnConfig) time.Duration {
	address := func(host string, port uint16) string { return fmt.Sprint(host, ":", port) }
	hosts := map[string]int{address(config.Host, config.Port): 1} // with the number of ways to connect, such as with TLS and without
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
	config.ConnConfig.OnNotification = nil // the application's listener gets no notifications from here
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

// Cut closes a connection without sending anything to the other side, which may be dead.
func Cut(conn *pgx.Conn) {
	wire := conn.PgConn().Conn()
	if secure, ok := wire.(interface{ NetConn() net.Conn }); ok {
		wire = secure.NetConn() // closing the TLS connection would send something
	}
	_ = wire.Close()
}

// Conn is a connection of a pool, or one beside it.
type Conn struct {
	conn   *pgx.Conn
	pooled *pgxpool.Conn // nil if it is beside the pool
	spares <-chan struct{}
}

// Conn returns the connection itself. Its use is not bounded.
func (c *Conn) Conn() *pgx.Conn { return c.conn }

// Release gives the connection back.
func (c *Conn) Release() {
	if c.pooled != nil {
		c.pooled.Release()
		return
	}
	if c.spares == nil { // the connection was hijacked
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

// Close closes a connection that is beside the pool. It waits at most a second until the end of the session was sent.
func Close(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), pingAnswer)
	defer cancel()
	_ = conn.Close(ctx)
}
