// Package pglisten listens for notifications of Postgres.
package pglisten

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/internal/pause"
	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// linger is how long the connection stays open when no reader waits. Readers come back as soon as they have handled
// their events.
const linger = 2 * time.Second

// heartbeat is how long the connection can be silent before it is asked for a sign of life.
const heartbeat = 5 * time.Second

// Listener calls Wake when a channel is notified. It has one connection, outside the pool, for all readers that have
// joined, and none when there is no reader. Set the fields first. Then the methods may be called from any goroutine.
type Listener struct {
	Pool    *pgpool.Pool // says how to connect
	Channel string
	Own     string // the payload of notifications to ignore
	Wake    func() // also called after every connect, because notifications may have been missed
	Logger  *slog.Logger
	Failing string // the log text when there is no connection

	connected atomic.Bool

	mu      sync.Mutex
	readers int
	stop    context.CancelFunc // of the goroutine that listens; nil if there is none
	done    chan struct{}      // closed when the goroutine that was started last has ended
	idle    *time.Timer        // stops the goroutine when no reader is left
}

// IsConnected reports whether notifications arrive, as far as is known. A connection that died in silence is noticed
// after some seconds.
func (l *Listener) IsConnected() bool { return l.connected.Load() }

// Join adds a reader. The Listener listens to the channel until the reader leaves.
func (l *Listener) Join() (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers++
	if l.idle != nil {
		l.idle.Stop()
	}
	if l.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		l.stop, l.done = stop, done
		go func() {
			defer close(done)
			defer stop()
			l.run(ctx)
		}()
	}
	return l.leave
}

func (l *Listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers--
	if l.readers == 0 && l.stop != nil {
		l.idle = time.AfterFunc(linger, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.readers == 0 {
				l.stopLocked()
			}
		})
	}
}

// Close stops listening and waits until the goroutine has ended. A reader that joins later starts it again.
func (l *Listener) Close() {
	l.mu.Lock()
	l.stopLocked()
	done := l.done
	l.mu.Unlock()
	if done != nil {
		<-done
	}
}

func (l *Listener) stopLocked() {
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
}

// run listens until ctx is done. When the connection is lost, it connects again after a pause.
func (l *Listener) run(ctx context.Context) {
	pauses := pause.NewGrowing(100*time.Millisecond, 10*time.Second)
	for {
		err := l.listen(ctx, pauses.Reset)
		if ctx.Err() != nil || l.ended(ctx) {
			return
		}
		delay := pauses.Next()
		l.Logger.WarnContext(ctx, l.Failing,
			"channel", l.Channel, "retry_in", delay, "error", err)
		if pause.Sleep(ctx, delay) != nil {
			return
		}
	}
}

// ended reports whether the goroutine ends when the connection is lost: no reader is left, or ctx is done.
func (l *Listener) ended(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return true
	}
	if l.readers > 0 {
		return false
	}
	l.stop = nil
	return true
}

func (l *Listener) listen(ctx context.Context, connected func()) error {
	conn, err := l.Pool.Dial(ctx)
	if err != nil {
		return err
	}
	defer pgpool.Close(conn)
	watch := l.Pool.Watch(conn, pgpool.Connect)
	_, err = conn.Exec(ctx, "listen "+pgx.Identifier{l.Channel}.Sanitize())
	if err := watch.Stop(err); err != nil {
		return err
	}
	connected()
	l.connected.Store(true)
	defer l.connected.Store(false)
	l.Wake() // for notifications that were missed
	for {
		notification, err := l.next(ctx, conn)
		if err != nil {
			return err
		}
		if notification.Payload != l.Own {
			l.Wake()
		}
	}
}

// next waits for a notification, and makes sure from time to time that the connection is alive.
func (l *Listener) next(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	for {
		wait, cancel := context.WithTimeout(ctx, heartbeat)
		notification, err := conn.WaitForNotification(wait)
		quiet := wait.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !quiet || conn.IsClosed() {
			return notification, err
		}
		watch := l.Pool.Watch(conn, pgpool.Connect)
		if err := watch.Stop(conn.Ping(ctx)); err != nil {
			return nil, err
		}
	}
}
