package eventstoretest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Memory is an event store in memory. It behaves as [eventstore.Store] does, passes the same
// suite and is safe for concurrent use; what it holds is gone with it.
type Memory struct {
	mu       sync.Mutex
	log      []eventstore.Raw // log[i] has position i+1
	streams  map[eventstore.StreamID][]eventstore.Raw
	keys     map[string]stored
	appended chan struct{} // closed and replaced by each commit
}

type stored struct {
	content  [32]byte
	receipts []eventstore.Receipt
}

const memoryPage = 1000

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		streams:  make(map[eventstore.StreamID][]eventstore.Raw),
		keys:     make(map[string]stored),
		appended: make(chan struct{}),
	}
}

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
	changes, err := eventstore.Prepare(ctx, changes, eventstore.DefaultMaxEventBytes)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()

	if receipts, ok, err := m.storedLocked(ctx); ok || err != nil {
		return receipts, err
	}
	if receipts, ok := m.repeatedLocked(changes); ok {
		return receipts, nil
	}
	for _, change := range changes {
		actual := eventstore.Version(len(m.streams[change.Stream]))
		if e := change.Expected; e != actual && e != eventstore.Any && (e != eventstore.Exists || actual == 0) {
			return nil, &eventstore.ConflictError{Stream: change.Stream, Expected: e, Actual: actual}
		}
	}
	receipts := make([]eventstore.Receipt, len(changes))
	for i, change := range changes {
		receipts[i] = m.appendLocked(change)
	}
	if key, ok := eventstore.KeyFrom(ctx); ok {
		m.keys[key.Name] = stored{key.Content, receipts}
	}
	close(m.appended)
	m.appended = make(chan struct{})
	return slices.Clone(receipts), nil
}

// repeatedLocked finds what was stored with the same event ids at the same expected versions.
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

// Stored is [eventstore.Store.Stored].
func (m *Memory) Stored(ctx context.Context) ([]eventstore.Receipt, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.storedLocked(ctx)
}

func (m *Memory) storedLocked(ctx context.Context) ([]eventstore.Receipt, bool, error) {
	key, ok := eventstore.KeyFrom(ctx)
	if !ok {
		return nil, false, nil
	}
	if err := key.Validate(); err != nil {
		return nil, false, err
	}
	first, ok := m.keys[key.Name]
	if ok && first.content != key.Content {
		return nil, false, &eventstore.KeyReusedError{Key: key.Name}
	}
	return slices.Clone(first.receipts), ok, nil
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
		events := m.streams[stream]
		m.mu.Unlock()
		left := options.Limit
		for _, event := range events {
			if event.Version <= options.After || event.Version > options.To {
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
		if err != nil {
			yield(eventstore.Raw{}, err)
			return
		}
		for after < end {
			page, err := m.Next(ctx, after, filter, memoryPage)
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

// Follow is [eventstore.Store.Follow].
func (m *Memory) Follow(ctx context.Context, after eventstore.Position, filter eventstore.Filter) iter.Seq2[eventstore.Raw, error] {
	return func(yield func(eventstore.Raw, error) bool) {
		for {
			page, err := m.Next(ctx, after, filter, memoryPage)
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
func (m *Memory) Next(ctx context.Context, after eventstore.Position, filter eventstore.Filter, limit int) (eventstore.Page, error) {
	if after < 0 || limit < 1 {
		return eventstore.Page{}, &eventstore.InvalidError{Reason: fmt.Sprintf("read the log after position %d, at most %d events", after, limit)}
	}
	for {
		m.mu.Lock()
		log, appended := m.log, m.appended
		m.mu.Unlock()
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

// clone keeps what is stored apart from what callers hold and may change.
func clone(event eventstore.Raw) eventstore.Raw {
	event.Data = slices.Clone(event.Data)
	event.Metadata.Headers = maps.Clone(event.Metadata.Headers)
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
	return page
}
