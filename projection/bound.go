package projection

import (
	"context"
	"slices"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pause"
)

const (
	// boundPause is how long a version that is not live waits before it asks again how far the live version is. The
	// pause doubles each time, up to maxBoundPause.
	boundPause    = 5 * time.Millisecond
	maxBoundPause = 100 * time.Millisecond
)

// bound returns the highest position that this worker may handle, and waits while the worker is there already. A
// version that is not live must not overtake the live version, because the handlers of the live version have the
// effects of the events that it has not reached yet. When the partitions of the live version are at different
// positions, either version can reach an event first. [Once] then decides which of the two has the effects.
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
		case token == nil || *token != w.token: // this version may be the live one by now
			return 0, false, errFenced
		}
		limit = w.read // stays so if no version is live
		if len(w.liveAt) > 0 {
			limit = max(limit, slices.Max(w.liveAt))
		}
		if limit > w.read || limit >= to {
			return limit, true, nil
		}
		if err := pause.Sleep(ctx, wait); err != nil {
			return 0, false, err
		}
		if w.read > w.checkpoint { // return, so that the next step can store the checkpoint
			return limit, true, nil
		}
	}
}
