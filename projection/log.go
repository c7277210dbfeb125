package projection

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Log is the source of the events of projections. An [eventstore.Store] is a Log. Another log may be in another
// database, or in no database at all. Read models, checkpoints and dead letters stay in Postgres.
//
// A log can have more methods of [eventstore.Store]. Projections use them if they are there:
//
//   - WithTx says that the log is in the database of the read models. A checkpoint then moves only while the event that
//     the worker has read up to is still stored, and appends can keep projections, see [Inline].
//   - Status returns where the log ends, and which transaction holds its readers back. Without it, the log ends at the
//     tidemark.
//   - Count and Estimate return how many events there are. Without them, positions are counted.
//   - EventsAt reads events by their positions. Without it, events are read one by one.
type Log interface {
	// Next returns the next piece of the log after a mark, and waits until there is one, see [eventstore.Store.Next].
	// If the log does not have the event of the mark, it returns an error that is [eventstore.ErrDiverged].
	Next(ctx context.Context, after eventstore.Mark, filter eventstore.Filter, limit int) (eventstore.Page, error)
	// Tidemark returns the position up to which every reader may read: the position of an event, or 0 for an empty log.
	// It never decreases while the log is the same.
	Tidemark(ctx context.Context) (eventstore.Position, error)
	// Identity returns the id of the log. The id stays the same while the log's positions name the same events. It is
	// stored with the projections, because their checkpoints are valid for this log only.
	Identity(ctx context.Context) (uuid.UUID, error)
}

// The optional methods of a log.
type (
	localLog interface {
		WithTx(tx pgx.Tx) *eventstore.Store
	}
	statusLog interface {
		Status(ctx context.Context) (eventstore.LogStatus, error)
	}
	countingLog interface {
		Count(ctx context.Context, after, through eventstore.Position, filter eventstore.Filter, most int64) (n int64, first time.Time, err error)
		Estimate(ctx context.Context, after, through eventstore.Position, filter eventstore.Filter) (int64, error)
	}
	randomLog interface {
		EventsAt(ctx context.Context, positions ...eventstore.Position) ([]eventstore.Raw, error)
	}
)

// reader reads a log for projections, with the log's optional methods or without them.
type reader struct{ Log }

// local reports whether the log is in the database of the read models.
func (r reader) local() bool {
	_, ok := r.Log.(localLog)
	return ok
}

// in returns the log as a transaction of its database sees it, read on the transaction's connection. A log in another
// place is returned unchanged.
func (r reader) in(tx pgx.Tx) reader {
	if log, ok := r.Log.(localLog); ok {
		return reader{log.WithTx(tx)}
	}
	return r
}

// proof returns the mark of an event that a statement can check in the tables of the log. If the tables are elsewhere,
// it returns the zero mark.
func (r reader) proof(at eventstore.Mark) eventstore.Mark {
	if !r.local() {
		return eventstore.Mark{}
	}
	return at
}

// status returns where the log ends, and which transaction holds its readers back if the log can tell.
func (r reader) status(ctx context.Context) (s eventstore.LogStatus, err error) {
	if log, ok := r.Log.(statusLog); ok {
		return log.Status(ctx)
	}
	s.Tidemark, err = r.Tidemark(ctx)
	s.End = s.Tidemark
	return s, err
}

// count returns how many events a filter selects after one position and up to another, at most most. first is when the
// first of these events was recorded; it is zero if there is none.
func (r reader) count(
	ctx context.Context, after, through eventstore.Position, filter eventstore.Filter, most int64,
) (n int64, first time.Time, err error) {
	if after >= through {
		return 0, first, nil
	}
	if log, ok := r.Log.(countingLog); ok {
		return log.Count(ctx, after, through, filter, most)
	}
	page, err := r.Next(ctx, eventstore.After(after), filter, 1)
	if err != nil || len(page.Events) == 0 {
		return 0, first, err
	}
	return min(int64(through-after), most), page.Events[0].RecordedAt, nil
}

// estimate returns about how many events a filter selects up to a position.
func (r reader) estimate(ctx context.Context, through eventstore.Position, filter eventstore.Filter) (int64, error) {
	log, ok := r.Log.(countingLog)
	if !ok || through == 0 {
		return int64(through), nil
	}
	return log.Estimate(ctx, 0, through, filter)
}

// eventsAt returns the events at the given positions, in the order of positions. It leaves out positions that have no
// event, or that readers may not read yet.
func (r reader) eventsAt(ctx context.Context, positions ...eventstore.Position) (found []eventstore.Raw, err error) {
	if log, ok := r.Log.(randomLog); ok {
		return log.EventsAt(ctx, positions...)
	}
	end, err := r.Tidemark(ctx)
	if err != nil {
		return nil, err
	}
	for _, at := range slices.Compact(slices.Sorted(slices.Values(positions))) {
		if at < 1 || at > end {
			continue
		}
		page, err := r.Next(ctx, eventstore.After(at-1), eventstore.Filter{}, 1)
		if err != nil {
			return nil, err
		}
		if len(page.Events) > 0 && page.Events[0].Position == at {
			found = append(found, page.Events[0])
		}
	}
	return found, nil
}

// end returns the mark of the tidemark.
func (r reader) end(ctx context.Context) (at eventstore.Mark, err error) {
	if at.Position, err = r.Tidemark(ctx); err != nil || at.Position == 0 {
		return at, err
	}
	events, err := r.eventsAt(ctx, at.Position)
	if err == nil && len(events) > 0 {
		at.ID = events[0].ID
	}
	return at, err
}

// lastCommon returns the mark with the highest position whose event is still in the log, or false if there is none.
func (r reader) lastCommon(ctx context.Context, marks []eventstore.Mark) (eventstore.Mark, bool, error) {
	positions := make([]eventstore.Position, len(marks))
	for n, m := range marks {
		positions[n] = m.Position
	}
	events, err := r.eventsAt(ctx, positions...)
	if err != nil {
		return eventstore.Mark{}, false, err
	}
	for _, m := range slices.SortedFunc(slices.Values(marks), func(a, b eventstore.Mark) int { return cmp.Compare(b.Position, a.Position) }) {
		same := func(e eventstore.Raw) bool { return e.Position == m.Position && e.ID == m.ID }
		if m.Position > 0 && slices.ContainsFunc(events, same) {
			return m, true, nil
		}
	}
	return eventstore.Mark{}, false, nil
}

// typesUpTo returns the given types that have events up to a position. When more returns false, it stops, and the
// result also has the types for which it has found no event yet.
func (r reader) typesUpTo(ctx context.Context, types []string, through eventstore.Position, more func() bool) (found []string, err error) {
	left := slices.Clone(types)
	for at := eventstore.Position(0); at < through && len(left) > 0; {
		if !more() {
			return append(found, left...), nil
		}
		page, err := r.Next(ctx, eventstore.After(at), eventstore.Filter{Types: left}, 1)
		if err != nil {
			return append(found, left...), err
		}
		for _, e := range page.Events {
			if n := slices.Index(left, e.Type); n >= 0 && e.Position <= through {
				found = append(found, e.Type)
				left = slices.Delete(left, n, n+1)
			}
		}
		at = page.Through
	}
	return found, nil
}

// checkLog returns the identity of the log. It returns an error if the log has the method WithTx, but is in another
// database or schema than the runner's tables. The runner would otherwise wait for events that are stored elsewhere.
func (d *database) checkLog(ctx context.Context) (uuid.UUID, error) {
	log, err := d.log.Identity(ctx)
	if err != nil || !d.log.local() {
		return log, err
	}
	own, err := d.catalog.StoreID(ctx, d.pool)
	if err != nil {
		return log, fmt.Errorf("projection: read which store schema %s is: %w", d.catalog.Schema(), err)
	}
	if own != log {
		return log, fmt.Errorf("projection: the runner's pool and schema %s are those of store %s, and its log is that of store %s: "+
			"give the runner the pool and the schema of the log", d.catalog.Schema(), own, log)
	}
	return log, nil
}
