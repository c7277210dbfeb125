// Package signal wakes goroutines that wait for something to change.
package signal

import "sync"

// Signal wakes every goroutine that waits on it. It is safe for concurrent use.
type Signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// New returns a signal on which no goroutine waits yet.
func New() *Signal { return &Signal{ch: make(chan struct{})} }

// Wait returns a channel that the next Notify closes. A goroutine that calls Wait before it looks at the state
// misses no change: a change after the look closes the channel.
func (s *Signal) Wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

// Notify wakes all goroutines that wait.
func (s *Signal) Notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}
