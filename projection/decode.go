package projection

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
)

// feed returns a feed that reads the log until ctx is done. A connection can be dead without any sign. When a read has
// returned nothing for the length of silence, the feed therefore reads again.
func (r reader) feed(ctx context.Context, filter eventstore.Filter, limit int, silence time.Duration) *feed.Feed {
	read := func(after eventstore.Mark, limit int) (eventstore.Page, error) {
		for {
			asking, cancel := context.WithTimeout(ctx, silence)
			p, err := r.Next(asking, after, filter, limit)
			over := asking.Err() != nil && ctx.Err() == nil
			if cancel(); err == nil || !over {
				return p, err
			}
		}
	}
	return feed.New(func(after eventstore.Mark, limit int) (p eventstore.Page, err error) {
		err = guarded(func() (err error) {
			p, err = read(after, limit)
			return err
		})
		return p, err
	}, limit)
}

// itemsOf returns the items of a page by partition. All partitions share the result.
func (p *Projection) itemsOf(page *feed.Page) [][]item {
	return feed.Derive(page, p, func() [][]item { return p.divide(page) })
}

// meaningsOf returns what the events of a page mean to a source. All sources with the same codec share the result.
func (s *source) meaningsOf(page *feed.Page) []meaning {
	return feed.Derive(page, s.codec, func() []meaning { return s.decodeAll(page.Events) })
}

// piece is the number of events that one goroutine decodes.
const piece = 128

// decodeAll decodes events on all processors, because decoding is most of the work of a rebuild.
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
