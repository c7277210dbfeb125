package projection

import (
	"context"
	"slices"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pause"
)

const (
	// boundPause is how long a version waits that may not go beyond the live one before it looks
	// again: twice as long each time, up to maxBoundPause.
	boundPause    = 5 * time.Millisecond
	maxBoundPause = 100 * time.Millisecond
)

// bound returns the highest position that this worker may handle, and waits while the worker is there already. A
// version that is not live must not overtake the live one, because the handlers of the live version have the
// effects of the events that it has not reached yet. Where the partitions of the live version are not equally
// far, either version may reach an event first, and [Once] decides which of them has the effects.
func (w *worker) bound(
	ctx context.Context, to eventstore.Position,
) (limit eventstore.Position, bounded bool, err error) {
	if w.live || w.projection.table != nil {
		return 0, false, nil
	}
	for wait := boundPause; ; wait = min(2*wait, maxBoundPause) {
		var token *int64
		err := w.engine.answered(ctx, func(ctx context.Context) (err error) {
			w.liveAt, token, err = w.engine.catalog.LiveCheckpoints(ctx, w.engine.pool, w.projection.id(), w.number)
			return err
		})
		switch {
		case err != nil:
			return 0, false, err
		case token == nil || *token != w.token: // it may be the live one by now
			return 0, false, errFenced
		}
		limit = w.read // if no version is live
		if len(w.liveAt) > 0 {
			limit = max(limit, slices.Max(w.liveAt))
		}
		if limit > w.read || limit >= to {
			return limit, true, nil
		}
		if err := pause.Sleep(ctx, wait); err != nil {
			return 0, false, err
		}
		if w.read > w.checkpoint { // it is to be saved
			return limit, true, nil
		}
	}
}
