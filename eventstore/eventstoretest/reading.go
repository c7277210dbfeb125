package eventstoretest

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/eventstore"
)

func testReadOptions(t *testing.T, s Store) {
	mustAppend(t, s, stream("a"), eventstore.NoStream, drafts(5)...)
	mustAppend(t, s, stream("b"), eventstore.NoStream, drafts(2)...)
	type versions []eventstore.Version
	for _, test := range []struct {
		key     string
		options eventstore.ReadOptions
		want    versions
	}{
		{"a", eventstore.ReadOptions{}, versions{1, 2, 3, 4, 5}},
		{"a", eventstore.ReadOptions{After: 3}, versions{4, 5}},
		{"a", eventstore.ReadOptions{After: 9}, nil},
		{"a", eventstore.ReadOptions{To: 2}, versions{1, 2}},
		{"a", eventstore.ReadOptions{After: 1, To: 3}, versions{2, 3}},
		{"a", eventstore.ReadOptions{Limit: 2}, versions{1, 2}},
		{"a", eventstore.ReadOptions{After: 1, Limit: 3}, versions{2, 3, 4}},
		{"none", eventstore.ReadOptions{}, nil},
	} {
		var got versions
		for _, event := range collect(t, s.Read(t.Context(), stream(test.key), test.options)) {
			got = append(got, event.Version)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s %+v (-want +got):\n%s", test.key, test.options, diff)
		}
	}
	for range s.Read(t.Context(), stream("a"), eventstore.ReadOptions{}) {
		break // the break must not panic, nor leave anything open
	}
}

func testReadAll(t *testing.T, s Store) {
	if got := collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{})); len(got) != 0 {
		t.Errorf("an empty log has %d events", len(got))
	}
	var positions []eventstore.Position
	for i := range 20 {
		id := eventstore.StreamID{Category: []string{"cat", "dog"}[i%2], Key: "x"}
		event := eventstore.Draft{Type: []string{"ate", "slept", "ran"}[i%3], Data: json.RawMessage(`{}`)}
		positions = append(positions, mustAppend(t, s, id, eventstore.Any, event).Position)
	}
	for _, test := range []struct {
		after  eventstore.Position
		filter eventstore.Filter
		match  func(i int) bool
	}{
		{0, eventstore.Filter{}, func(int) bool { return true }},
		{positions[6], eventstore.Filter{}, func(i int) bool { return i > 6 }},
		{positions[19], eventstore.Filter{}, func(int) bool { return false }},
		{0, eventstore.Filter{Types: []string{"ate"}}, func(i int) bool { return i%3 == 0 }},
		{0, eventstore.Filter{Types: []string{"ate", "ran"}}, func(i int) bool { return i%3 != 1 }},
		{0, eventstore.Filter{Types: []string{"flew"}}, func(int) bool { return false }},
		{0, eventstore.Filter{Categories: []string{"dog"}}, func(i int) bool { return i%2 == 1 }},
		{0, eventstore.Filter{Categories: []string{"do"}}, func(int) bool { return false }},
		{positions[3], eventstore.Filter{Categories: []string{"cat"}, Types: []string{"ran"}}, func(i int) bool { return i > 3 && i%2 == 0 && i%3 == 2 }},
	} {
		var got, want []eventstore.Position
		for _, event := range collect(t, s.ReadAll(t.Context(), test.after, test.filter)) {
			got = append(got, event.Position)
		}
		for i, position := range positions {
			if test.match(i) {
				want = append(want, position)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("after %d %+v (-want +got):\n%s", test.after, test.filter, diff)
		}
	}
	for range s.ReadAll(t.Context(), 0, eventstore.Filter{}) {
		break
	}
}

func testFollow(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mustAppend(t, s, stream("a"), eventstore.NoStream, drafts(3)...)
	var versions []eventstore.Version
	var last error
	for event, err := range s.Follow(ctx, 0, eventstore.Filter{}) {
		if err != nil {
			last = err
			continue
		}
		versions = append(versions, event.Version)
		if len(versions) < 6 { // appended from within the loop: no connection is held
			if len(versions) >= 3 {
				mustAppend(t, s, stream("a"), event.Version, draft(0))
			}
			continue
		}
		cancel()
	}
	if diff := cmp.Diff([]eventstore.Version{1, 2, 3, 4, 5, 6}, versions); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("it ended with %v, want context.Canceled", last)
	}
}

func testNext(t *testing.T, s Store) {
	end := mustAppend(t, s, stream("a"), eventstore.NoStream, drafts(5)...).Position
	page, err := s.Next(t.Context(), eventstore.After(0), eventstore.Filter{}, 2)
	if err != nil || len(page.Events) != 2 || page.Through != page.Events[1].Position {
		t.Errorf("limited page: %+v, %v", page, err)
	}
	page, err = s.Next(t.Context(), eventstore.After(0), eventstore.Filter{Types: []string{"other"}}, 2)
	if err != nil || len(page.Events) != 0 || page.Through != end {
		t.Errorf("a page that matches nothing: %d events through %d, %v; want none through %d", len(page.Events), page.Through, err, end)
	}
	for _, limit := range []int{-1, 0, 100_001} {
		if _, err := s.Next(t.Context(), eventstore.After(0), eventstore.Filter{}, limit); !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("limit %d: %v, want ErrInvalid", limit, err)
		}
	}
	got := make(chan eventstore.Page, 1)
	go func() {
		page, _ := s.Next(t.Context(), eventstore.After(end), eventstore.Filter{}, 2)
		got <- page
	}()
	mustAppend(t, s, stream("b"), eventstore.NoStream, draft(1))
	if page := <-got; len(page.Events) != 1 || page.Events[0].Stream != stream("b") {
		t.Errorf("after waiting: %+v", page)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Next(ctx, eventstore.After(end+1000), eventstore.Filter{}, 2); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing came: %v, want context.DeadlineExceeded", err)
	}
}
