package aggregate

import (
	"context"
	"errors"
	"fmt"
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
	at       time.Time // when that was recorded
	behind   bool      // events may be stored that are not in the state

	// encode is called before the state is changed: it makes the snapshot that waits in the queue, unless
	// that is made already. Nil for nothing to do.
	encode func() (snapshot.Snapshot, error)

	from eventstore.Version // of the snapshot it was loaded from, 0 for none

	// What comes after the latest snapshot that there is, or is under way.
	saved  eventstore.Version
	events int
	since  time.Time // when the first of them was recorded
	types  []string

	loaded   int // events that were folded to load it, and how long that took
	loadTime time.Duration
}

// errForeign means that a state is not one of this stream.
var errForeign = errors.New("its last event is not in the stream at that version: it is ahead of the stream, or of another history")

// load folds an aggregate up to where the options end, beginning with a snapshot where there is one.
func (r *Repository[S, E]) load(ctx context.Context, stream eventstore.StreamID, options eventstore.ReadOptions) (*folded[S], error) {
	if err := stream.Validate(); err != nil { // the snapshot store would be asked, and could only warn
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
	to := options.To
	if to == 0 {
		to = math.MaxInt64
	}
	for {
		f, from, found := r.restore(ctx, stream, to)
		err := r.fold(ctx, f, options)
		if !found || !errors.Is(err, errForeign) {
			return f, err
		}
		r.snapshots.Reject(ctx, from, err)
		to = from.Version - 1
	}
}

// restore returns the aggregate as it was in the latest snapshot up to a version that can be used.
func (r *Repository[S, E]) restore(ctx context.Context, stream eventstore.StreamID, to eventstore.Version) (*folded[S], snapshot.Snapshot, bool) {
	var underWay eventstore.Version
	if r.snapshots != nil {
		underWay = r.snapshots.UnderWay(stream) // before looking: now or then it is seen
	}
	for r.snapshots != nil && to > 0 {
		from, ok := r.snapshots.Load(ctx, stream, r.definition.state.kind, to)
		if !ok {
			break
		}
		state, err := r.definition.state.restore(from.Data)
		if err == nil {
			return &folded[S]{stream: stream, state: state, version: from.Version, last: from.EventID, from: from.Version, saved: max(from.Version, underWay)}, from, true
		}
		r.snapshots.Reject(ctx, from, fmt.Errorf("it does not decode: %w", err))
		to = from.Version - 1
	}
	return &folded[S]{stream: stream, state: new(S), saved: underWay}, snapshot.Snapshot{}, false
}

// fold adds the events that come after a state. The event that the state ends with is read again: it
// proves that the state is one of this stream.
func (r *Repository[S, E]) fold(ctx context.Context, f *folded[S], options eventstore.ReadOptions) error {
	proven := f.version == eventstore.NoStream
	options.After = max(f.version, 1) - 1
	for raw, err := range r.store.Read(ctx, f.stream, options) {
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

// apply adds the next event.
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

// take returns an aggregate to decide on, from the cache if that may be.
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

// fromCache takes an aggregate out of the cache, ready to be changed. It returns nil if there is none, or
// if it cannot be caught up: loading says what is wrong.
func (r *Repository[S, E]) fromCache(ctx context.Context, stream eventstore.StreamID) *folded[S] {
	f := r.cache.take(stream)
	if f == nil {
		return nil
	}
	f.loaded, f.loadTime = 0, 0
	if f.encode != nil {
		_, _ = f.encode() // whoever saves it sees what has gone wrong
		f.encode = nil
	}
	if f.behind {
		if err := r.fold(ctx, f, eventstore.ReadOptions{}); err != nil {
			return nil
		}
	}
	return f
}

// giveIDs gives ids to the events of a change, which a snapshot of their last one must know.
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

// appended adds to an aggregate what was appended to it, as a later load would.
func (r *Repository[S, E]) appended(ctx context.Context, f *folded[S], change eventstore.Change, receipt eventstore.Receipt) {
	if r.cache == nil && r.snapshots == nil {
		return
	}
	if _, ok := eventstore.KeyFrom(ctx); ok {
		// The receipt may be that of another request with the key: its events are in the stream.
		f.behind = true
		r.keep(ctx, f)
		return
	}
	if receipt.Version != f.version+eventstore.Version(len(change.Events)) {
		return
	}
	if err := r.applyDrafts(f, change, receipt); err != nil {
		return // an event that cannot be read again: the next load says so
	}
	r.keep(ctx, f)
}

// applyDrafts applies what was appended. It is stored: a panic of Apply is for the next load.
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

// keep takes a snapshot of an aggregate if it is time for one, and puts it into the cache: from then on it
// is another owner's. The snapshot is made by the first of these two: the snapshotter, or the next update,
// which changes the state.
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

// saveNow takes a snapshot of an aggregate, if it is time for one, whose state is about to be the
// caller's: it is made here.
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
	if age := time.Since(f.since); age > 0 { // clocks differ, and are put back
		p.Age = age
	}
	return r.snapshots.Due(p)
}

// taken counts anew.
func (f *folded[S]) taken() {
	f.saved, f.events, f.since, f.types = f.version, 0, time.Time{}, nil
}

// snapshotOf returns the snapshot of an aggregate, without its data.
func (r *Repository[S, E]) snapshotOf(f *folded[S]) snapshot.Snapshot {
	return snapshot.Snapshot{
		Stream: f.stream, Version: f.version, EventID: f.last, RecordedAt: f.at, Kind: r.definition.state.kind,
	}
}
