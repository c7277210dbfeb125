package pgpool

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Watchdog cuts a connection that makes no progress.
type Watchdog struct {
	pool   *Pool
	clock  *clock
	conn   *pgx.Conn
	within time.Duration
	asks   bool
	steps  atomic.Int64

	mu      sync.Mutex
	seen    int64     // how many steps were seen
	since   time.Time // when the latest step was seen
	alarm   *alarm
	stopped bool
	// forget ends CutAfter, if it was called. abandoned is set when its time has passed.
	forget    func() bool
	abandoned bool
	silent    bool
}

// Watch cuts a connection when it has made no progress for the time within, until the watchdog is stopped. If within is
// longer than [Answer], the watchdog asks Postgres over another connection after Answer, and cuts the connection at
// once if its session does nothing.
func (p *Pool) Watch(conn *pgx.Conn, within time.Duration) *Watchdog {
	return p.watch(conn, within, within > Answer)
}

// WatchCommit is Watch for a statement that commits. While the session waits for a synchronous standby, the connection
// is left alone, however long the wait takes. Nothing is wrong with such a connection, and its session would still wait
// after a cut.
func (p *Pool) WatchCommit(conn *pgx.Conn, within time.Duration) *Watchdog {
	return p.watch(conn, within, true)
}

func (p *Pool) watch(conn *pgx.Conn, within time.Duration, asks bool) *Watchdog {
	w := &Watchdog{pool: p, clock: &p.clock, conn: conn, within: within, asks: asks}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wait(time.Now())
	return w
}

// wait looks for progress later. since is the time of the latest progress.
func (w *Watchdog) wait(since time.Time) {
	w.since = since
	w.alarm = w.clock.after(w.pause(), w.look)
}

func (w *Watchdog) pause() time.Duration {
	if w.asks {
		return min(w.within, Answer)
	}
	return w.within
}

// Progress tells the watchdog that a part of the answer has arrived.
func (w *Watchdog) Progress() { w.steps.Add(1) }

func (w *Watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	steps := w.steps.Load()
	switch {
	case w.stopped:
	case steps > w.seen:
		w.seen = steps
		w.wait(time.Now())
	case w.asks:
		go w.ask()
	default:
		w.cut()
	}
}

func (w *Watchdog) cut() {
	w.silent = true
	Cut(w.conn)
	go w.pool.heal() // the idle connections may be silent for the same reason
}

// ask cuts the connection if Postgres says that its session does nothing. If Postgres says that the session waits for a
// synchronous standby, the connection is left alone. Otherwise it is cut after the time within.
func (w *Watchdog) ask() {
	a := w.pool.activity(w.conn.PgConn())
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.stopped:
	case !w.abandoned && w.steps.Load() > w.seen, a.goesOn(time.Since(w.since), w.within, w.abandoned):
		w.alarm = w.clock.after(w.pause(), w.look)
	default:
		w.cut()
	}
}

// activity is what a session does, as another session sees it.
type activity struct {
	known        bool // false if no connection can ask, a pooler gives sessions other numbers, or activities are not tracked
	state, event string
}

const activitySQL = `
select coalesce(state, ''), coalesce(wait_event, '')
  from pg_stat_activity
 where pid = $1
   and datname = current_database()
   and usename = session_user
   and application_name = $2 -- another server may have answered`

func (p *Pool) activity(silent *pgconn.PgConn) (a activity) {
	conn, err := p.Dial(context.Background())
	if err != nil {
		return a
	}
	defer Close(conn)
	ctx, cancel := context.WithTimeout(context.Background(), Connect)
	defer cancel()
	name := silent.ParameterStatus("application_name")
	err = conn.QueryRow(ctx, activitySQL, int32(silent.PID()), name).Scan(&a.state, &a.event)
	a.known = err == nil && a.state != "" && a.state != "disabled"
	return a
}

// goesOn reports whether a session that has been silent for a time may still answer. Nobody waits for the answer of an
// abandoned one.
func (a activity) goesOn(silent, within time.Duration, abandoned bool) bool {
	switch {
	case a.known && a.event == "SyncRep":
		return true
	case abandoned:
		return false
	case a.known && (a.state != "active" || a.event == "ClientRead" || a.event == "ClientWrite"):
		return false
	}
	return silent < within
}

// CutAfter also cuts the connection when the time after has passed since ctx was done, unless its session waits for a
// synchronous standby. It is called once at most.
func (w *Watchdog) CutAfter(ctx context.Context, after time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget = context.AfterFunc(ctx, func() { w.clock.after(after, w.abandon) })
}

func (w *Watchdog) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.abandoned = true
		w.clock.stop(w.alarm)
		go w.ask()
	}
}

// Stop ends the watch. It returns err, the error of the watched statement, and adds the reason if the connection was
// cut. Such a connection is closed by then, so that a pool does not use it again. Stop may be called again.
func (w *Watchdog) Stop(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock.stop(w.alarm)
	if w.silent && !w.stopped {
		_ = w.conn.Close(context.Background()) // the wire is closed, so this does not wait
	}
	w.stopped = true
	if w.forget != nil {
		w.forget()
	}
	if err != nil && w.silent {
		return fmt.Errorf("%w for %s: %w", ErrNoAnswer, time.Since(w.since).Round(100*time.Millisecond), err)
	}
	return err
}
