package eventstore

import (
	"sync/atomic"
	"time"

	"github.com/tidemark-es/tidemark/internal/signal"
)

const (
	// busyPolls is for how many poll intervals after the latest news a reader looks for events in every interval. Then
	// the log is idle, and the reader looks in every idlePolls-th interval, or every second if that is sooner, because
	// notifications tell of nearly all appends. The exceptions are rare: appends from SQL, a transaction that is open
	// for longer, and a notification that is lost.
	busyPolls = 100
	idlePolls = 10
	idlePoll  = time.Second
)

// news tells the readers at the end of the log that there are events, or will be soon. Its methods may be called from
// any goroutine.
type news struct {
	signal *signal.Signal
	latest atomic.Int64 // in nanoseconds since 1970
}

func newNews() *news {
	n := &news{signal: signal.New()}
	n.note()
	return n
}

// note keeps the time of the news for those who know of the events already.
func (n *news) note() { n.latest.Store(time.Now().UnixNano()) }

// spread wakes the readers of this process.
func (n *news) spread() {
	n.note()
	n.signal.Notify()
}

// pollInterval returns how long a reader waits for news before it looks for events.
func (s *Store) pollInterval() time.Duration {
	interval := s.config.PollInterval
	since := time.Since(time.Unix(0, s.news.latest.Load()))
	if s.listener == nil || !s.listener.IsConnected() || since/busyPolls < interval || interval > idlePoll {
		return interval
	}
	return min(idlePolls*interval, idlePoll)
}
