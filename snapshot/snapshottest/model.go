package snapshottest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// testModel runs random histories against stores of several retentions and against a model of them,
// and compares every answer. All histories share these stores, one after the other; each has
// categories of its own.
func testModel(t *testing.T, newStore NewStore) {
	var models []model
	for _, retention := range []snapshot.Retention{{}, {Latest: 3}, {Period: time.Hour}, {Latest: 2, Period: 90 * time.Minute}} {
		models = append(models, model{test: t, store: newStore(t, retention), latest: max(1, retention.Latest), period: retention.Period})
	}
	history := 0
	rapid.Check(t, func(rt *rapid.T) {
		history++
		m := models[rapid.IntRange(0, len(models)-1).Draw(rt, "retention")]
		m.rows = make(map[row]snapshot.Snapshot)
		for _, category := range []string{"a", "a.", "b"} {
			for _, key := range []string{"1", "-2"} {
				m.streams = append(m.streams, eventstore.StreamID{Category: fmt.Sprintf("h%06d%s", history, category), Key: key})
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"save":           m.save,
			"save another":   m.save, // so that the other actions find snapshots
			"save a third":   m.save,
			"save invalid":   m.saveInvalid,
			"load":           m.load,
			"delete":         m.remove,
			"deleteOutdated": m.deleteOutdated,
		})
		m.compare(rt, m.streams...)
	})
}

// model has the snapshots that a store must hold. Its methods that take a rapid.T do one random thing to the store, and
// compare the answer with the model.
type model struct {
	test    *testing.T
	store   snapshot.Store
	latest  int
	period  time.Duration
	streams []eventstore.StreamID
	rows    map[row]snapshot.Snapshot
}

type row struct {
	stream  eventstore.StreamID
	version eventstore.Version
}

var modelKinds = []snapshot.Kind{kind, kind, older, newer, reshaped, another}

func (m *model) stream(t *rapid.T) eventstore.StreamID {
	return rapid.SampledFrom(m.streams).Draw(t, "stream")
}

func (m *model) version(t *rapid.T) eventstore.Version {
	return eventstore.Version(rapid.Int64Range(1, 12).Draw(t, "version"))
}

func (m *model) kind(t *rapid.T) snapshot.Kind { return rapid.SampledFrom(modelKinds).Draw(t, "kind") }

// of returns the snapshots of a stream that match, by version.
func (m *model) of(stream eventstore.StreamID, match func(snapshot.Snapshot) bool) (found []snapshot.Snapshot) {
	for at, s := range m.rows {
		if at.stream == stream && match(s) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b snapshot.Snapshot) int { return cmp.Compare(a.Version, b.Version) })
	return found
}

func (m *model) snapshot(t *rapid.T) snapshot.Snapshot {
	s := snapshot.Snapshot{Stream: m.stream(t), Version: m.version(t), Kind: m.kind(t)}
	copy(s.EventID[:], rapid.SliceOfN(rapid.ByteMin(1), 16, 16).Draw(t, "event"))
	// Times grow roughly with the version. They are on both sides of 1970, and often at the end of a period.
	minutes := rapid.IntRange(-5, 5).Draw(t, "minutes") + 30*int(s.Version-6)
	s.RecordedAt = time.Unix(int64(minutes)*60, 0).Add(-time.Duration(rapid.IntRange(0, 1).Draw(t, "µs")) * time.Microsecond)
	s.Data = rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "data")
	return s
}

func (m *model) batch(t *rapid.T) (batch []snapshot.Snapshot) {
	for range rapid.IntRange(1, 3).Draw(t, "batch") {
		s := m.snapshot(t)
		if !slices.ContainsFunc(batch, func(other snapshot.Snapshot) bool { return other.Stream == s.Stream }) {
			batch = append(batch, s)
		}
	}
	return batch
}

func (m *model) save(t *rapid.T) {
	batch := m.batch(t)
	if err := m.store.Save(m.test.Context(), batch...); err != nil {
		t.Fatalf("save %+v: %v", batch, err)
	}
	for _, s := range batch {
		m.keep(s)
		m.compare(t, s.Stream)
	}
}

// keep changes the model as saving a snapshot changes the store.
func (m *model) keep(s snapshot.Snapshot) {
	at := row{s.Stream, s.Version}
	asNew := m.of(s.Stream, func(old snapshot.Snapshot) bool { return old.Kind == s.Kind && old.Version >= s.Version })
	if len(asNew) == 0 {
		m.rows[at] = s
	}
	same := m.of(s.Stream, func(old snapshot.Snapshot) bool { return old.Kind == s.Kind })
	var previous eventstore.Version
	if len(same) > 1 {
		previous = same[len(same)-2].Version
	}
	for _, old := range m.of(s.Stream, func(old snapshot.Snapshot) bool { return old.Kind != s.Kind }) {
		if old.Kind.Type != s.Kind.Type || old.Version < previous {
			delete(m.rows, row{s.Stream, old.Version})
		}
	}
	for i, old := range same {
		isLatest := i >= len(same)-m.latest
		isLast := i == len(same)-1 || m.period > 0 && m.periodOf(old) != m.periodOf(same[i+1])
		if !isLatest && !isLast {
			delete(m.rows, row{s.Stream, old.Version})
		}
	}
}

// periodOf returns when the snapshot's period began.
func (m *model) periodOf(s snapshot.Snapshot) time.Time {
	// Truncate rounds towards zero. So count from a time long before 1970 that is a whole number of periods away from
	// it.
	start := time.Unix(0, 0).Add(-m.period * 1_000_000)
	return start.Add(s.RecordedAt.Sub(start).Truncate(m.period))
}

func outdated(s snapshot.Snapshot, by snapshot.Kind) bool {
	return s.Kind != by && !(s.Kind.Type == by.Type && s.Kind.Schema > by.Schema)
}

func (m *model) saveInvalid(t *rapid.T) {
	batch := m.batch(t)
	bad := m.snapshot(t)
	if rapid.Bool().Draw(t, "twice") {
		bad.Stream = batch[0].Stream
	} else {
		bad.Version = 0
	}
	batch = slices.Insert(batch, rapid.IntRange(0, len(batch)).Draw(t, "at"), bad)
	if err := m.store.Save(m.test.Context(), batch...); !errors.Is(err, snapshot.ErrInvalid) {
		t.Fatalf("save %+v: %v, want ErrInvalid", batch, err)
	}
	for _, s := range batch {
		m.compare(t, s.Stream)
	}
}

func (m *model) load(t *rapid.T) {
	stream, to, of := m.stream(t), m.version(t), m.kind(t)
	var want []snapshot.Snapshot
	for _, s := range m.of(stream, func(s snapshot.Snapshot) bool { return s.Version <= to && s.Kind != of }) {
		s.Data = nil
		want = append(want, s)
	}
	want = append(want, m.of(stream, func(s snapshot.Snapshot) bool { return s.Version <= to && s.Kind == of })...)
	got, ok, err := m.store.Load(m.test.Context(), stream, of, to)
	if err != nil || ok != (len(want) > 0) {
		t.Fatalf("load %s, %v to %d: %v, %v; want one of %d", stream, of, to, ok, err, len(want))
	}
	if ok {
		if diff := compare(want[len(want)-1], got); diff != "" {
			t.Fatalf("load %s, %v to %d (-want +got):\n%s", stream, of, to, diff)
		}
	}
}

func (m *model) remove(t *rapid.T) {
	stream, version := m.stream(t), m.version(t)
	if err := m.store.Delete(m.test.Context(), stream, version); err != nil {
		t.Fatalf("delete %s at %d: %v", stream, version, err)
	}
	delete(m.rows, row{stream, version})
	m.compare(t, stream)
}

// deleteOutdated: if more snapshots are outdated than the limit, the store chooses which of them it deletes.
func (m *model) deleteOutdated(t *rapid.T) {
	category, of, limit := m.stream(t).Category, m.kind(t), rapid.IntRange(1, 4).Draw(t, "limit")
	n, err := m.store.DeleteOutdated(m.test.Context(), category, of, limit)
	if err != nil {
		t.Fatal(err)
	}
	candidates := 0
	var streams []eventstore.StreamID
	for _, stream := range m.streams {
		if stream.Category == category {
			streams = append(streams, stream)
			candidates += len(m.of(stream, func(s snapshot.Snapshot) bool { return outdated(s, of) }))
		}
	}
	if n != min(limit, candidates) {
		t.Fatalf("delete outdated of %s, %v: %d, want %d of %d", category, of, n, limit, candidates)
	}
	gone := 0
	for at, s := range m.rows {
		if at.stream.Category != category || !outdated(s, of) {
			continue
		}
		if !m.has(t, at) {
			delete(m.rows, at)
			gone++
		}
	}
	if gone != n {
		t.Fatalf("delete outdated of %s, %v: it says %d, and %d are gone", category, of, n, gone)
	}
	m.compare(t, streams...)
}

// has reports whether the store has a snapshot of exactly that version.
func (m *model) has(t *rapid.T, at row) bool {
	found, ok, err := m.store.Load(m.test.Context(), at.stream, nobodys, at.version)
	if err != nil {
		t.Fatal(err)
	}
	return ok && found.Version == at.version
}

func (m *model) compare(t *rapid.T, streams ...eventstore.StreamID) {
	for _, stream := range streams {
		got, err := all(m.test.Context(), m.store, stream)
		if err != nil {
			t.Fatal(err)
		}
		if diff := compare(m.of(stream, func(snapshot.Snapshot) bool { return true }), got); diff != "" {
			t.Fatalf("stored of %s (-want +got):\n%s", stream, diff)
		}
	}
}
