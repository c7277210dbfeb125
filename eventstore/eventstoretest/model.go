package eventstoretest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// testModel runs random histories against a store and against a model of a few lines, and
// compares every answer. All histories share one store; each has streams of its own.
func testModel(t *testing.T, s Store) {
	history := 0
	rapid.Check(t, func(rt *rapid.T) {
		history++
		m := &model{store: s, category: fmt.Sprintf("model%d", history), streams: make(map[eventstore.StreamID][]string)}
		start, err := s.Tidemark(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		m.start = start
		rt.Repeat(map[string]func(*rapid.T){
			"commit":  m.commit,
			"read":    m.read,
			"readAll": m.readAll,
		})
		m.readAll(rt)
	})
}

// model knows, for each stream, the payloads it must hold, and the same for the whole log.
type model struct {
	store    Store
	category string
	start    eventstore.Position
	streams  map[eventstore.StreamID][]string
	log      []string
	n        int
}

func (m *model) stream(t *rapid.T) eventstore.StreamID {
	return eventstore.StreamID{Category: m.category, Key: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")}
}

func (m *model) commit(t *rapid.T) {
	var changes []eventstore.Change
	var refused *eventstore.ConflictError
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		id := m.stream(t)
		if slices.ContainsFunc(changes, func(c eventstore.Change) bool { return c.Stream == id }) {
			continue
		}
		actual := eventstore.Version(len(m.streams[id]))
		expected := rapid.SampledFrom([]eventstore.Version{
			actual, actual, actual, eventstore.Any, eventstore.Exists, eventstore.NoStream, actual + 1,
		}).Draw(t, "expected")
		ok := expected == actual || expected == eventstore.Any || expected == eventstore.Exists && actual > 0
		if !ok && refused == nil {
			refused = &eventstore.ConflictError{Stream: id, Expected: expected, Actual: actual}
		}
		change := eventstore.Change{Stream: id, Expected: expected}
		for range rapid.IntRange(1, 4).Draw(t, "events") {
			m.n++
			change.Events = append(change.Events, draft(m.n))
		}
		changes = append(changes, change)
	}

	receipts, err := m.store.Commit(t.Context(), changes...)
	if refused != nil {
		var conflict *eventstore.ConflictError
		if !errors.As(err, &conflict) || *conflict != *refused {
			t.Fatalf("commit: %v, want %v", err, refused)
		}
		return
	}
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	for i, change := range changes {
		for _, event := range change.Events {
			m.streams[change.Stream] = append(m.streams[change.Stream], string(event.Data))
			m.log = append(m.log, string(event.Data))
		}
		if want := eventstore.Version(len(m.streams[change.Stream])); receipts[i].Version != want {
			t.Fatalf("receipt of %s: version %d, want %d", change.Stream, receipts[i].Version, want)
		}
	}
}

func (m *model) read(t *rapid.T) {
	id := m.stream(t)
	all := m.streams[id]
	options := eventstore.ReadOptions{
		After: eventstore.Version(rapid.IntRange(0, len(all)+1).Draw(t, "after")),
		To:    eventstore.Version(rapid.IntRange(0, len(all)+1).Draw(t, "to")),
		Limit: rapid.IntRange(0, 5).Draw(t, "limit"),
	}
	var want []string
	for i, data := range all {
		version := eventstore.Version(i + 1)
		if version > options.After && (options.To == 0 || version <= options.To) && (options.Limit == 0 || len(want) < options.Limit) {
			want = append(want, data)
		}
	}
	var got []string
	for event, err := range m.store.Read(t.Context(), id, options) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(event.Data))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("read %s %+v: %v, want %v", id, options, got, want)
	}
}

func (m *model) readAll(t *rapid.T) {
	var got []string
	for event, err := range m.store.ReadAll(t.Context(), m.start, eventstore.Filter{Categories: []string{m.category}}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(event.Data))
	}
	if !slices.Equal(got, m.log) {
		t.Fatalf("the log: %v, want %v", got, m.log)
	}
}
