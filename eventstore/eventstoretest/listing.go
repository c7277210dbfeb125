package eventstoretest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidemark-es/tidemark/eventstore"
)

func testBackwards(t *testing.T, s Store) {
	var log []eventstore.Raw
	for i := range 12 {
		mustAppend(t, s, stream([]string{"a", "b", "c"}[i%3]), eventstore.Any, draft(i))
	}
	log = collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{}))
	positions := func(events []eventstore.Raw) (all []eventstore.Position) {
		for _, event := range events {
			all = append(all, event.Position)
		}
		return all
	}
	for _, test := range []struct {
		before eventstore.Position
		filter eventstore.Filter
	}{
		{0, eventstore.Filter{}},
		{1, eventstore.Filter{}},
		{log[7].Position, eventstore.Filter{}},
		{log[11].Position + 1000, eventstore.Filter{}},
		{0, eventstore.Filter{Streams: []eventstore.StreamID{stream("b"), stream("none")}}},
		{log[9].Position, eventstore.Filter{Streams: []eventstore.StreamID{stream("a"), stream("b")}, Types: []string{"thing.happened"}}},
		{0, eventstore.Filter{Types: []string{"other"}}},
	} {
		var want []eventstore.Position
		for i := len(log) - 1; i >= 0; i-- {
			if (test.before == 0 || log[i].Position < test.before) && test.filter.Match(log[i]) {
				want = append(want, log[i].Position)
			}
		}
		got := positions(collect(t, s.ReadAllBackwards(t.Context(), test.before, test.filter)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("backwards before %d, %+v (-want +got):\n%s", test.before, test.filter, diff)
		}
	}
	only := eventstore.Filter{Streams: []eventstore.StreamID{stream("c")}}
	if got := collect(t, s.ReadAll(t.Context(), 0, only)); len(got) != 4 || got[0].Stream != stream("c") {
		t.Errorf("of one stream: %d events", len(got))
	}
	for range s.ReadAllBackwards(t.Context(), 0, eventstore.Filter{}) {
		break
	}
	for _, err := range s.ReadAllBackwards(t.Context(), -1, eventstore.Filter{}) {
		if !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("before a negative position: %v, want ErrInvalid", err)
		}
	}
}

func testAsOf(t *testing.T, s Store) {
	mustAppend(t, s, stream("before"), eventstore.NoStream, draft(0)) // so that no position is 0
	for i := range 5 {
		mustAppend(t, s, stream("a"), eventstore.Version(i), draft(i))
		mustAppend(t, s, stream("between"), eventstore.Any, draft(i))
	}
	all := collect(t, s.Read(t.Context(), stream("a"), eventstore.ReadOptions{}))
	for _, event := range all { // also when two were recorded in the same microsecond
		want := 0
		for want < len(all) && !all[want].RecordedAt.After(event.RecordedAt) {
			want++
		}
		got := collect(t, s.Read(t.Context(), stream("a"), eventstore.ReadOptions{AsOf: event.RecordedAt}))
		if diff := cmp.Diff(all[:want], got); diff != "" {
			t.Errorf("as of version %d (-want +got):\n%s", event.Version, diff)
		}
	}
	for name, test := range map[string]struct {
		options eventstore.ReadOptions
		want    int
	}{
		"before the first":     {eventstore.ReadOptions{AsOf: all[0].RecordedAt.Add(-time.Microsecond)}, 0},
		"long after":           {eventstore.ReadOptions{AsOf: all[4].RecordedAt.Add(time.Hour)}, 5},
		"with another bound":   {eventstore.ReadOptions{AsOf: all[4].RecordedAt, To: 2}, 2},
		"in another time zone": {eventstore.ReadOptions{AsOf: all[4].RecordedAt.In(time.FixedZone("", 3600))}, 5},
		"through the third":    {eventstore.ReadOptions{Through: all[2].Position}, 3},
		"before the first one": {eventstore.ReadOptions{Through: all[0].Position - 1, Limit: 1}, 0},
		"between two":          {eventstore.ReadOptions{Through: all[3].Position - 1}, 3},
		"far away":             {eventstore.ReadOptions{Through: all[4].Position + 100}, 5},
		"both":                 {eventstore.ReadOptions{Through: all[3].Position, AsOf: all[4].RecordedAt.Add(time.Hour), After: 1}, 3},
		"backwards, limited":   {eventstore.ReadOptions{AsOf: all[4].RecordedAt, Backwards: true, Limit: 2}, 2},
	} {
		if got := collect(t, s.Read(t.Context(), stream("a"), test.options)); len(got) != test.want {
			t.Errorf("%s: %d events, want %d", name, len(got), test.want)
		}
	}
}

// testCause follows a request through the events that it leads to.
func testCause(t *testing.T, s Store) {
	request := eventstore.WithMetadata(t.Context(), eventstore.Metadata{
		CorrelationID: "request-7", Actor: "alice", TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
	})
	appendIn := func(key string, ctx func() (eventstore.Receipt, error)) eventstore.Raw {
		t.Helper()
		receipt, err := ctx()
		if err != nil {
			t.Fatal(err)
		}
		return collect(t, s.Read(t.Context(), stream(key), eventstore.ReadOptions{After: receipt.Version - 1}))[0]
	}
	first := appendIn("order", func() (eventstore.Receipt, error) {
		return s.Append(request, stream("order"), eventstore.NoStream, draft(1))
	})
	mustAppend(t, s, stream("unrelated"), eventstore.Any, draft(1))
	second := appendIn("payment", func() (eventstore.Receipt, error) {
		return s.Append(eventstore.WithCause(t.Context(), first), stream("payment"), eventstore.NoStream, draft(2))
	})
	third := appendIn("parcel", func() (eventstore.Receipt, error) {
		return s.Append(eventstore.WithCause(request, second), stream("parcel"), eventstore.NoStream, draft(3))
	})
	want := eventstore.Metadata{CorrelationID: "request-7", CausationID: second.ID.String(), Actor: "alice", TraceParent: first.Metadata.TraceParent, Depth: 2}
	if diff := cmp.Diff(want, third.Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]eventstore.Raw{first, second, third}, collect(t, s.Correlated(t.Context(), "request-7"))); diff != "" {
		t.Errorf("correlated (-want +got):\n%s", diff)
	}
	if got := collect(t, s.Correlated(t.Context(), "request-8")); len(got) != 0 {
		t.Errorf("another correlation has %d events", len(got))
	}
	for _, id := range []string{"", "a\x00b", "a\nb", "\xff", strings.Repeat("a", 251)} {
		var refused error
		for _, err := range s.Correlated(t.Context(), id) {
			refused = err
		}
		if !errors.Is(refused, eventstore.ErrInvalid) {
			t.Errorf("correlation id %q: %v, want ErrInvalid", id, refused)
		}
	}
	// An event without a correlation begins one.
	unrelated := collect(t, s.Read(t.Context(), stream("unrelated"), eventstore.ReadOptions{}))[0]
	after := eventstore.MetadataFrom(eventstore.WithCause(t.Context(), unrelated))
	if after.CorrelationID != unrelated.ID.String() || after.CausationID != unrelated.ID.String() {
		t.Errorf("caused by an event without a correlation: %+v", after)
	}
}

func testStreams(t *testing.T, s Store) {
	ctx := t.Context()
	if info, err := s.Stat(ctx, stream("none")); err != nil || info != (eventstore.StreamInfo{Stream: stream("none")}) {
		t.Errorf("stat of no stream: %+v, %v", info, err)
	}
	if _, err := s.Stat(ctx, eventstore.StreamID{}); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("stat of an invalid stream: %v", err)
	}
	var byName, byActivity []eventstore.StreamID
	for i := range 23 {
		id := eventstore.StreamID{Category: "thing", Key: fmt.Sprintf("%02d", i)}
		byName = append(byName, id)
		mustAppend(t, s, id, eventstore.NoStream, drafts(1+i%3)...)
	}
	mustAppend(t, s, eventstore.StreamID{Category: "thin", Key: "x"}, eventstore.NoStream, draft(1))
	mustAppend(t, s, eventstore.StreamID{Category: "thong", Key: "x"}, eventstore.NoStream, draft(1))
	mustAppend(t, s, byName[4], eventstore.Exists, draft(1))
	for i := range byName {
		if i != 4 {
			byActivity = append([]eventstore.StreamID{byName[i]}, byActivity...)
		}
	}
	byActivity = append([]eventstore.StreamID{byName[4]}, byActivity...)

	for _, limit := range []int{1, 5, 23, 100} {
		var names, recent []eventstore.StreamID
		after := eventstore.StreamID{}
		for page, err := s.Streams(ctx, "thing-", after, limit); len(page) > 0 || err != nil; page, err = s.Streams(ctx, "thing-", after, limit) {
			if err != nil || len(page) > limit {
				t.Fatalf("%d streams of at most %d, %v", len(page), limit, err)
			}
			for _, info := range page {
				names = append(names, info.Stream)
				events := collect(t, s.Read(ctx, info.Stream, eventstore.ReadOptions{}))
				last := events[len(events)-1]
				want := eventstore.StreamInfo{Stream: info.Stream, Version: last.Version, Position: last.Position, FirstAt: events[0].RecordedAt, LastAt: last.RecordedAt}
				if stat, err := s.Stat(ctx, info.Stream); info != want || stat != want || err != nil {
					t.Errorf("listed %+v, stat %+v, %v; want %+v", info, stat, err, want)
				}
			}
			after = page[len(page)-1].Stream
		}
		before := eventstore.Position(0)
		for page, err := s.RecentStreams(ctx, "thing-", before, limit); len(page) > 0 || err != nil; page, err = s.RecentStreams(ctx, "thing-", before, limit) {
			if err != nil || len(page) > limit {
				t.Fatalf("%d streams of at most %d, %v", len(page), limit, err)
			}
			for _, info := range page {
				recent = append(recent, info.Stream)
			}
			before = page[len(page)-1].Position
		}
		if diff := cmp.Diff(byName, names); diff != "" {
			t.Errorf("by name, %d a page (-want +got):\n%s", limit, diff)
		}
		if diff := cmp.Diff(byActivity, recent); diff != "" {
			t.Errorf("by activity, %d a page (-want +got):\n%s", limit, diff)
		}
	}
	for prefix, want := range map[string]int{"": 25, "th": 25, "thin": 24, "thing-1": 10, "x": 0, "thing-%": 0} {
		page, err := s.Streams(ctx, prefix, eventstore.StreamID{}, 100)
		latest, err2 := s.RecentStreams(ctx, prefix, 0, 100)
		if len(page) != want || len(latest) != want || err != nil || err2 != nil {
			t.Errorf("prefix %q: %d by name, %d by activity, %v, %v; want %d", prefix, len(page), len(latest), err, err2, want)
		}
		sorted := cmpopts.SortSlices(func(a, b eventstore.StreamInfo) bool { return a.Position < b.Position })
		if diff := cmp.Diff(page, latest, sorted, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("prefix %q: by name and by activity differ:\n%s", prefix, diff)
		}
	}
	_, noLimit := s.Streams(ctx, "", eventstore.StreamID{}, 0)
	_, badPrefix := s.RecentStreams(ctx, "\x00", 0, 1)
	_, badAfter := s.Streams(ctx, "", eventstore.StreamID{Category: "a"}, 1)
	_, badBefore := s.RecentStreams(ctx, "", -1, 1)
	for i, err := range []error{noLimit, badPrefix, badAfter, badBefore} {
		if !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("invalid list %d: %v, want ErrInvalid", i, err)
		}
	}
}

func testPurgeKeys(t *testing.T, s Store) {
	attempt := func() context.Context { return eventstore.WithKey(t.Context(), "key", nil) }
	first, err := s.Append(attempt(), stream("a"), eventstore.Any, draft(1))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.PurgeKeys(t.Context(), time.Hour); n != 0 || err != nil {
		t.Errorf("older than an hour: %d purged, %v", n, err)
	}
	if again, err := s.Append(attempt(), stream("a"), eventstore.Any, draft(1)); again != first || err != nil {
		t.Errorf("repeated: %+v, %v", again, err)
	}
	if n, err := s.PurgeKeys(t.Context(), 0); n != 1 || err != nil {
		t.Errorf("of any age: %d purged, %v", n, err)
	}
	if again, err := s.Append(attempt(), stream("a"), eventstore.Any, draft(1)); again.Version != 2 || err != nil {
		t.Errorf("repeated after the purge: %+v, %v; want it stored again", again, err)
	}
	if _, err := s.PurgeKeys(t.Context(), -1); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("negative age: %v, want ErrInvalid", err)
	}
}
