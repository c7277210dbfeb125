package eventstoretest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// testModel runs random histories against a store and against a model of it, and compares every answer. All histories
// share one store, one after the other. Each history has names of its own.
func testModel(t *testing.T, s Store) {
	history := 0
	rapid.Check(t, func(rt *rapid.T) {
		history++
		m := &model{store: s, ctx: t.Context(), prefix: fmt.Sprintf("h%06d", history), keys: make(map[string]keyed)}
		var err error
		if m.start, err = s.Tidemark(m.ctx); err != nil {
			rt.Fatal(err)
		}
		if _, err := s.PurgeKeys(m.ctx, 0); err != nil {
			rt.Fatal(err)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"commit":           m.commit,
			"commit another":   m.commit, // there must be something to read
			"stored":           m.stored,
			"purge":            m.purge,
			"read":             m.read,
			"readAll":          m.readAll,
			"readAllBackwards": m.readAllBackwards,
			"correlated":       m.correlated,
			"next":             m.next,
			"follow":           m.follow,
			"stat":             m.stat,
			"streams":          m.streams,
			"recentStreams":    m.recentStreams,
		})
	})
}

// model has the events and keys that a store must hold. Its operations draw their arguments at random, call the
// store, and compare the answer with the answer of the model.
type model struct {
	store   Store
	ctx     context.Context
	prefix  string              // of all names
	start   eventstore.Position // the end of the log before the history
	log     []eventstore.Raw
	commits [][]eventstore.Change // all commits that were tried
	keys    map[string]keyed
	n       int
}

// keyed is the content and the receipts of the commit under an idempotency key.
type keyed struct {
	content  string
	receipts []eventstore.Receipt
}

var (
	modelTypes      = []string{"thing.happened", "thing.ended"}
	modelCategories = []string{"a", "b"}
	modelKeys       = []string{"1", "2"}
)

// stream draws one of four streams.
func (m *model) stream(t *rapid.T) eventstore.StreamID {
	return eventstore.StreamID{
		Category: m.prefix + rapid.SampledFrom(modelCategories).Draw(t, "category"),
		Key:      rapid.SampledFrom(modelKeys).Draw(t, "key"),
	}
}

// correlation draws a correlation id, often none.
func (m *model) correlation(t *rapid.T) string {
	if id := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "correlation"); id != "" {
		return m.prefix + id
	}
	return ""
}

// selected returns the events of the log that match, in their order.
func (m *model) selected(match func(eventstore.Raw) bool) (events []eventstore.Raw) {
	for _, event := range m.log {
		if match(event) {
			events = append(events, event)
		}
	}
	return events
}

func (m *model) of(stream eventstore.StreamID) []eventstore.Raw {
	return m.selected(func(event eventstore.Raw) bool { return event.Stream == stream })
}

// commit stores new events, or repeats an earlier commit.
func (m *model) commit(t *rapid.T) {
	var changes []eventstore.Change
	if len(m.commits) > 0 && rapid.IntRange(0, 3).Draw(t, "again") == 0 {
		changes = rapid.SampledFrom(m.commits).Draw(t, "commit")
	} else {
		changes = m.changes(t)
		m.commits = append(m.commits, changes)
	}
	ctx, name, content := m.ctx, "", ""
	if rapid.Bool().Draw(t, "with a key") {
		ctx, name, content = m.key(t)
	}

	want, wantErr := m.answer(changes, name, content)
	got, err := m.store.Commit(ctx, changes...)
	switch {
	case wantErr != nil:
		if !isRefusal(err, wantErr) {
			t.Fatalf("commit %+v, key %q: %v, want %v", changes, name, err, wantErr)
		}
	case err != nil:
		t.Fatalf("commit %+v, key %q: %v", changes, name, err)
	case want != nil:
		if !slices.Equal(got, want) {
			t.Fatalf("repeated %+v, key %q: %v, want %v", changes, name, got, want)
		}
		if _, known := m.keys[name]; name != "" && !known {
			m.keys[name] = keyed{content, got}
		}
	default:
		m.keep(t, changes, got)
		if name != "" {
			m.keys[name] = keyed{content, got}
		}
	}
}

// changes draws the changes of a new commit.
func (m *model) changes(t *rapid.T) (changes []eventstore.Change) {
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		id := m.stream(t)
		if slices.ContainsFunc(changes, func(c eventstore.Change) bool { return c.Stream == id }) {
			continue
		}
		at := eventstore.Version(len(m.of(id)))
		change := eventstore.Change{Stream: id, Expected: rapid.SampledFrom([]eventstore.Version{
			at, at, at, at, eventstore.Any, eventstore.Exists, eventstore.NoStream, at + 1,
		}).Draw(t, "expected")}
		for range rapid.IntRange(1, 3).Draw(t, "events") {
			m.n++
			event := draft(m.n)
			binary.BigEndian.PutUint64(event.ID[8:], uint64(m.n))
			event.Type = rapid.SampledFrom(modelTypes).Draw(t, "type")
			event.Metadata.CorrelationID = m.correlation(t)
			change.Events = append(change.Events, event)
		}
		changes = append(changes, change)
	}
	return changes
}

// answer returns the answer that a commit must get: an error, the receipts of the first time, or neither if the
// commit must be stored.
func (m *model) answer(changes []eventstore.Change, name, content string) ([]eventstore.Receipt, error) {
	if first, ok := m.keys[name]; ok {
		if first.content != content || len(first.receipts) != len(changes) {
			return nil, &eventstore.KeyReusedError{Key: name}
		}
		return first.receipts, nil
	}
	var refused error
	var first []eventstore.Receipt
	for _, change := range changes {
		events := m.of(change.Stream)
		actual, expected := eventstore.Version(len(events)), change.Expected
		fits := expected == actual || expected == eventstore.Any || expected == eventstore.Exists && actual > 0
		if !fits && refused == nil {
			refused = &eventstore.ConflictError{Stream: change.Stream, Expected: expected, Actual: actual}
		}
		end := expected + eventstore.Version(len(change.Events))
		if expected >= 0 && end <= actual && slices.Equal(idsOf(events[expected:end]), draftIDs(change.Events)) {
			first = append(first, eventstore.Receipt{Version: end, Position: events[end-1].Position})
		}
	}
	if len(first) == len(changes) {
		return first, nil
	}
	return nil, refused
}

// keep adds the events of a commit to the model. The store chooses position and time. The other fields must be as
// they were given.
func (m *model) keep(t *rapid.T, changes []eventstore.Change, receipts []eventstore.Receipt) {
	for i, change := range changes {
		before := eventstore.Version(len(m.of(change.Stream)))
		var want []eventstore.Raw
		for n, d := range change.Events {
			want = append(want, eventstore.Raw{
				ID: d.ID, Type: d.Type, Schema: 1, Stream: change.Stream, Version: before + eventstore.Version(n+1),
				Metadata: d.Metadata, Data: d.Data,
			})
		}
		got := m.collect(t, m.store.Read(m.ctx, change.Stream, eventstore.ReadOptions{After: before}))
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(eventstore.Raw{}, "Position", "RecordedAt")); diff != "" {
			t.Fatalf("appended to %s (-want +got):\n%s", change.Stream, diff)
		}
		for _, event := range got {
			if event.Position <= m.end() {
				t.Fatalf("position %d comes after %d", event.Position, m.end())
			}
			m.log = append(m.log, event)
		}
		last := got[len(got)-1]
		if want := (eventstore.Receipt{Version: last.Version, Position: last.Position}); receipts[i] != want {
			t.Fatalf("receipt of %s: %+v, want %+v", change.Stream, receipts[i], want)
		}
	}
}

// end returns the last position of the log.
func (m *model) end() eventstore.Position {
	if len(m.log) == 0 {
		return m.start
	}
	return m.log[len(m.log)-1].Position
}

// key draws an idempotency key and its content.
func (m *model) key(t *rapid.T) (ctx context.Context, name, content string) {
	name = m.prefix + rapid.SampledFrom([]string{"k", "l", "m"}).Draw(t, "key name")
	content = rapid.SampledFrom([]string{"this", "this", "that"}).Draw(t, "content")
	return eventstore.WithKey(m.ctx, name, []byte(content)), name, content
}

func (m *model) stored(t *rapid.T) {
	ctx, name, content := m.key(t)
	first, known := m.keys[name]
	receipts, ok, err := m.store.Receipts(ctx)
	if known && first.content != content {
		if !isRefusal(err, &eventstore.KeyReusedError{Key: name}) {
			t.Fatalf("stored under %q with other content: %v", name, err)
		}
	} else if err != nil || ok != known || !slices.Equal(receipts, first.receipts) {
		t.Fatalf("stored under %q: %v, %v, %v; want %v, %v", name, receipts, ok, err, first.receipts, known)
	}
}

func (m *model) purge(t *rapid.T) {
	age := rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "age")
	want := int64(0)
	if age == 0 {
		want = int64(len(m.keys))
		clear(m.keys)
	}
	if n, err := m.store.PurgeKeys(m.ctx, age); n != want || err != nil {
		t.Fatalf("purged %d keys, %v; want %d", n, err, want)
	}
}

// isRefusal reports whether err says the same as want, a ConflictError or a KeyReusedError.
func isRefusal(err, want error) bool {
	var conflict *eventstore.ConflictError
	var reused *eventstore.KeyReusedError
	switch want := want.(type) {
	case *eventstore.ConflictError:
		return errors.As(err, &conflict) && *conflict == *want
	case *eventstore.KeyReusedError:
		return errors.As(err, &reused) && *reused == *want
	}
	return false
}

func idsOf(events []eventstore.Raw) (ids []uuid.UUID) {
	for _, event := range events {
		ids = append(ids, event.ID)
	}
	return ids
}

func draftIDs(events []eventstore.Draft) (ids []uuid.UUID) {
	for _, event := range events {
		ids = append(ids, event.ID)
	}
	return ids
}
