package eventstoretest

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/eventstore"
)

func (m *model) collect(t *rapid.T, events iter.Seq2[eventstore.Raw, error]) (all []eventstore.Raw) {
	for event, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, event)
	}
	return all
}

// same fails the history if got and want differ.
func same[T any](t *rapid.T, what string, asked any, got, want []T) {
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%s, %+v (-want +got):\n%s", what, asked, diff)
	}
}

// atMost returns the first limit elements.
func atMost[T any](all []T, limit int) []T { return all[:min(limit, len(all))] }

func (m *model) read(t *rapid.T) {
	id := m.stream(t)
	all := m.of(id)
	options := eventstore.ReadOptions{
		After:     eventstore.Version(rapid.IntRange(0, len(all)+1).Draw(t, "after")),
		To:        eventstore.Version(rapid.IntRange(0, len(all)+1).Draw(t, "to")),
		Limit:     rapid.IntRange(0, 5).Draw(t, "limit"),
		Backwards: rapid.Bool().Draw(t, "backwards"),
	}
	if len(m.log) > 0 && rapid.Bool().Draw(t, "as of a time") {
		of := rapid.SampledFrom(m.log).Draw(t, "as of").RecordedAt
		options.AsOf = of.Add(rapid.SampledFrom([]time.Duration{0, -time.Microsecond, time.Hour}).Draw(t, "and"))
		for len(all) > 0 && all[len(all)-1].RecordedAt.After(options.AsOf) {
			all = all[:len(all)-1]
		}
	}
	if rapid.Bool().Draw(t, "through a position") {
		options.Through = m.position(t)
	}
	var want []eventstore.Raw
	for _, event := range all {
		if options.Through > 0 && event.Position > options.Through {
			break
		}
		if event.Version > options.After && (options.To == 0 || event.Version <= options.To) {
			want = append(want, event)
		}
	}
	if options.Backwards {
		slices.Reverse(want)
	}
	if options.Limit > 0 {
		want = atMost(want, options.Limit)
	}
	same(t, "read "+id.String(), options, m.collect(t, m.store.Read(m.ctx, id, options)), want)
}

// position draws the position of an event in the log, or the start of the history.
func (m *model) position(t *rapid.T) eventstore.Position {
	if n := rapid.IntRange(0, len(m.log)).Draw(t, "position"); n > 0 {
		return m.log[n-1].Position
	}
	return m.start
}

// filter draws a filter, with none or some of each condition.
func (m *model) filter(t *rapid.T) (f eventstore.Filter) {
	if rapid.Bool().Draw(t, "by type") {
		f.Types = rapid.SliceOfN(rapid.SampledFrom(append(modelTypes[:len(modelTypes):len(modelTypes)], "no.type")), 1, 2).Draw(t, "types")
	}
	if rapid.Bool().Draw(t, "by category") {
		for _, category := range rapid.SliceOfN(rapid.SampledFrom(modelCategories), 1, 2).Draw(t, "categories") {
			f.Categories = append(f.Categories, m.prefix+category)
		}
	}
	if rapid.Bool().Draw(t, "by stream") {
		for range rapid.IntRange(1, 3).Draw(t, "streams") {
			f.Streams = append(f.Streams, m.stream(t))
		}
	}
	return f
}

// after returns the events after a position that the filter selects.
func (m *model) after(position eventstore.Position, filter eventstore.Filter) []eventstore.Raw {
	return m.selected(func(event eventstore.Raw) bool { return event.Position > position && filter.Match(event) })
}

func (m *model) readAll(t *rapid.T) {
	after, filter := m.position(t), m.filter(t)
	same(t, "the log", filter, m.collect(t, m.store.ReadAll(m.ctx, after, filter)), m.after(after, filter))
}

func (m *model) readAllBackwards(t *rapid.T) {
	before, filter := m.position(t), m.filter(t)
	if before == m.start {
		before = 0 // from the end
	}
	want := m.selected(func(event eventstore.Raw) bool {
		return (before == 0 || event.Position < before) && filter.Match(event)
	})
	slices.Reverse(want)
	var got []eventstore.Raw
	for event, err := range m.store.ReadAllBackwards(m.ctx, before, filter) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Position <= m.start {
			break // of an earlier history
		}
		got = append(got, event)
	}
	same(t, "the log backwards", filter, got, want)
}

func (m *model) correlated(t *rapid.T) {
	id := m.prefix + rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "correlation")
	want := m.selected(func(event eventstore.Raw) bool { return event.Metadata.CorrelationID == id })
	same(t, "correlated", id, m.collect(t, m.store.Correlated(m.ctx, id)), want)
}

func (m *model) next(t *rapid.T) {
	after, filter, limit := m.position(t), m.filter(t), rapid.IntRange(1, 5).Draw(t, "limit")
	if after == m.end() {
		t.Skip("it would wait")
	}
	page, err := m.store.Next(m.ctx, eventstore.After(after), filter, limit)
	if err != nil {
		t.Fatal(err)
	}
	isStored := func(event eventstore.Raw) bool { return event.Position == page.Through }
	if page.Through <= after || len(page.Events) > limit || !slices.ContainsFunc(m.log, isStored) {
		t.Fatalf("the page after %d reaches %d and has %d events of at most %d", after, page.Through, len(page.Events), limit)
	}
	if page.More != (page.Through < m.end()) {
		t.Fatalf("the page after %d reaches %d of %d and says that there is more: %t", after, page.Through, m.end(), page.More)
	}
	want := m.after(after, filter)
	want = slices.DeleteFunc(want, func(event eventstore.Raw) bool { return event.Position > page.Through })
	same(t, "the page", filter, page.Events, want)
}

func (m *model) follow(t *rapid.T) {
	after, filter := m.position(t), m.filter(t)
	want := m.after(after, filter)
	if len(want) == 0 {
		t.Skip("it would wait")
	}
	var got []eventstore.Raw
	for event, err := range m.store.Follow(m.ctx, after, filter) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, event); len(got) == len(want) {
			break
		}
	}
	same(t, "followed", filter, got, want)
}

// infos returns the info of each stream whose name starts with a prefix.
func (m *model) infos(prefix string) (infos []eventstore.StreamInfo) {
	for _, event := range m.log {
		if !strings.HasPrefix(event.Stream.String(), prefix) {
			continue
		}
		if event.Version == 1 {
			infos = append(infos, eventstore.StreamInfo{Stream: event.Stream, FirstAt: event.RecordedAt})
		}
		i := slices.IndexFunc(infos, func(info eventstore.StreamInfo) bool { return info.Stream == event.Stream })
		infos[i].Version, infos[i].Position, infos[i].LastAt = event.Version, event.Position, event.RecordedAt
	}
	return infos
}

func (m *model) stat(t *rapid.T) {
	id := m.stream(t)
	want := []eventstore.StreamInfo{{Stream: id}}
	if known := m.infos(id.String()); len(known) > 0 {
		want = known
	}
	got, err := m.store.Stat(m.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "stat", id, []eventstore.StreamInfo{got}, want)
	if end, err := m.store.Tidemark(m.ctx); end != m.end() || err != nil {
		t.Fatalf("tidemark %d, %v; want %d", end, err, m.end())
	}
}

// some draws the arguments of a list.
func (m *model) some(t *rapid.T) (prefix string, limit int) {
	return m.prefix + rapid.SampledFrom([]string{"", "", "a", "b-", "b-2", "c"}).Draw(t, "prefix"), rapid.IntRange(1, 5).Draw(t, "limit")
}

func (m *model) streams(t *rapid.T) {
	prefix, limit := m.some(t)
	var after eventstore.StreamID
	if rapid.Bool().Draw(t, "from the middle") {
		after = m.stream(t) // a stream that may have no event
	}
	want := slices.DeleteFunc(m.infos(prefix), func(info eventstore.StreamInfo) bool {
		return after != eventstore.StreamID{} && info.Stream.String() <= after.String()
	})
	slices.SortFunc(want, func(a, b eventstore.StreamInfo) int { return strings.Compare(a.Stream.String(), b.Stream.String()) })
	got, err := m.store.Streams(m.ctx, prefix, after, limit)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "streams "+prefix, after, got, atMost(want, limit))
}

func (m *model) recentStreams(t *rapid.T) {
	prefix, limit := m.some(t)
	before := eventstore.Position(0)
	if rapid.Bool().Draw(t, "from the middle") {
		before = m.position(t)
	}
	want := slices.DeleteFunc(m.infos(prefix), func(info eventstore.StreamInfo) bool {
		return before > 0 && info.Position >= before
	})
	slices.SortFunc(want, func(a, b eventstore.StreamInfo) int { return cmp.Compare(b.Position, a.Position) })
	got, err := m.store.RecentStreams(m.ctx, prefix, before, limit)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "recent streams "+prefix, before, got, atMost(want, limit))
}
