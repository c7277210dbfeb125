package pgpool

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Watchdog cuts a connection that makes no progress.
type Watchdog struct {
	pool   *Pool
	clock  *clock
	conn   *pgx.Conn
	within time.Duration
	steps  atomic.Int64

	mu      sync.Mutex
	seen    int64 // of the steps
	alarm   *alarm
	stopped bool
	silent  bool
}

// Watch cuts a connection when there is no progress for so long, until the watchdog is stopped.
func (p *Pool) Watch(conn *pgx.Conn, within time.Duration) *Watchdog {
	w := &Watchdog{pool: p, clock: &p.clock, conn: conn, within: within}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alarm = w.clock.after(within, w.look)
	return w
}

// Progress says that there is an answer.
func (w *Watchdog) Progress() { w.steps.Add(1) }

func (w *Watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	steps := w.steps.Load()
	switch {
	case w.stopped:
	case steps > w.seen:
		w.seen = steps
		w.alarm = w.clock.after(w.within, w.look)
	default:
		w.silent = true
		Cut(w.conn)
		go w.pool.heal() // what has silenced this connection may have silenced the idle ones too
	}
}

// Stop ends the watch, and returns the error of what was watched with its reason. A connection that was cut
// is closed by then, so that a pool does not use it again. Stop may be called again.
func (w *Watchdog) Stop(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock.stop(w.alarm)
	if w.silent && !w.stopped {
		_ = w.conn.Close(context.Background()) // the wire is closed, so nothing is waited for
	}
	w.stopped = true
	if err != nil && w.silent {
		return fmt.Errorf("%w for %s: %w", ErrNoAnswer, w.within, err)
	}
	return err
}
