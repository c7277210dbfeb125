package projection

import (
	"context"
	"errors"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// An error is blamed on an event only if the evidence is about the event. What an error says is not always
// enough: here the worker looks further, before it gives an event up.

const (
	// aliveWithin is how long Postgres may take to answer when a timeout may have come of a dead connection.
	aliveWithin = 2 * time.Second
	// aheadFor is how long an event waits for partitions that are ahead of it, and stillFor if they do not move.
	aheadFor = 2 * time.Second
	stillFor = time.Second
)

// siblings is how far the other partitions of a version were when an event last violated a constraint.
type siblings struct {
	position eventstore.Position // of the event
	first    time.Time           // when it did
	sum      int64               // of their checkpoints
	since    time.Time           // when they were first found there
}

// isEnvironment reports whether a failure that looks like one of the event at a position may be one of its
// surroundings.
func (w *worker) isEnvironment(ctx context.Context, position eventstore.Position, err error) bool {
	switch {
	case errors.Is(err, ErrTimeout), errors.Is(err, errIdle):
		return !w.isAlive(ctx)
	case pgerr.Is(err, pgerr.UniqueViolation, pgerr.ForeignKeyViolation, pgerr.ExclusionViolation) && w.projection.options.Partitions > 1:
		return w.mayFollow(ctx, position)
	}
	return false
}

// isAlive reports whether Postgres answers: an event that took too long may have waited for a connection that is
// dead without either side having been told.
func (w *worker) isAlive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveWithin)
	defer cancel()
	_, err := w.engine.pool.Exec(ctx, `select`)
	return err == nil
}

// mayFollow reports whether the other partitions may still change the row that an event violates a constraint with, or
// that it refers to: they move, and one of them is before the event, or they have not had much time.
func (w *worker) mayFollow(ctx context.Context, position eventstore.Position) bool {
	var sum int64
	var behind int
	err := w.engine.answered(ctx, func(ctx context.Context) (err error) {
		sum, behind, err = w.engine.catalog.Siblings(ctx, w.engine.pool, w.projection.id(), w.number, position)
		return err
	})
	if err != nil {
		return true // and it is asked again
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
