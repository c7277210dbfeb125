package eventstore

import (
	"context"
	"sync"

	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// standbyWaits waits until the synchronous standby has whatever is committed: what a session has committed that ended while
// it waited for the standby is on the primary alone, where others see it. One commit at a time waits for all who ask,
// so that no sessions pile up while the standby is away.
type standbyWaits struct {
	pool *pgpool.Pool

	mu      sync.Mutex
	running bool
	next    *standbyWait
}

type standbyWait struct {
	done chan struct{}
	err  error
}

// wait returns when the standby has what was committed before the call, or ctx is done.
func (s *standbyWaits) wait(ctx context.Context) error {
	s.mu.Lock()
	if s.next == nil {
		s.next = &standbyWait{done: make(chan struct{})}
	}
	w := s.next // the one that runs has begun before
	if !s.running {
		s.running = true
		go s.run()
	}
	s.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *standbyWaits) run() {
	for {
		s.mu.Lock()
		w := s.next
		s.next, s.running = nil, w != nil
		s.mu.Unlock()
		if w == nil {
			return
		}
		w.err = s.write()
		close(w.done)
	}
}

// write commits something.
func (s *standbyWaits) write() error {
	ctx := context.Background()   // the watchdog bounds it
	conn, err := s.pool.Dial(ctx) // beside the pool, which could not be closed meanwhile
	if err != nil {
		return err
	}
	defer pgpool.Close(conn)
	watch := s.pool.WatchCommit(conn, pgpool.Answer)
	_, err = conn.Exec(ctx, `select pg_logical_emit_message(true, 'tidemark', '')`)
	return watch.Stop(err)
}
