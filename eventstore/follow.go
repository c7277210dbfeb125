package eventstore

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/puddle/v2"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// Follow iterates over the log after a position and never ends: at the end of the log it waits
// for more, and when the connection to Postgres is lost it goes on when there is one again. It ends,
// with an error, when ctx is done, or when trying again is of no use, such as with [ErrNotMigrated];
// go on from the last event's position.
//
// While the loop body runs, Follow holds at most two pages of events, and no connection once it has
// the second one.
func (s *Store) Follow(ctx context.Context, after Position, filter Filter) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		if err := validAfter(after, filter); err != nil {
			yield(Raw{}, err)
			return
		}
		defer s.listen()()
		pause := backoff.NewExponentialBackOff()
		pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, 5*time.Second
		for {
			end, err := s.await(ctx, after)
			for page, pageErr := range s.pages(ctx, after, end, filter) {
				if err = pageErr; err != nil {
					break
				}
				pause.Reset()
				if !yieldAll(yield, page.Events) {
					return
				}
				after = page.Through
			}
			if err != nil && ctx.Err() == nil && !s.inTx && mayPass(err) {
				delay := pause.NextBackOff()
				s.config.Logger.WarnContext(ctx, "eventstore: cannot follow the log and will try again",
					"position", after, "retry_in", delay, "error", err)
				select {
				case <-time.After(delay):
				case <-ctx.Done():
				}
				continue
			}
			if err != nil {
				yield(Raw{}, err)
				return
			}
		}
	}
}

// mayPass reports whether an error of a reader may be gone when it tries again: trouble with the
// connection or the server, not with what was asked.
func mayPass(err error) bool {
	for _, lasting := range []error{ErrInvalid, ErrNotMigrated, ErrNoTidemark, puddle.ErrClosedPool} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return pgerr.MayPass(err)
}

// Next returns the next piece of the log after a position, at most limit events, and waits until
// there is one. The page may be empty when the filter selects none of the events up to Through.
// It is what projections are built on; [Store.Follow] is more convenient for everything else.
func (s *Store) Next(ctx context.Context, after Position, filter Filter, limit int) (Page, error) {
	if err := validAfter(after, filter); err != nil {
		return Page{}, err
	}
	if limit < 1 {
		return Page{}, wrap(invalid("limit %d: want at least 1", limit), "read the log")
	}
	end, err := s.await(ctx, after)
	if err != nil {
		return Page{}, err
	}
	return s.page(ctx, after, end, filter, limit)
}

// await returns the tidemark when it is after a position.
func (s *Store) await(ctx context.Context, after Position) (Position, error) {
	for waits := false; ; waits = true {
		appended := s.appended.wait() // before looking, so that no append is missed after it
		end, err := s.Tidemark(ctx)
		if err != nil || end > after {
			return end, err
		}
		if !waits {
			defer s.listen()()
		}
		poll := time.NewTimer(s.config.PollInterval)
		select {
		case <-appended:
		case <-poll.C:
		case <-ctx.Done():
		}
		poll.Stop()
		if ctx.Err() != nil {
			return 0, wrap(context.Cause(ctx), "wait for events after position %d", after)
		}
	}
}

// listen makes notifications wake this process's readers until the function it returns is called.
func (s *Store) listen() (leave func()) {
	if s.listener == nil {
		return func() {}
	}
	return s.listener.Join()
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
