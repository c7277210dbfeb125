package feed

import (
	"context"
	"errors"
	"sync"

	"github.com/tidemark-es/tidemark/eventstore"
)

const (
	// maxRecent bounds the pages a feed keeps, and pageBytes about how large one is. The first page shows how large
	// events are.
	maxRecent = 16
	pageBytes = 2 << 20
	firstPage = 100
	// readAhead is how many pages are read while another one is being handled.
	readAhead = 2
)

// Read reads the page after a mark, of at most limit events, and waits until there is one.
type Read func(after eventstore.Mark, limit int) (eventstore.Page, error)

// Feed keeps the pages that were read last. A reader that is a little behind gets its events from there, readers at the
// same place share a read under way, and a reader further behind reads for itself until it has caught up. While a page
// is being handled, the next ones are read.
type Feed struct {
	read Read

	mu       sync.Mutex
	limit    int     // events of a page
	perEvent int     // bytes of an event, on the latest page
	recent   []*Page // at most maxRecent, oldest read first
	reading  map[eventstore.Mark]*reading
	running  sync.WaitGroup
}

// reading is a read under way. page and err are set when done is closed.
type reading struct {
	done chan struct{}
	page *Page
	err  error
}

// New returns a feed of pages with at most limit events. The reads under way end when read returns.
func New(read Read, limit int) *Feed {
	return &Feed{read: read, limit: limit, reading: make(map[eventstore.Mark]*reading)}
}

// Wait returns when no read is under way any more.
func (f *Feed) Wait() { f.running.Wait() }

// Next returns a page of the log that reaches beyond a mark, and may begin before it. It waits
// until there is one. When the log went back behind the mark, pages that were read before are forgotten.
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

// Forget makes all readers read anew.
func (f *Feed) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recent = nil
}

// start reads the page after a mark, unless that is being read.
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

// prefetch reads what comes behind a page, if there is more already: the first of the next pages that is not kept.
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
