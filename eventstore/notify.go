package eventstore

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/internal/pgpool"
)

const (
	// notifyShare is how much longer than a NOTIFY took the sender waits before the next one: it
	// costs at most a tenth of one connection, however many appends there are.
	notifyShare = 10
	// notifyTimeout bounds one NOTIFY, and maxNotifyPause what is between two.
	notifyTimeout  = time.Second
	maxNotifyPause = 50 * time.Millisecond
)

// Without a flush: a lost notification costs a poll.
const notifySQL = `select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)`

// notifier tells other processes that something was appended: after the commit, from a connection of
// its own, once for all the appends since the last time.
type notifier struct {
	pool    *pgpool.Pool
	channel string
	sender  string // tells our notifications from those of others

	mu      sync.Mutex
	pending bool
	sending bool
	running sync.WaitGroup
}

func newNotifier(pool *pgpool.Pool, channel string) *notifier {
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
