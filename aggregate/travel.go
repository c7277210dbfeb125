package aggregate

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// LoadVersion returns the aggregate as it was at a version, which must be 0 or more. If the aggregate is not at that
// version yet, it is returned as it is now: compare Loaded.Version. Loading begins with the nearest earlier snapshot. A
// decision on a past state conflicts when it is appended.
func (r *Repository[S, E]) LoadVersion(ctx context.Context, key string, version eventstore.Version) (*Loaded[S, E], error) {
	stream := r.definition.Stream(key)
	if version < 0 {
		return nil, invalid(stream, "version %d is negative", int64(version))
	}
	return r.loadTo(ctx, stream, version)
}

// LoadAsOf returns the aggregate as it was at a time, by the clock of Postgres. It has the events up to the last one
// that was recorded at or before that time, even if the clock was put back in between. The time must be in the years 1
// to 9999, and not the zero time. For the last moments the answer is not final, because an append under way may have
// been recorded before the time. The cost grows with the number of events recorded after the time.
func (r *Repository[S, E]) LoadAsOf(ctx context.Context, key string, at time.Time) (*Loaded[S, E], error) {
	stream := r.definition.Stream(key)
	if year := at.Year(); at.IsZero() || year < 1 || year > 9999 {
		return nil, invalid(stream, "the time %s is zero, or not in the years 1 to 9999", at)
	}
	return r.loadWhere(ctx, stream, eventstore.ReadOptions{AsOf: at})
}

// LoadThrough returns the aggregate as it was at a position of the log, which must be 0 or more. At the checkpoint of a
// read model it is the state that the read model shows. At the position of a receipt, several aggregates are as they
// were at one moment. Between the positions of one commit they are not. Above the store's Tidemark the answer is not
// final.
func (r *Repository[S, E]) LoadThrough(ctx context.Context, key string, position eventstore.Position) (*Loaded[S, E], error) {
	stream := r.definition.Stream(key)
	switch {
	case position < 0:
		return nil, invalid(stream, "position %d is negative", int64(position))
	case position == 0:
		return r.loadTo(ctx, stream, 0)
	}
	return r.loadWhere(ctx, stream, eventstore.ReadOptions{Through: position})
}

// LoadThroughEvent returns the aggregate as it was just after one of its events. It returns an error that is
// [eventstore.ErrNotFound] when the aggregate has no event with that id. It reads the stream backwards to the event.
func (r *Repository[S, E]) LoadThroughEvent(ctx context.Context, key string, id uuid.UUID) (*Loaded[S, E], error) {
	stream := r.definition.Stream(key)
	for event, err := range r.store.Read(ctx, stream, eventstore.ReadOptions{Backwards: true}) {
		if err != nil {
			return nil, fmt.Errorf("aggregate: load %s: %w", stream, err)
		}
		if event.ID == id {
			return r.loadTo(ctx, stream, event.Version)
		}
	}
	return nil, fmt.Errorf("aggregate: load %s through event %s: %w", stream, id, eventstore.ErrNotFound)
}

// loadWhere loads up to the last event that the options select.
func (r *Repository[S, E]) loadWhere(ctx context.Context, stream eventstore.StreamID, options eventstore.ReadOptions) (*Loaded[S, E], error) {
	options.Backwards, options.Limit = true, 1
	var last eventstore.Version
	for event, err := range r.store.Read(ctx, stream, options) {
		if err != nil {
			return nil, fmt.Errorf("aggregate: load %s: %w", stream, err)
		}
		last = event.Version
	}
	return r.loadTo(ctx, stream, last)
}

// loadTo loads up to a version. It handles version 0 itself, because the store takes 0 as the end.
func (r *Repository[S, E]) loadTo(ctx context.Context, stream eventstore.StreamID, version eventstore.Version) (*Loaded[S, E], error) {
	if version == eventstore.NoStream {
		if err := stream.Validate(); err != nil {
			return nil, fmt.Errorf("aggregate: load: %w", err)
		}
		return r.loaded(&folded[S]{stream: stream, state: new(S)}), nil
	}
	f, err := r.load(ctx, stream, eventstore.ReadOptions{To: version})
	if err != nil {
		return nil, err
	}
	return r.loaded(f), nil
}

// Step is one event of an aggregate with the state after it.
type Step[S, E any] struct {
	Event   eventstore.Raw        // as it is stored
	Decoded []eventstore.Event[E] // the events that it decodes into: one most of the time
	// State is the state after the event. The next step changes it: copy what you want to keep.
	State *S
}

// History iterates over the events of an aggregate with a version above after and up to to, each with the state after
// the event. If to is 0, it goes to the end. It begins with the nearest snapshot before these events.
func (r *Repository[S, E]) History(ctx context.Context, key string, after, to eventstore.Version) iter.Seq2[Step[S, E], error] {
	return func(yield func(Step[S, E], error) bool) {
		stream := r.definition.Stream(key)
		if after < 0 || to < 0 {
			yield(Step[S, E]{}, invalid(stream, "versions %d and %d must not be negative", int64(after), int64(to)))
			return
		}
		before, err := r.loadTo(ctx, stream, after)
		if err != nil {
			yield(Step[S, E]{}, err)
			return
		}
		for raw, err := range r.store.Read(ctx, stream, eventstore.ReadOptions{After: after, To: to}) {
			step := Step[S, E]{Event: raw, State: before.State}
			if err == nil {
				step.Decoded, err = r.definition.step(before.State, raw)
			}
			if err != nil {
				yield(Step[S, E]{}, fmt.Errorf("aggregate: history of %s: %w", stream, err))
				return
			}
			if !yield(step, nil) {
				return
			}
		}
	}
}

func invalid(stream eventstore.StreamID, format string, args ...any) error {
	return refused("load "+stream.String(), format, args...)
}

// refused returns an [eventstore.InvalidError] that says what was being done.
func refused(doing, format string, args ...any) error {
	return fmt.Errorf("aggregate: %s: %w", doing, &eventstore.InvalidError{Reason: fmt.Sprintf(format, args...)})
}
