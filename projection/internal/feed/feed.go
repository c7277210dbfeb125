package feed

import (
	"context"
	"errors"
	"sync"

	"github.com/tidemark-es/tidemark/eventstore"
)

const (
	// maxRecent bounds how many pages a feed keeps. pageBytes is about how large a page is. firstPage bounds the events
	// of the first page, from which the feed learns how large events are.
	maxRecent = 16
	pageBytes = 2 << 20
	firstPage = 100
	// readAhead is how many pages are read ahead while another page is being handled.
	readAhead = 2
)

// Read reads the page after a mark, of at most limit events, and waits until there is one.
type Read func(after eventstore.Mark, limit int) (eventstore.Page, error)

// Feed keeps the pages that were read last. A reader that is a little behind gets its events from these pages. Readers
// at the same mark share a running read. A reader that is further behind reads on its own until it has caught up. While
// a page is being handled, the feed reads the next pages.
type Feed struct {
	read Read

	mu       sync.Mutex
	limit    int     // events of a page
	perEvent int     // bytes of an event, measured on the latest page
	recent   []*Page // at most maxRecent, the oldest read first
	reading  map[eventstore.Mark]*reading
	running  sync.WaitGroup
}

// reading is a read that is running. page and err are set when done is closed.
type reading struct {
	done chan struct{}
	page *Page
	err  error
}

// New returns a feed of pages with at most limit events. Its reads end when the function read returns.
func New(read Read, limit int) *Feed {
	return &Feed{read: read, limit: limit, reading: make(map[eventstore.Mark]*reading)}
}

// Wait returns when no read is running any more.
func (f *Feed) Wait() { f.running.Wait() }

// Next returns a page of the log that ends after a mark. The page may begin before the mark. Next waits until there is
// such a page. If the log went back to a position before the mark, Next returns [eventstore.ErrDiverged], and the feed
// forgets all pages.
func (f *Feed) Next(ctx context.Context, after eventstore.Mark) (*Page, error) {
	f.mu.Lock()
	if p := f.remembered(after.Position); p != nil {
		f.prefetch(p)
		f.mu.Unlock()
		return p, nil
	}
	r := f.start(after)
	f.mu.Unlock()
	select {
	case <-r.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if errors.Is(r.err, eventstore.ErrDiverged) {
		f.Forget()
	}
	if r.err != nil {
		return nil, r.err
	}
	f.mu.Lock()
	f.prefetch(r.page)
	f.mu.Unlock()
	return r.page, nil
}

// Forget drops all pages, so that all readers read again.
func (f *Feed) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recent = nil
}

// start reads the page after a mark, unless a read of that page is running already.
func (f *Feed) start(after eventstore.Mark) *reading {
	if r, ok := f.reading[after]; ok {
		return r
	}
	r := &reading{done: make(chan struct{})}
	f.reading[after] = r
	limit := min(f.limit, firstPage)
	if f.perEvent > 0 {
		limit = max(1, min(f.limit, pageBytes/f.perEvent))
	}
	f.running.Go(func() {
		p, err := f.read(after, limit)
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.reading, after)
		if err == nil {
			r.page = NewPage(after.Position, p)
			f.remember(r.page)
		}
		r.err = err
		close(r.done)
	})
	return r
}

// prefetch reads ahead after a page, if there are more events. It reads the first of the next pages that is not kept.
func (f *Feed) prefetch(p *Page) {
	for range readAhead {
		if p == nil || !p.More {
			return
		}
		after := p.Mark()
		if p = f.remembered(after.Position); p == nil {
			f.start(after)
		}
	}
}

func (f *Feed) remembered(after eventstore.Position) *Page {
	for _, p := range f.recent {
		if p.After <= after && after < p.Through {
			return p
		}
	}
	return nil
}

func (f *Feed) remember(p *Page) {
	if len(f.recent) == maxRecent {
		copy(f.recent, f.recent[1:])
		f.recent = f.recent[:maxRecent-1]
	}
	f.recent = append(f.recent, p)
	if n := len(p.Events); n > 0 {
		bytes := 0
		for _, e := range p.Events {
			bytes += len(e.Data)
		}
		f.perEvent = bytes/n + 200
	}
}
