package eventstore

import (
	"context"
	"sync"

	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// standbyWaits waits until the synchronous standby has every commit that is visible. A session may end while its
// commit waits for the standby. That commit is then on the primary alone, where other sessions see it. One commit at
// a time waits for all callers, so that sessions do not pile up while the standby is away.
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

// wait returns when the standby has everything that was committed before the call, or when ctx is done.
func (s *standbyWaits) wait(ctx context.Context) error {
	s.mu.Lock()
	if s.next == nil {
		s.next = &standbyWait{done: make(chan struct{})}
	}
	w := s.next // the next commit, because a running one has begun before this call
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

// write commits a message, which waits for the standby.
func (s *standbyWaits) write() error {
	ctx := context.Background()   // the watchdog bounds the statement
	conn, err := s.pool.Dial(ctx) // outside the pool: the pool could not be closed while the connection waits
	if err != nil {
		return err
	}
	defer pgpool.Close(conn)
	watch := s.pool.WatchCommit(conn, pgpool.Answer)
	_, err = conn.Exec(ctx, `select pg_logical_emit_message(true, 'tidemark', '')`)
	return watch.Stop(err)
}
