package aggregate

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// folded is an aggregate that is being folded, or has been. It has one owner at a time.
type folded[S any] struct {
	stream   eventstore.StreamID
	state    *S
	version  eventstore.Version
	position eventstore.Position
	last     uuid.UUID // the id of the last event
	at       time.Time // when that event was recorded
	behind   bool      // the stream may have events that are not in the state

	// encode must be called before the state is changed. It makes the snapshot that waits in the queue, unless the
	// snapshot is made already. It is nil if no snapshot waits.
	encode func() (snapshot.Snapshot, error)

	from eventstore.Version // the version of the snapshot that it was loaded from, 0 for none

	// saved is the version of the latest snapshot that is stored or under way. The other fields are about the events
	// after it.
	saved  eventstore.Version
	events int
	since  time.Time // when the first of them was recorded
	types  []string

	loaded   int // events that were folded to load it, and how long that took
	loadTime time.Duration
}

// errForeign means that a state does not belong to this stream.
var errForeign = errors.New("its last event is not in the stream at that version: it is ahead of the stream, or of another history")

// load folds an aggregate up to the end that the options give. It begins with a snapshot if there is one.
func (r *Repository[S, E]) load(ctx context.Context, stream eventstore.StreamID, options eventstore.ReadOptions) (*folded[S], error) {
	if err := stream.Validate(); err != nil { // else the snapshot store would be asked, and could only log a warning
		return nil, fmt.Errorf("aggregate: load: %w", err)
	}
	start := time.Now()
	f, err := r.readAndFold(ctx, stream, options)
	took := time.Since(start)
	if observe := r.config.observer().Load; observe != nil {
		done := LoadDone{Stream: stream, Took: took, Err: err}
		if err == nil {
			done.Version, done.From, done.Events = f.version, f.from, f.loaded
		}
		observe(ctx, done)
	}
	if err != nil {
		return nil, err
	}
	f.loadTime = took
	return f, nil
}

func (r *Repository[S, E]) readAndFold(ctx context.Context, stream eventstore.StreamID, options eventstore.ReadOptions) (*folded[S], error) {
	if options.To == 0 {
		options.To = math.MaxInt64
	}
	to := options.To
	for {
		f, from, events := r.restore(ctx, stream, to, options.To)
		if events == nil {
			events = r.read(ctx, f, options)
		}
		err := r.fold(f, events)
		if f.from == 0 || !errors.Is(err, errForeign) {
			return f, err
		}
		r.snapshots.Reject(ctx, from, err)
		to = from.Version - 1
	}
}

type events = iter.Seq2[eventstore.Raw, error]

// restore returns the aggregate from the latest usable snapshot up to a version, with that snapshot. Without one it
// returns the zero state. It also returns the events that [Repository.fold] needs, up to the version end, if they came
// in the same round trip.
func (r *Repository[S, E]) restore(ctx context.Context, stream eventstore.StreamID, to, end eventstore.Version) (*folded[S], snapshot.Snapshot, events) {
	empty := &folded[S]{stream: stream, state: new(S)}
	if r.snapshots == nil {
		return empty, snapshot.Snapshot{}, nil
	}
	empty.saved = r.snapshots.UnderWay(stream) // asked before loading: a snapshot saved in between is not missed
	for to > 0 {
		from, ok, events := r.loadSnapshot(ctx, stream, to, end)
		if !ok {
			return empty, snapshot.Snapshot{}, events
		}
		state, err := r.definition.state.restore(from.Data)
		if err == nil {
			return &folded[S]{stream: stream, state: state, version: from.Version, last: from.EventID, from: from.Version, saved: max(from.Version, empty.saved)}, from, events
		}
		r.snapshots.Reject(ctx, from, fmt.Errorf("it does not decode: %w", err))
		to = from.Version - 1
	}
	return empty, snapshot.Snapshot{}, nil
}

// loadSnapshot returns the latest snapshot up to a version. It reads the events too if they end at the same version,
// because one round trip is enough for both.
func (r *Repository[S, E]) loadSnapshot(ctx context.Context, stream eventstore.StreamID, to, end eventstore.Version) (snapshot.Snapshot, bool, events) {
	store, ok := r.store.(*eventstore.Store) // a wrapper of the store must see the read
	if ok && to == end {
		return r.snapshots.LoadAndRead(ctx, store, stream, r.definition.state.kind, to)
	}
	from, ok := r.snapshots.Load(ctx, stream, r.definition.state.kind, to)
	return from, ok, nil
}

// read reads what [Repository.fold] needs: the last event of a state, which proves that the state belongs to the
// stream, and the events after it.
func (r *Repository[S, E]) read(ctx context.Context, f *folded[S], options eventstore.ReadOptions) events {
	options.After = max(f.version, 1) - 1
	return r.store.Read(ctx, f.stream, options)
}

// fold applies the events that come after a state. The first event must be the last one of the state.
func (r *Repository[S, E]) fold(f *folded[S], events events) error {
	proven := f.version == eventstore.NoStream
	for raw, err := range events {
		if err != nil {
			return fmt.Errorf("aggregate: load %s: %w", f.stream, err)
		}
		if !proven {
			if raw.Version != f.version || raw.ID != f.last {
				return errForeign
			}
			f.position, f.at, proven = raw.Position, raw.RecordedAt, true
			continue
		}
		if err := r.apply(f, raw); err != nil {
			return fmt.Errorf("aggregate: load %s: %w", f.stream, err)
		}
		f.loaded++
	}
	if !proven {
		return errForeign
	}
	f.behind = false
	return nil
}

// apply applies the next event.
func (r *Repository[S, E]) apply(f *folded[S], raw eventstore.Raw) error {
	if _, err := r.definition.step(f.state, raw); err != nil {
		return err
	}
	f.version, f.position, f.last, f.at = raw.Version, raw.Position, raw.ID, raw.RecordedAt
	if f.version <= f.saved {
		return nil
	}
	if f.events++; f.events == 1 {
		f.since = raw.RecordedAt
	}
	if !slices.Contains(f.types, raw.Type) {
		f.types = append(f.types, raw.Type)
	}
	return nil
}

// take returns an aggregate to decide on. It looks in the cache only if cached is true.
func (r *Repository[S, E]) take(ctx context.Context, stream eventstore.StreamID, cached bool) (f *folded[S], err error) {
	start := time.Now()
	if cached {
		f = r.fromCache(ctx, stream)
	}
	hit := f != nil
	if observe := r.config.observer().Load; hit && observe != nil {
		observe(ctx, LoadDone{Stream: stream, Version: f.version, Events: f.loaded, Cached: true, Took: time.Since(start)})
	}
	if !hit {
		if f, err = r.load(ctx, stream, eventstore.ReadOptions{}); err != nil {
			return nil, err
		}
	}
	loadedIn(ctx, stream, f.version, f.last, hit)
	return f, nil
}

// fromCache takes an aggregate out of the cache and makes it ready to be changed. It returns nil if the cache has none,
// or if the later events cannot be read: then loading returns the error.
func (r *Repository[S, E]) fromCache(ctx context.Context, stream eventstore.StreamID) *folded[S] {
	f := r.cache.take(stream)
	if f == nil {
		return nil
	}
	f.loaded, f.loadTime = 0, 0
	if f.encode != nil {
		_, _ = f.encode() // the snapshotter gets the error too, and logs it
		f.encode = nil
	}
	if f.behind {
		if err := r.fold(f, r.read(ctx, f, eventstore.ReadOptions{})); err != nil {
			return nil
		}
	}
	return f
}

// giveIDs gives ids to the events of a change. A snapshot after these events needs the id of the last one.
func giveIDs(drafts []eventstore.Draft) error {
	for i := range drafts {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("aggregate: event id: %w", err)
		}
		drafts[i].ID = id
	}
	return nil
}

// appended applies to an aggregate the events that were appended to it, as a later load would.
func (r *Repository[S, E]) appended(ctx context.Context, f *folded[S], change eventstore.Change, receipt eventstore.Receipt) {
	if r.cache == nil && r.snapshots == nil {
		return
	}
	if _, ok := eventstore.KeyFrom(ctx); ok {
		// The receipt may be that of another attempt with the key, whose events are in the stream.
		f.behind = true
		r.keep(ctx, f)
		return
	}
	if receipt.Version != f.version+eventstore.Version(len(change.Events)) {
		return
	}
	if err := r.applyDrafts(f, change, receipt); err != nil {
		return // an event does not decode: the next load returns the error
	}
	r.keep(ctx, f)
}

// applyDrafts applies the events that were appended. They are stored, so a panic of Apply must not fail the update: it
// is returned as an error.
func (r *Repository[S, E]) applyDrafts(f *folded[S], change eventstore.Change, receipt eventstore.Receipt) (err error) {
	defer recovered(&err)
	now := time.Now() // about when Postgres has recorded them
	for _, draft := range change.Events {
		err := r.apply(f, eventstore.Raw{
			ID: draft.ID, Type: draft.Type, Schema: max(draft.Schema, 1), Data: draft.Data,
			Stream: f.stream, Version: f.version + 1, Position: receipt.Position, RecordedAt: now,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// keep takes a snapshot of an aggregate if it is time for one, and puts the aggregate into the cache. From then on
// another owner can take the aggregate. The snapshot is encoded by the snapshotter, or by the next update if that comes
// first, because the update changes the state.
func (r *Repository[S, E]) keep(ctx context.Context, f *folded[S]) {
	if r.isDue(f) {
		taken := r.snapshotOf(f)
		encode := sync.OnceValues(func() (_ snapshot.Snapshot, err error) {
			taken.Data, err = r.definition.EncodeState(f.state)
			return taken, err
		})
		if r.snapshots.Take(ctx, snapshot.Job{Stream: f.stream, Version: f.version, Make: encode}) {
			f.encode = encode
			f.taken()
		}
	}
	r.cache.put(f)
}

// saveNow takes a snapshot of an aggregate if it is time for one. It encodes the state at once, because the caller is
// about to get the state.
func (r *Repository[S, E]) saveNow(ctx context.Context, f *folded[S]) {
	if r.isDue(f) {
		taken := r.snapshotOf(f)
		data, err := r.definition.EncodeState(f.state)
		taken.Data = data
		r.snapshots.Take(ctx, snapshot.Job{
			Stream: f.stream, Version: f.version,
			Make: func() (snapshot.Snapshot, error) { return taken, err },
		})
	}
}

func (r *Repository[S, E]) isDue(f *folded[S]) bool {
	if r.snapshots == nil || f.events == 0 {
		return false
	}
	p := snapshot.Progress{
		Stream: f.stream, Version: f.version, Events: f.events, Types: f.types,
		Loaded: f.loaded, LoadTime: f.loadTime,
	}
	if age := time.Since(f.since); age > 0 { // it can be negative: clocks differ, and are put back
		p.Age = age
	}
	return r.snapshots.Due(p)
}

// taken restarts the counts after a snapshot.
func (f *folded[S]) taken() {
	f.saved, f.events, f.since, f.types = f.version, 0, time.Time{}, nil
}

// snapshotOf returns the snapshot of an aggregate, without its data.
func (r *Repository[S, E]) snapshotOf(f *folded[S]) snapshot.Snapshot {
	return snapshot.Snapshot{
		Stream: f.stream, Version: f.version, EventID: f.last, RecordedAt: f.at, Kind: r.definition.state.kind,
	}
}
