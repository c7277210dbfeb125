package eventstore

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"
)

// An empty array of types or categories lets every event through.
const pageSQL = `
select ` + columns + `
  from SCHEMA.events
 where position > $1
   and position <= $2
   and (cardinality($3::text[]) = 0 or type = any ($3))
   and (cardinality($4::text[]) = 0 or split_part(stream, '-', 1) = any ($4))
 order by position
 limit $5`

// Filter selects events of the log. The zero value selects all; of several conditions all must
// hold. It is evaluated in Postgres.
type Filter struct {
	Types      []string // stored type names; empty means any
	Categories []string // categories of streams; empty means any
}

// Match reports whether the filter selects the event.
func (f Filter) Match(event Raw) bool {
	return (len(f.Types) == 0 || slices.Contains(f.Types, event.Type)) &&
		(len(f.Categories) == 0 || slices.Contains(f.Categories, event.Stream.Category))
}

// Page is a piece of the log.
type Page struct {
	Events []Raw
	// Through is how far the page reaches: every event that the filter selects, after the
	// position asked for and up to Through, is in Events. It is the position of a stored event.
	Through Position
}

// yield yields the events and reports whether the loop goes on.
func (p Page) yield(yield func(Raw, error) bool) bool {
	for _, event := range p.Events {
		if !yield(event, nil) {
			return false
		}
	}
	return true
}

// ReadAll iterates over the log after a position, in order of position, and ends at the
// [Store.Tidemark] as of now.
func (s *Store) ReadAll(ctx context.Context, after Position, filter Filter) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		if err := validAfter(after); err != nil {
			yield(Raw{}, err)
			return
		}
		end, err := s.Tidemark(ctx)
		if err != nil {
			yield(Raw{}, err)
			return
		}
		for after < end {
			page, err := s.page(ctx, after, end, filter, s.config.PageSize)
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

// page reads after < position <= end in a statement that starts after end was a tidemark.
func (s *Store) page(ctx context.Context, after, end Position, filter Filter, limit int) (Page, error) {
	events, err := s.query(ctx, s.sql.page, after, end, nonNil(filter.Types), nonNil(filter.Categories), limit)
	if err != nil {
		return Page{}, translate(err, "read the log after position %d", after)
	}
	page := Page{Events: events, Through: end}
	if len(events) == limit {
		page.Through = events[limit-1].Position
	}
	return page, nil
}

func validAfter(after Position) error {
	if after < 0 {
		return wrap(invalid("position %d is negative", after), "read the log")
	}
	return nil
}

// nonNil keeps a nil slice from being sent as NULL, of which cardinality is NULL too.
func nonNil(names []string) []string {
	if names == nil {
		return []string{}
	}
	return names
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
