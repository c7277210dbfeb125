package eventstoretest

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/naming"
)

// Memory is an event store in memory. It behaves as [eventstore.Store] does, passes the same suite, and is safe for
// concurrent use. Its events are lost with it.
type Memory struct {
	id uuid.UUID

	mu       sync.Mutex
	log      []eventstore.Raw // log[i] has position i+1
	streams  map[eventstore.StreamID][]eventstore.Raw
	keys     map[string]stored
	appended chan struct{} // closed and replaced by each commit
}

type stored struct {
	content  [32]byte
	receipts []eventstore.Receipt
	streams  []eventstore.StreamID
	at       time.Time
}

const memoryPage = 1000

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		id:       uuid.New(),
		streams:  make(map[eventstore.StreamID][]eventstore.Raw),
		keys:     make(map[string]stored),
		appended: make(chan struct{}),
	}
}

// Identity is [eventstore.Store.Identity].
func (m *Memory) Identity(ctx context.Context) (uuid.UUID, error) { return m.id, ctx.Err() }

// Append is [eventstore.Store.Append].
func (m *Memory) Append(ctx context.Context, stream eventstore.StreamID, expected eventstore.Version, events ...eventstore.Draft) (eventstore.Receipt, error) {
	receipts, err := m.Commit(ctx, eventstore.Change{Stream: stream, Expected: expected, Events: events})
	if err != nil {
		return eventstore.Receipt{}, err
	}
	return receipts[0], nil
}

// Commit is [eventstore.Store.Commit].
func (m *Memory) Commit(ctx context.Context, changes ...eventstore.Change) ([]eventstore.Receipt, error) {
	prepared, err := eventstore.Prepare(ctx, changes, eventstore.DefaultMaxEventBytes)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, keyed := eventstore.KeyFrom(ctx)
	if !keyed {
		receipts, _, err := m.commit(ctx, prepared)
		return receipts, err
	}
	use, err := key.Use(changes...)
	if err != nil {
		return nil, err
	}
	receipts, earlier, err := m.commit(ctx, prepared)
	if err := use.End(earlier, err); err != nil {
		return nil, err
	}
	return receipts, nil
}

// commit also returns the streams of the earlier commit that the receipts belong to, if the key had one.
func (m *Memory) commit(ctx context.Context, changes []eventstore.Change) ([]eventstore.Receipt, []eventstore.StreamID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()

	if first, err := m.storedLocked(ctx); first != nil || err != nil {
		if err == nil && len(first.receipts) != len(changes) {
			key, _ := eventstore.KeyFrom(ctx)
			return nil, nil, &eventstore.KeyReusedError{Key: key.Name}
		}
		if err != nil {
			return nil, nil, err
		}
		return slices.Clone(first.receipts), first.streams, nil
	}
	if receipts, ok := m.repeatedLocked(changes); ok {
		m.keepLocked(ctx, changes, receipts)
		return receipts, nil, nil
	}
	for _, change := range changes {
		actual := eventstore.Version(len(m.streams[change.Stream]))
		if e := change.Expected; e != actual && e != eventstore.Any && (e != eventstore.Exists || actual == 0) {
			return nil, nil, &eventstore.ConflictError{Stream: change.Stream, Expected: e, Actual: actual}
		}
		if id := change.ExpectedID; id != uuid.Nil && change.Expected > 0 && m.streams[change.Stream][actual-1].ID != id {
			return nil, nil, &eventstore.ConflictError{Stream: change.Stream, Expected: actual, Actual: actual, Replaced: true}
		}
	}
	receipts := make([]eventstore.Receipt, len(changes))
	for i, change := range changes {
		receipts[i] = m.appendLocked(change)
	}
	m.keepLocked(ctx, changes, receipts)
	close(m.appended)
	m.appended = make(chan struct{})
	return receipts, nil, nil
}

// keepLocked notes the receipts under the key of a commit, if the commit has a key.
func (m *Memory) keepLocked(ctx context.Context, changes []eventstore.Change, receipts []eventstore.Receipt) {
	key, ok := eventstore.KeyFrom(ctx)
	if !ok {
		return
	}
	streams := make([]eventstore.StreamID, len(changes))
	for i, change := range changes {
		streams[i] = change.Stream
	}
	m.keys[key.Name] = stored{key.Content, slices.Clone(receipts), streams, time.Now()}
}

// repeatedLocked returns the receipts of changes that are stored already, with the same event ids at the same
// expected versions.
func (m *Memory) repeatedLocked(changes []eventstore.Change) (receipts []eventstore.Receipt, ok bool) {
	for _, change := range changes {
		stream, end := m.streams[change.Stream], change.Expected+eventstore.Version(len(change.Events))
		if change.Expected < 0 || int(end) > len(stream) {
			return nil, false
		}
		for i, event := range stream[change.Expected:end] {
			if event.ID != change.Events[i].ID {
				return nil, false
			}
		}
		receipts = append(receipts, eventstore.Receipt{Version: end, Position: stream[end-1].Position})
	}
	return receipts, true
}

func (m *Memory) appendLocked(change eventstore.Change) eventstore.Receipt {
	for _, draft := range change.Events {
		event := eventstore.Raw{
			ID: draft.ID, Type: draft.Type, Schema: draft.Schema,
			Stream:     change.Stream,
			Version:    eventstore.Version(len(m.streams[change.Stream]) + 1),
			Position:   eventstore.Position(len(m.log) + 1),
			RecordedAt: time.Now().UTC().Truncate(time.Microsecond),
			Metadata:   draft.Metadata,
			Data:       draft.Data,
		}
		event = clone(event)
		m.log = append(m.log, event)
		m.streams[change.Stream] = append(m.streams[change.Stream], event)
	}
	return eventstore.Receipt{
		Version:  eventstore.Version(len(m.streams[change.Stream])),
		Position: eventstore.Position(len(m.log)),
	}
}

// Receipts is [eventstore.Store.Receipts].
func (m *Memory) Receipts(ctx context.Context) ([]eventstore.Receipt, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, err := m.storedLocked(ctx)
	if first == nil || err != nil {
		return nil, false, err
	}
	key, _ := eventstore.KeyFrom(ctx)
	key.Found(first.streams)
	return slices.Clone(first.receipts), true, nil
}

// storedLocked returns the commit under the key in ctx, nil if there is none.
func (m *Memory) storedLocked(ctx context.Context) (*stored, error) {
	key, ok := eventstore.KeyFrom(ctx)
	if !ok {
		return nil, nil
	}
	if err := key.Validate(); err != nil {
		return nil, err
	}
	first, ok := m.keys[key.Name]
	switch {
	case !ok:
		return nil, nil
	case first.content != key.Content:
		return nil, &eventstore.KeyReusedError{Key: key.Name}
	}
	return &first, nil
}

// Tidemark is [eventstore.Store.Tidemark].
func (m *Memory) Tidemark(ctx context.Context) (eventstore.Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return eventstore.Position(len(m.log)), ctx.Err()
}

// Read is [eventstore.Store.Read].
func (m *Memory) Read(ctx context.Context, stream eventstore.StreamID, options eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error] {
	return func(yield func(eventstore.Raw, error) bool) {
		options, err := options.Normalize()
		if err == nil {
			err = stream.Validate()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield(eventstore.Raw{}, fmt.Errorf("read stream %s: %w", stream, err))
			return
		}
		m.mu.Lock()
		events := slices.Clone(m.streams[stream])
		m.mu.Unlock()
		if !options.AsOf.IsZero() {
			for len(events) > 0 && events[len(events)-1].RecordedAt.After(options.AsOf) {
				events = events[:len(events)-1]
			}
		}
		if options.Backwards {
			slices.Reverse(events)
		}
		left := options.Limit
		for _, event := range events {
			if event.Version <= options.After || event.Version > options.To || event.Position > options.Through {
				continue
			}
			if left == 0 || !yield(clone(event), nil) {
				return
			}
			left--
		}
	}
}

// ReadAll is [eventstore.Store.ReadAll].
func (m *Memory) ReadAll(ctx context.Context, after eventstore.Position, filter eventstore.Filter) iter.Seq2[eventstore.Raw, error] {
	return func(yield func(eventstore.Raw, error) bool) {
		end, err := m.Tidemark(ctx)
		if err == nil {
			err = filter.Validate()
		}
		if err != nil {
			yield(eventstore.Raw{}, err)
			return
		}
		for after < end {
			page, err := m.Next(ctx, eventstore.After(after), filter, memoryPage)
			if err != nil {
				yield(eventstore.Raw{}, err)
				return
			}
			for _, event := range page.Events {
				if event.Position > end || !yield(event, nil) {
					return
				}
			}
			after = page.Through
		}
	}
}

// ReadAllBackwards is [eventstore.Store.ReadAllBackwards].
func (m *Memory) ReadAllBackwards(ctx context.Context, before eventstore.Position, filter eventstore.Filter) iter.Seq2[eventstore.Raw, error] {
	return func(yield func(eventstore.Raw, error) bool) {
		err := m.check(ctx, before, 1)
		if err == nil {
			err = filter.Validate()
		}
		if err != nil {
			yield(eventstore.Raw{}, err)
			return
		}
		for _, event := range slices.Backward(m.snapshot()) {
			if (before == 0 || event.Position < before) && filter.Match(event) && !yield(clone(event), nil) {
				return
			}
		}
	}
}

// Correlated is [eventstore.Store.Correlated].
func (m *Memory) Correlated(ctx context.Context, id string) iter.Seq2[eventstore.Raw, error] {
	return func(yield func(eventstore.Raw, error) bool) {
		err := ctx.Err()
		if wrong := naming.Validate("correlation id", id); err == nil && wrong != nil {
			err = &eventstore.InvalidError{Reason: wrong.Error()}
		}
		if err != nil {
			yield(eventstore.Raw{}, err)
			return
		}
		for _, event := range m.snapshot() {
			if event.Metadata.CorrelationID == id && !yield(clone(event), nil) {
				return
			}
		}
	}
}

// Stat is [eventstore.Store.Stat].
func (m *Memory) Stat(ctx context.Context, stream eventstore.StreamID) (eventstore.StreamInfo, error) {
	if err := stream.Validate(); err != nil {
		return eventstore.StreamInfo{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statLocked(stream), ctx.Err()
}

func (m *Memory) statLocked(stream eventstore.StreamID) eventstore.StreamInfo {
	info := eventstore.StreamInfo{Stream: stream}
	if events := m.streams[stream]; len(events) > 0 {
		last := events[len(events)-1]
		info.Version, info.Position, info.FirstAt, info.LastAt = last.Version, last.Position, events[0].RecordedAt, last.RecordedAt
	}
	return info
}

// Streams is [eventstore.Store.Streams].
func (m *Memory) Streams(ctx context.Context, prefix string, after eventstore.StreamID, limit int) ([]eventstore.StreamInfo, error) {
	if after != (eventstore.StreamID{}) {
		if err := after.Validate(); err != nil {
			return nil, err
		}
	}
	all, err := m.list(ctx, prefix, limit)
	if err != nil {
		return nil, err
	}
	name := func(info eventstore.StreamInfo) string { return info.Stream.String() }
	all = slices.DeleteFunc(all, func(info eventstore.StreamInfo) bool {
		return after != (eventstore.StreamID{}) && name(info) <= after.String()
	})
	slices.SortFunc(all, func(a, b eventstore.StreamInfo) int { return strings.Compare(name(a), name(b)) })
	return all[:min(limit, len(all))], nil
}

// RecentStreams is [eventstore.Store.RecentStreams].
func (m *Memory) RecentStreams(ctx context.Context, prefix string, before eventstore.Position, limit int) ([]eventstore.StreamInfo, error) {
	if err := m.check(ctx, before, limit); err != nil {
		return nil, err
	}
	all, err := m.list(ctx, prefix, limit)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(info eventstore.StreamInfo) bool { return before > 0 && info.Position >= before })
	slices.SortFunc(all, func(a, b eventstore.StreamInfo) int { return cmp.Compare(b.Position, a.Position) })
	return all[:min(limit, len(all))], nil
}

func (m *Memory) list(ctx context.Context, prefix string, limit int) (all []eventstore.StreamInfo, err error) {
	if err := eventstore.ValidateList(prefix, limit); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for stream := range m.streams {
		if strings.HasPrefix(stream.String(), prefix) {
			all = append(all, m.statLocked(stream))
		}
	}
	return all, ctx.Err()
}

// PurgeKeys is [eventstore.Store.PurgeKeys].
func (m *Memory) PurgeKeys(ctx context.Context, age time.Duration) (int64, error) {
	if age < 0 {
		return 0, &eventstore.InvalidError{Reason: fmt.Sprintf("age %s is negative", age)}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.keys)
	maps.DeleteFunc(m.keys, func(_ string, s stored) bool { return time.Since(s.at) > age })
	return int64(before - len(m.keys)), ctx.Err()
}

// snapshot returns the log as it is now.
func (m *Memory) snapshot() []eventstore.Raw {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log[:len(m.log):len(m.log)]
}

func (m *Memory) check(ctx context.Context, position eventstore.Position, limit int) error {
	if err := checkPage(position, limit); err != nil {
		return err
	}
	return ctx.Err()
}

func checkPage(position eventstore.Position, limit int) error {
	if position < 0 {
		return &eventstore.InvalidError{Reason: fmt.Sprintf("position %d: want a position from 0 on", position)}
	}
	return eventstore.ValidateList("", limit)
}

// Follow is [eventstore.Store.Follow].
func (m *Memory) Follow(ctx context.Context, after eventstore.Position, filter eventstore.Filter) iter.Seq2[eventstore.Raw, error] {
	return func(yield func(eventstore.Raw, error) bool) {
		for {
			page, err := m.Next(ctx, eventstore.After(after), filter, memoryPage)
			if err != nil {
				yield(eventstore.Raw{}, err)
				return
			}
			for _, event := range page.Events {
				if !yield(event, nil) {
					return
				}
			}
			after = page.Through
		}
	}
}

// Next is [eventstore.Store.Next].
func (m *Memory) Next(ctx context.Context, mark eventstore.Mark, filter eventstore.Filter, limit int) (eventstore.Page, error) {
	if err := filter.Validate(); err != nil {
		return eventstore.Page{}, err
	}
	after := mark.Position
	if err := checkPage(after, limit); err != nil {
		return eventstore.Page{}, err
	}
	for {
		m.mu.Lock()
		log, appended := m.log, m.appended
		m.mu.Unlock()
		if mark.ID != uuid.Nil && (int(after) > len(log) || after > 0 && log[after-1].ID != mark.ID) {
			return eventstore.Page{}, &eventstore.DivergedError{Position: after, Seen: mark.ID}
		}
		if int(after) < len(log) {
			return pageOf(log, after, filter, limit), ctx.Err()
		}
		select {
		case <-appended:
		case <-ctx.Done():
			return eventstore.Page{}, fmt.Errorf("wait for events after position %d: %w", after, context.Cause(ctx))
		}
	}
}

// clone copies an event, so that a caller cannot change the stored one.
func clone(event eventstore.Raw) eventstore.Raw {
	event.Data = slices.Clone(event.Data)
	event.Metadata.Headers = maps.Clone(event.Metadata.Headers)
	event.Metadata.Hops = slices.Clone(event.Metadata.Hops)
	return event
}

func pageOf(log []eventstore.Raw, after eventstore.Position, filter eventstore.Filter, limit int) eventstore.Page {
	page := eventstore.Page{Through: eventstore.Position(len(log))}
	for _, event := range log[after:] {
		if !filter.Match(event) {
			continue
		}
		page.Events = append(page.Events, clone(event))
		if len(page.Events) == limit {
			page.Through = event.Position
			break
		}
	}
	page.ID = log[page.Through-1].ID
	page.More = page.Through < eventstore.Position(len(log))
	return page
}
