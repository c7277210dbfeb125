package projection

import (
	"context"
	"errors"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// An error is blamed on an event only if the evidence is about the event. The error alone does not always say enough.
// The worker then looks for more evidence here, before it gives the event up.

const (
	// aliveWithin is how long Postgres may take to answer, when a dead connection may be the cause of a timeout.
	aliveWithin = 2 * time.Second
	// aheadFor is how long an event is tried again when the other partitions move and are ahead of it. stillFor is how
	// long it is tried again when they do not move.
	aheadFor = 2 * time.Second
	stillFor = time.Second
)

// siblings is how far the other partitions of a version were when an event last violated a constraint.
type siblings struct {
	position eventstore.Position // of the event
	first    time.Time           // when the event first violated a constraint
	sum      int64               // of their checkpoints
	since    time.Time           // when the sum was first found
}

// isEnvironment reports whether the failure of the event at a position may have its cause outside the event.
func (w *worker) isEnvironment(ctx context.Context, position eventstore.Position, err error) bool {
	switch {
	case errors.Is(err, ErrTimeout), errors.Is(err, errIdle):
		return !w.isAlive(ctx)
	case pgerr.Is(err, pgerr.UniqueViolation, pgerr.ForeignKeyViolation, pgerr.ExclusionViolation) && w.projection.options.Partitions > 1:
		return w.mayFollow(ctx, position)
	}
	return false
}

// isAlive reports whether Postgres answers. An event that took too long may have waited for a dead connection, of whose
// end neither side was told.
func (w *worker) isAlive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveWithin)
	defer cancel()
	_, err := w.engine.pool.Exec(ctx, `select`)
	return err == nil
}

// mayFollow reports whether the other partitions may still change the row with which an event violates a constraint, or
// write the row that the event refers to. They may if they move and one of them is before the event, or if they have
// not had enough time.
func (w *worker) mayFollow(ctx context.Context, position eventstore.Position) bool {
	var sum int64
	var behind int
	err := w.engine.answered(ctx, func(ctx context.Context) (err error) {
		sum, behind, err = w.engine.catalog.Siblings(ctx, w.engine.pool, w.projection.id(), w.number, position)
		return err
	})
	if err != nil {
		return true // the next attempt asks again
	}
	if w.siblings.position != position {
		w.siblings = siblings{position: position, first: time.Now()}
	}
	if w.siblings.sum != sum {
		w.siblings.sum, w.siblings.since = sum, time.Now()
		return behind > 0 || time.Since(w.siblings.first) < aheadFor
	}
	if behind > 0 {
		return time.Since(w.siblings.since) < w.projection.options.Timeout
	}
	return time.Since(w.siblings.since) < stillFor
}
