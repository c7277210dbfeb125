package projectiontest

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// history is the log as a runner sees it: it says where one batch ends and the next begins, which a
// store leaves to chance.
type history struct {
	size  int                     // events of a page; 0 for all
	times map[uuid.UUID]time.Time // when events are said to have been recorded
	asked func()                  // called when a runner reads

	ready  chan struct{} // closed when there are events
	events []eventstore.Raw
}

func newHistory(size int, times map[uuid.UUID]time.Time) *history {
	return &history{size: size, times: times, ready: make(chan struct{})}
}

// load reads the log, and lets the runners have it.
func (h *history) load(ctx context.Context, store *eventstore.Store) error {
	for event, err := range store.ReadAll(ctx, 0, eventstore.Filter{}) {
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

// batchSize is what a runner is told, so that it takes no page for a full one: it would go on to the next one
// before it commits.
func (h *history) batchSize() int {
	if h.size == 0 {
		return 1_000_000
	}
	return h.size + 1
}

// Tidemark implements projection.Log.
func (h *history) Tidemark(context.Context) (eventstore.Position, error) {
	select {
	case <-h.ready:
		return h.end(), nil
	default:
		return 0, nil
	}
}

// Identity implements projection.Log. All histories of a database are the same one.
func (h *history) Identity(context.Context) (uuid.UUID, error) { return uuid.UUID{1}, nil }

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
