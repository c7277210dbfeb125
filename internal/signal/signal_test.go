package signal_test

import (
	"sync"
	"testing"

	"github.com/tidemark-es/tidemark/internal/signal"
)

// TestNotify: a goroutine that waits before it looks at the state sees every change.
func TestNotify(t *testing.T) {
	t.Parallel()
	const changes, waiters = 1000, 8
	s := signal.New()
	var mu sync.Mutex
	state := 0
	var waiting sync.WaitGroup
	for range waiters {
		waiting.Go(func() {
			for {
				changed := s.Wait()
				mu.Lock()
				done := state == changes
				mu.Unlock()
				if done {
					return
				}
				<-changed
			}
		})
	}
	for range changes {
		mu.Lock()
		state++
		mu.Unlock()
		s.Notify()
	}
	waiting.Wait()
}
