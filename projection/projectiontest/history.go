package projectiontest

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// history is a store whose events a runner gets in pages of a fixed size. A store alone leaves to chance where one
// batch ends and the next begins. The store answers everything else that a runner asks of a log.
type history struct {
	*eventstore.Store
	size  int                     // events of a page; 0 for all
	times map[uuid.UUID]time.Time // the times at which the events seem to be recorded
	asked func()                  // called when a runner reads

	ready  chan struct{} // closed when there are events
	events []eventstore.Raw
}

func newHistory(store *eventstore.Store, size int, times map[uuid.UUID]time.Time) *history {
	return &history{Store: store, size: size, times: times, ready: make(chan struct{})}
}

// load reads the log, and gives it to the runners.
func (h *history) load(ctx context.Context) error {
	for event, err := range h.ReadAll(ctx, 0, eventstore.Filter{}) {
		if err != nil {
			return err
		}
		if at, ok := h.times[event.ID]; ok {
			event.RecordedAt = at
		}
		h.events = append(h.events, event)
	}
	close(h.ready)
	return nil
}

// end returns the position of the last event.
func (h *history) end() eventstore.Position {
	if len(h.events) == 0 {
		return 0
	}
	return h.events[len(h.events)-1].Position
}

// batchSize returns the runner's BatchSize. It is more than a page has, so that the runner takes no page for a full
// one. After a full page a runner takes the next page before it commits.
func (h *history) batchSize() int {
	if h.size == 0 {
		return 100_000
	}
	return h.size + 1
}

// Next implements projection.Log. At the end of the log it waits until ctx is done.
func (h *history) Next(ctx context.Context, after eventstore.Mark, filter eventstore.Filter, limit int) (eventstore.Page, error) {
	h.asked()
	select {
	case <-h.ready:
	case <-ctx.Done():
		return eventstore.Page{}, context.Cause(ctx)
	}
	if after.Position >= h.end() {
		<-ctx.Done()
		return eventstore.Page{}, context.Cause(ctx)
	}
	if h.size > 0 {
		limit = min(limit, h.size)
	}
	page := eventstore.Page{Through: h.end(), ID: h.events[len(h.events)-1].ID}
	for _, event := range h.events {
		if event.Position <= after.Position || !filter.Match(event) {
			continue
		}
		page.Events = append(page.Events, event)
		if len(page.Events) == limit {
			page.Through, page.ID = event.Position, event.ID
			break
		}
	}
	return page, nil
}
