package projection

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

const (
	// maxRecent bounds the pages a feed keeps, and pageBytes about how large one is. The first one
	// shows how large events are.
	maxRecent = 16
	pageBytes = 2 << 20
	firstPage = 100
	// readAhead is how many pages are read while another one is being handled.
	readAhead = 2
)

// feed lets all partitions of a process read the log once. It keeps the pages read last: who is a
// little behind gets its events from there, one at the same place shares a read under way, and one
// further behind reads for itself until it has caught up. While a page is being handled, the next
// ones are read.
type feed struct {
	read func(after eventstore.Mark, limit int) (eventstore.Page, error)

	mu       sync.Mutex
	limit    int     // events of a page
	perEvent int     // bytes of one, on the latest page
	recent   []*page // at most maxRecent, oldest read first
	reading  map[eventstore.Mark]*pageRead
	running  sync.WaitGroup
}

// page is a piece of the log: it holds all events with after < position <= Through.
type page struct {
	after eventstore.Position
	eventstore.Page

	mu      sync.Mutex
	decoded map[any][]meaning // by codec
	items   map[*Projection]func() [][]item
}

func newPage(after eventstore.Position, p eventstore.Page) *page {
	return &page{
		after: after, Page: p,
		decoded: make(map[any][]meaning), items: make(map[*Projection]func() [][]item),
	}
}

// pageRead is a read under way. page and err are set when done is closed.
type pageRead struct {
	done chan struct{}
	page *page
	err  error
}

// newFeed returns a feed that reads until ctx is done. A connection may be dead without anybody having
// said so: when there was nothing for some time it asks again.
func newFeed(ctx context.Context, log Log, filter eventstore.Filter, limit int, silence time.Duration) *feed {
	return &feed{
		read: func(after eventstore.Mark, limit int) (eventstore.Page, error) {
			for {
				asking, cancel := context.WithTimeout(ctx, silence)
				p, err := log.Next(asking, after, filter, limit)
				over := asking.Err() != nil && ctx.Err() == nil
				if cancel(); err == nil || !over {
					return p, err
				}
			}
		},
		limit:   limit,
		reading: make(map[eventstore.Mark]*pageRead),
	}
}

// next returns a page of the log that reaches beyond a mark, and may begin before it. It waits
// until there is one. When the log went back behind the mark, pages that were read before are forgotten.
func (f *feed) next(ctx context.Context, after eventstore.Mark) (*page, error) {
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
		f.forget()
	}
	if r.err != nil {
		return nil, r.err
	}
	f.mu.Lock()
	f.prefetch(r.page)
	f.mu.Unlock()
	return r.page, nil
}

// start reads the page after a position, unless that is being read.
func (f *feed) start(after eventstore.Mark) *pageRead {
	if r, ok := f.reading[after]; ok {
		return r
	}
	r := &pageRead{done: make(chan struct{})}
	f.reading[after] = r
	limit := min(f.limit, firstPage)
	if f.perEvent > 0 {
		limit = max(1, min(f.limit, pageBytes/f.perEvent))
	}
	f.running.Go(func() {
		var p eventstore.Page
		err := guarded(func() (err error) {
			p, err = f.read(after, limit)
			return err
		})
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.reading, after)
		if err == nil {
			r.page = newPage(after.Position, p)
			f.remember(r.page)
		}
		r.err = err
		close(r.done)
	})
	return r
}

// prefetch reads what comes behind a page, if there is more already: the first of some pages that were not
// has read.
func (f *feed) prefetch(p *page) {
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

// forget makes everybody read anew.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recent = nil
}

func (f *feed) remembered(after eventstore.Position) *page {
	for _, p := range f.recent {
		if p.after <= after && after < p.Through {
			return p
		}
	}
	return nil
}

func (f *feed) remember(p *page) {
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

// itemsOf returns what a projection is to handle, by partition. It is found out once for all of them.
func (p *page) itemsOf(projection *Projection) [][]item {
	p.mu.Lock()
	divide, ok := p.items[projection]
	if !ok {
		divide = sync.OnceValue(func() [][]item { return projection.divide(p) })
		p.items[projection] = divide
	}
	p.mu.Unlock()
	return divide()
}

// of returns what the page's events mean to a source.
func (p *page) of(s *source) []meaning {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, ok := p.decoded[s.codec]
	if !ok {
		all = s.decodeAll(p.Events)
		p.decoded[s.codec] = all
	}
	return all
}

// piece is how many events one goroutine decodes.
const piece = 128

// decodeAll decodes events on all processors: that is most of the work of a rebuild.
func (s *source) decodeAll(events []eventstore.Raw) []meaning {
	pieces := make([][]meaning, (len(events)+piece-1)/piece)
	var decoding sync.WaitGroup
	for n := range pieces {
		first := n * piece
		decoding.Go(func() {
			pieces[n] = s.decode(events[first:min(first+piece, len(events))])
			for k := range pieces[n] {
				pieces[n][k].index += first
			}
		})
	}
	decoding.Wait()
	return slices.Concat(pieces...)
}
