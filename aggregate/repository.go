package aggregate

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/isnil"
	"github.com/tidemark-es/tidemark/snapshot"
)

// Store is the part of an event store that a repository uses.
type Store interface {
	Read(context.Context, eventstore.StreamID, eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error]
	Commit(context.Context, ...eventstore.Change) ([]eventstore.Receipt, error)
	Receipts(context.Context) ([]eventstore.Receipt, bool, error)
}

// Repository loads and updates the aggregates of one definition.
type Repository[S, E any] struct {
	store      Store
	definition *Definition[S, E]
	config     *Config
	snapshots  *snapshot.Snapshotter // nil for none
	cache      *cache[S]             // nil for none
}

// NewRepository returns a repository over a store. A nil config is the default. Over a store that is bound to a
// caller's transaction the repository has no cache and no snapshots. They could hold events that are never committed,
// and snapshots would take a second connection while the transaction holds the first.
//
// It returns an [eventstore.InvalidError] when the store or the definition is nil, when a field of the Config is out of
// bounds, or when there are snapshots but part of the state would be lost in JSON: an unexported field, a field of an
// interface type. See [Definition.WithEncoding].
func NewRepository[S, E any](store Store, definition *Definition[S, E], config *Config) (*Repository[S, E], error) {
	switch {
	case definition == nil:
		return nil, unusable("aggregate: NewRepository: the definition is nil: pass one that aggregate.Define returned")
	case isnil.Any(store):
		return nil, unusable("aggregate: NewRepository: %s: the store is nil: pass one that eventstore.New returned without an error", definition.category)
	}
	r := &Repository[S, E]{store: store, definition: definition}
	if config == nil {
		return r, nil
	}
	if err := config.validate(); err != nil {
		return nil, unusable("aggregate: NewRepository: %s: %v", definition.category, err)
	}
	own := *config
	config, r.config = &own, &own
	if config.CacheSize > 0 && !inTx(store) {
		r.cache = newCache[S](config.CacheSize)
	}
	if config.Snapshots != nil && definition.state.problem != nil {
		return nil, unusable("%v", definition.unfit())
	}
	if !inTx(store) {
		r.snapshots = config.Snapshots
	}
	return r, nil
}

// unusable says why a constructor does not accept its arguments.
func unusable(format string, args ...any) error {
	return &eventstore.InvalidError{Reason: fmt.Sprintf(format, args...)}
}

// Definition returns the definition that the repository was made with.
func (r *Repository[S, E]) Definition() *Definition[S, E] { return r.definition }

// Loaded is an aggregate as it was when it was loaded.
type Loaded[S, E any] struct {
	State    *S
	Stream   eventstore.StreamID
	Version  eventstore.Version  // NoStream if it does not exist yet
	Position eventstore.Position // of its last event

	RecordedAt time.Time // when its last event was recorded, in UTC; zero if it does not exist yet

	last  uuid.UUID // the id of its last event
	codec *codec.Codec[E]
}

// Change returns the change that appends the events of a decision, provided that the aggregate is still as it was
// loaded. It is for [Commit]. Its parameters are the results of a decision, so that a call of the decision can be its
// argument:
//
//	change, err := item.Change(item.State.Reserve(order, quantity))
//
// The error of the decision is returned as it is. Any other error is one of the codec.
func (l *Loaded[S, E]) Change(events []E, err error) (eventstore.Change, error) {
	if err != nil {
		return eventstore.Change{}, err
	}
	change := eventstore.Change{Stream: l.Stream, Expected: l.Version, ExpectedID: l.last}
	for _, event := range events {
		draft, err := l.codec.Encode(event)
		if err != nil {
			return eventstore.Change{}, fmt.Errorf("aggregate: stream %s: %w", l.Stream, err)
		}
		change.Events = append(change.Events, draft)
	}
	return change, nil
}

// Load returns the aggregate with the given key. An aggregate that does not exist has the zero state at version 0; the
// caller decides whether that is an error. An event that does not decode stops the load with an error of the codec.
func (r *Repository[S, E]) Load(ctx context.Context, key string) (*Loaded[S, E], error) {
	stream := r.definition.Stream(key)
	f, err := r.load(ctx, stream, eventstore.ReadOptions{})
	if err != nil {
		return nil, err
	}
	loadedIn(ctx, stream, f.version, f.last, false)
	r.saveNow(ctx, f)
	return r.loaded(f), nil
}

func (r *Repository[S, E]) loaded(f *folded[S]) *Loaded[S, E] {
	return &Loaded[S, E]{State: f.state, Stream: f.stream, Version: f.version, Position: f.position, RecordedAt: f.at, last: f.last, codec: r.definition.codec}
}

// Update loads the aggregate, calls decide, and appends the events that decide returns. When another append was faster,
// Update starts again with the new state. So decide can be called several times, and must do nothing except decide: it
// must not change the state that it is given. An error of decide is returned as it is.
//
// Without events nothing is appended, and the receipt is that of the state decided on. After too many conflicts Update
// returns the last one, an [eventstore.ConflictError]. A nil decide is an [eventstore.InvalidError].
func (r *Repository[S, E]) Update(ctx context.Context, key string, decide func(*S) ([]E, error)) (eventstore.Receipt, error) {
	return r.update(ctx, key, eventstore.Any, decide)
}

// UpdateAt is [Repository.Update] for a caller that has seen the aggregate at a version, and wants to change only that
// version. If the aggregate is at another version, UpdateAt returns an [eventstore.ConflictError] and does not call
// decide.
func (r *Repository[S, E]) UpdateAt(ctx context.Context, key string, seen eventstore.Version, decide func(*S) ([]E, error)) (eventstore.Receipt, error) {
	return r.update(ctx, key, seen, decide)
}

func (r *Repository[S, E]) update(ctx context.Context, key string, seen eventstore.Version, decide func(*S) ([]E, error)) (eventstore.Receipt, error) {
	stream := r.definition.Stream(key)
	if decide == nil {
		return eventstore.Receipt{}, refused("update "+stream.String(), "decide is nil: pass a function")
	}
	if seen < eventstore.Exists {
		return eventstore.Receipt{}, refused("update "+stream.String(), "version %d: want 0 or more, eventstore.Any or eventstore.Exists", int64(seen))
	}
	var last decision[S]
	attempt, tries := uint(0), r.config.tries()
	receipt, err := commit(ctx, r.store, r.config, []eventstore.StreamID{stream}, func(ctx context.Context) (_ []eventstore.Change, err error) {
		attempt++
		// A cached state may be outdated, and then a second attempt is needed.
		last, err = r.decide(ctx, key, seen, attempt == 1 && tries > 1, decide)
		return []eventstore.Change{last.change}, err
	})
	if err == nil && receipt.Version == eventstore.NoStream { // nothing was appended
		receipt = eventstore.Receipt{Version: last.on.version, Position: last.on.position}
	}
	// From here on the state may have another owner.
	switch {
	case last.on == nil: // no decision was made: loading failed, or the commit stored under the key is the answer
	case last.refused, err == nil && len(last.change.Events) == 0:
		r.keep(ctx, last.on)
	case err == nil:
		r.appended(ctx, last.on, last.change, receipt)
	}
	return receipt, err
}

// decision is the outcome of one decision on a state.
type decision[S any] struct {
	on      *folded[S]
	change  eventstore.Change
	refused bool
}

func (r *Repository[S, E]) decide(ctx context.Context, key string, seen eventstore.Version, cached bool, decide func(*S) ([]E, error)) (decision[S], error) {
	f, err := r.take(ctx, r.definition.Stream(key), cached)
	if err != nil {
		return decision[S]{}, err
	}
	loaded := r.loaded(f)
	if err := loaded.CheckAt(seen); err != nil {
		return decision[S]{on: f, refused: true}, err
	}
	change, err := loaded.Change(decide(f.state))
	if err == nil {
		err = giveIDs(change.Events)
	}
	return decision[S]{on: f, change: change, refused: err != nil}, err
}

// CheckAt returns an [eventstore.ConflictError] unless the aggregate was loaded at the given version. The version can
// also be [eventstore.Any] or [eventstore.Exists].
func (l *Loaded[S, E]) CheckAt(seen eventstore.Version) error {
	if seen == eventstore.Any || seen == l.Version || seen == eventstore.Exists && l.Version > 0 {
		return nil
	}
	return fmt.Errorf("aggregate: %w", &eventstore.ConflictError{Stream: l.Stream, Expected: seen, Actual: l.Version})
}
