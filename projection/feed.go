package projection

import (
	"context"
	"sync"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Log is what a runner needs of an event store.
type Log interface {
	Next(ctx context.Context, after eventstore.Position, filter eventstore.Filter, limit int) (eventstore.Page, error)
}

// maxRecent bounds the pages a feed keeps.
const maxRecent = 8

// feed lets several projections read the log once. It keeps the pages read last: a projection
// that is a little behind gets its events from there, one at the same place shares a read under
// way, and one further behind reads for itself until it has caught up.
type feed struct {
	log    Log
	filter eventstore.Filter
	limit  int

	mu      sync.Mutex
	recent  []section // at most maxRecent, oldest read first
	reading map[eventstore.Position]*read
}

// section is a page and where it starts: it holds all events with after < position <= Through.
type section struct {
	after eventstore.Position
	eventstore.Page
}

// read is a read under way; page and err are set when done is closed.
type read struct {
	done chan struct{}
	page eventstore.Page
	err  error
}

func newFeed(log Log, filter eventstore.Filter, limit int) *feed {
	return &feed{log: log, filter: filter, limit: limit, reading: make(map[eventstore.Position]*read)}
}

// next returns the next piece of the log after a position; it waits until there is one. All
// callers must pass the same context: a read is shared, and so is its end.
func (f *feed) next(ctx context.Context, after eventstore.Position) (eventstore.Page, error) {
	f.mu.Lock()
	if page, ok := f.remembered(after); ok {
		f.mu.Unlock()
		return page, nil
	}
	r, shared := f.reading[after]
	if !shared {
		r = &read{done: make(chan struct{})}
		f.reading[after] = r
	}
	f.mu.Unlock()
	if shared {
		<-r.done // the reader listens to the context for all
		return r.page, r.err
	}

	r.page, r.err = f.log.Next(ctx, after, f.filter, f.limit)
	f.mu.Lock()
	delete(f.reading, after)
	if r.err == nil {
		f.remember(section{after, r.page})
	}
	f.mu.Unlock()
	close(r.done)
	return r.page, r.err
}

// remembered returns what a recent page holds after a position.
func (f *feed) remembered(after eventstore.Position) (eventstore.Page, bool) {
	for _, s := range f.recent {
		if s.after <= after && after < s.Through {
			events := s.Events
			for len(events) > 0 && events[0].Position <= after {
				events = events[1:]
			}
			return eventstore.Page{Events: events, Through: s.Through}, true
		}
	}
	return eventstore.Page{}, false
}

func (f *feed) remember(s section) {
	if len(f.recent) == maxRecent {
		copy(f.recent, f.recent[1:])
		f.recent = f.recent[:maxRecent-1]
	}
	f.recent = append(f.recent, s)
}
