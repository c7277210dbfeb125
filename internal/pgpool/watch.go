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
	conn   *pgx.Conn
	within time.Duration
	steps  atomic.Int64

	mu      sync.Mutex
	seen    int64 // of the steps
	timer   *time.Timer
	stopped bool
	silent  bool
}

// Watch cuts a connection when there is no progress for so long, until the watchdog is stopped.
func Watch(conn *pgx.Conn, within time.Duration) *Watchdog {
	w := &Watchdog{conn: conn, within: within}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(within, w.look)
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
		w.timer.Reset(w.within)
	default:
		w.silent = true
		Cut(w.conn)
	}
}

// Stop ends the watch, and returns the error of what was watched with its reason. A connection that was cut
// is closed by then, so that a pool does not use it again. Stop may be called again.
func (w *Watchdog) Stop(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	if w.silent && !w.stopped {
		_ = w.conn.Close(context.Background()) // the wire is closed, so nothing is waited for
	}
	w.stopped = true
	if err != nil && w.silent {
		return fmt.Errorf("%w for %s: %w", ErrNoAnswer, w.within, err)
	}
	return err
}
