package aggregate

import (
	"context"
	"fmt"
	"iter"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Store is what a repository needs of an event store.
type Store interface {
	Read(context.Context, eventstore.StreamID, eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error]
	Commit(context.Context, ...eventstore.Change) ([]eventstore.Receipt, error)
	Stored(context.Context) ([]eventstore.Receipt, bool, error)
}

// Repository loads and updates the aggregates of one definition.
type Repository[S, E any] struct {
	store      Store
	definition *Definition[S, E]
	config     *Config
}

// NewRepository returns a repository over a store. A nil config is the default.
func NewRepository[S, E any](store Store, definition *Definition[S, E], config *Config) *Repository[S, E] {
	return &Repository[S, E]{store: store, definition: definition, config: config}
}

// Loaded is an aggregate as it was when it was loaded.
type Loaded[S, E any] struct {
	State    *S
	Stream   eventstore.StreamID
	Version  eventstore.Version  // NoStream if it does not exist yet
	Position eventstore.Position // of its last event
	codec    *eventstore.Codec[E]
}

// Change returns what appends the events of a decision to the aggregate if it is still as it was
// loaded. It is for [Commit], and takes what a decision returns, so that one can be written into
// the other:
//
//	change, err := item.Change(item.State.Reserve(order, quantity))
//
// The decision's error is returned as it is; any other is one of the codec.
func (l *Loaded[S, E]) Change(events []E, err error) (eventstore.Change, error) {
	if err != nil {
		return eventstore.Change{}, err
	}
	change := eventstore.Change{Stream: l.Stream, Expected: l.Version}
	for _, event := range events {
		draft, err := l.codec.Encode(event)
		if err != nil {
			return eventstore.Change{}, fmt.Errorf("aggregate: stream %s: %w", l.Stream, err)
		}
		change.Events = append(change.Events, draft)
	}
	return change, nil
}

func (l *Loaded[S, E]) receipt() eventstore.Receipt {
	return eventstore.Receipt{Version: l.Version, Position: l.Position}
}

// Load returns the aggregate with the given key. One that does not exist has the zero state at
// version 0: whether that is an error is for the caller to say. An event that does not decode
// stops the load with an error of the codec.
func (r *Repository[S, E]) Load(ctx context.Context, key string) (*Loaded[S, E], error) {
	loaded := &Loaded[S, E]{
		State:  new(S),
		Stream: r.definition.Stream(key),
		codec:  r.definition.codec,
	}
	for raw, err := range r.store.Read(ctx, loaded.Stream, eventstore.ReadOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("aggregate: load %s: %w", loaded.Stream, err)
		}
		events, err := r.definition.codec.Decode(raw)
		if err != nil {
			return nil, fmt.Errorf("aggregate: load %s: %w", loaded.Stream, err)
		}
		for _, event := range events {
			r.definition.apply(loaded.State, event.Data)
		}
		loaded.Version, loaded.Position = raw.Version, raw.Position
	}
	if seen, ok := ctx.Value(loadsKey{}).(*loads); ok {
		*seen = append(*seen, &eventstore.ConflictError{Stream: loaded.Stream, Expected: loaded.Version})
	}
	return loaded, nil
}

// Update loads the aggregate, asks decide for events and appends them. When somebody else was
// faster it starts again with the new state, so decide may be called several times and must do
// nothing but decide: it must not change the state it is given. Its error is returned as it is.
//
// Without events nothing is appended, and the receipt is that of the state decided on. After too
// many conflicts the last one is returned, an [eventstore.ConflictError].
func (r *Repository[S, E]) Update(ctx context.Context, key string, decide func(*S) ([]E, error)) (eventstore.Receipt, error) {
	return r.update(ctx, key, eventstore.Any, decide)
}

// UpdateAt is [Repository.Update] for a caller who has seen the aggregate at a version and wants
// to change that one only: at any other it returns an [eventstore.ConflictError] and decides
// nothing.
func (r *Repository[S, E]) UpdateAt(ctx context.Context, key string, seen eventstore.Version, decide func(*S) ([]E, error)) (eventstore.Receipt, error) {
	return r.update(ctx, key, seen, decide)
}

func (r *Repository[S, E]) update(ctx context.Context, key string, seen eventstore.Version, decide func(*S) ([]E, error)) (eventstore.Receipt, error) {
	var unchanged eventstore.Receipt
	receipt, err := Commit(ctx, r.store, r.config, func(ctx context.Context) ([]eventstore.Change, error) {
		loaded, err := r.Load(ctx, key)
		if err != nil {
			return nil, err
		}
		if err := loaded.CheckAt(seen); err != nil {
			return nil, err
		}
		unchanged = loaded.receipt()
		change, err := loaded.Change(decide(loaded.State))
		return []eventstore.Change{change}, err
	})
	if err == nil && receipt.Version == eventstore.NoStream { // nothing was appended
		return unchanged, nil
	}
	return receipt, err
}

// CheckAt returns an [eventstore.ConflictError] unless the aggregate was loaded at the given
// version, which may also be [eventstore.Any] or [eventstore.Exists].
func (l *Loaded[S, E]) CheckAt(seen eventstore.Version) error {
	if seen == eventstore.Any || seen == l.Version || seen == eventstore.Exists && l.Version > 0 {
		return nil
	}
	return fmt.Errorf("aggregate: %w", &eventstore.ConflictError{Stream: l.Stream, Expected: seen, Actual: l.Version})
}
