package eventstore

import (
	"context"
	"iter"
	"sync"
	"time"
)

// Follow iterates over the log after a position and never ends: at the end of the log it waits
// for more. It ends, with an error, when ctx is done or the database fails; go on from the last
// event's position.
func (s *Store) Follow(ctx context.Context, after Position, filter Filter) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		for {
			page, err := s.Next(ctx, after, filter, s.config.PageSize)
			if err != nil {
				yield(Raw{}, err)
				return
			}
			if !page.yield(yield) {
				return
			}
			after = page.Through
		}
	}
}

// Next returns the next piece of the log after a position, at most limit events, and waits until
// there is one. The page may be empty when the filter selects none of the events up to Through.
// It is what projections are built on; [Store.Follow] is more convenient for everything else.
func (s *Store) Next(ctx context.Context, after Position, filter Filter, limit int) (Page, error) {
	if err := validAfter(after); err != nil {
		return Page{}, err
	}
	if limit < 1 {
		return Page{}, wrap(invalid("limit %d: want at least 1", limit), "read the log")
	}
	for {
		appended := s.appended.wait() // before looking, so that no append is missed after it
		end, err := s.Tidemark(ctx)
		if err != nil {
			return Page{}, err
		}
		if end > after {
			return s.page(ctx, after, end, filter, limit)
		}
		poll := time.NewTimer(s.config.PollInterval)
		select {
		case <-appended:
		case <-poll.C:
		case <-ctx.Done():
		}
		poll.Stop()
		if ctx.Err() != nil {
			return Page{}, wrap(context.Cause(ctx), "wait for events after position %d", after)
		}
	}
}

// signal wakes everybody who waits for the next append through this process.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func newSignal() *signal { return &signal{ch: make(chan struct{})} }

// wait returns a channel that the next notify closes.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ch
}

func (s *signal) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.ch)
	s.ch = make(chan struct{})
}
