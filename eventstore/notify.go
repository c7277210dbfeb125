package eventstore

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// notifyShare is how much longer than a NOTIFY took the sender waits before the next one: it
	// costs at most a tenth of one connection, however many appends there are.
	notifyShare = 10
	// notifyTimeout bounds one NOTIFY, and maxNotifyPause what is between two.
	notifyTimeout  = time.Second
	maxNotifyPause = 50 * time.Millisecond
	// linger is how long the listening connection stays open when nobody waits: readers come back
	// as soon as they have handled what they got.
	linger = 2 * time.Second
)

// Without a flush: a lost notification costs a poll.
const notifySQL = `select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)`

// notifier tells other processes that something was appended: after the commit, from a connection of
// its own, once for all the appends since the last time.
type notifier struct {
	pool    *pgxpool.Pool
	channel string
	sender  string // tells our notifications from those of others

	mu      sync.Mutex
	pending bool
	sending bool
	running sync.WaitGroup
}

func newNotifier(pool *pgxpool.Pool, channel string) *notifier {
	return &notifier{pool: pool, channel: channel, sender: uuid.NewString()}
}

func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pending = true
	if !n.sending {
		n.sending = true
		n.running.Go(n.send)
	}
}

// send sends notifications until nothing is pending.
func (n *notifier) send() {
	for n.next() {
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
		_, _ = n.pool.Exec(ctx, notifySQL, n.channel, n.sender)
		cancel()
		time.Sleep(min(notifyShare*time.Since(start), maxNotifyPause))
	}
}

func (n *notifier) next() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sending, n.pending = n.pending, false
	return n.sending
}

// listener wakes this process's readers when another process has appended. It has one connection,
// outside the pool, however many readers there are, and none when nobody reads.
type listener struct {
	pool    *pgxpool.Pool
	channel string
	own     string // notifications to ignore
	wake    func()
	logger  *slog.Logger

	mu      sync.Mutex
	readers int
	stop    context.CancelFunc // of the goroutine that listens; nil if there is none
	done    chan struct{}      // closed when the last one that was started has ended
	idle    *time.Timer        // stops it when nobody reads
}

// join makes sure that somebody listens, until the reader leaves.
func (l *listener) join() (leave func()) {
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

func (l *listener) leave() {
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

// close stops listening and waits for the end of it. A reader that joins later starts it again.
func (l *listener) close() {
	l.mu.Lock()
	l.stopLocked()
	done := l.done
	l.mu.Unlock()
	if done != nil {
		<-done
	}
}

func (l *listener) stopLocked() {
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
}

// run listens until ctx is done, and connects again, after a pause, when the connection is lost.
func (l *listener) run(ctx context.Context) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 10*time.Second
	for {
		err := l.listen(ctx, pause.Reset)
		if ctx.Err() != nil || l.ended(ctx) {
			return
		}
		delay := pause.NextBackOff()
		l.logger.WarnContext(ctx, "eventstore: cannot listen for appends of other processes: until the connection is back they are seen by polling",
			"channel", l.channel, "retry_in", delay, "error", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
	}
}

// ended reports whether nobody reads any more, so that a lost connection is not missed. Then the
// goroutine ends.
func (l *listener) ended(ctx context.Context) bool {
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

func (l *listener) listen(ctx context.Context, connected func()) error {
	pool := l.pool.Config()
	if pool.BeforeConnect != nil {
		if err := pool.BeforeConnect(ctx, pool.ConnConfig); err != nil {
			return err
		}
	}
	pool.ConnConfig.OnNotification = nil // which would take them away
	conn, err := pgx.ConnectConfig(ctx, pool.ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(ctx, "listen "+pgx.Identifier{l.channel}.Sanitize()); err != nil {
		return err
	}
	connected()
	l.wake() // for what was appended before
	for {
		notification, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if notification.Payload != l.own {
			l.wake()
		}
	}
}
