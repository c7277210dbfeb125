package eventstoretest

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

func testRoundTrip(t *testing.T, s Store) {
	id := uuid.New()
	// Bytes come back as they went in: spaces, order, large numbers, duplicate members.
	data := json.RawMessage(`{ "b": 1.50, "a": 12345678901234567890, "b": "č – 💰 \\u0000 \ud83d\udcb0 \u00e9" }`)
	before := time.Now().Add(-time.Minute)
	receipt := mustAppend(t, s, stream("a-b-c"), eventstore.NoStream,
		eventstore.Draft{ID: id, Type: "thing.made", Schema: 3, Data: data}, draft(2))
	got := collect(t, s.Read(t.Context(), stream("a-b-c"), eventstore.ReadOptions{}))
	if len(got) != 2 {
		t.Fatalf("got %d events, want 2", len(got))
	}
	want := eventstore.Raw{
		ID: id, Type: "thing.made", Schema: 3, Stream: stream("a-b-c"), Version: 1,
		Position: got[0].Position, RecordedAt: got[0].RecordedAt, Data: data,
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("first event (-want +got):\n%s", diff)
	}
	if got[0].RecordedAt.Before(before) || got[0].RecordedAt.Location() != time.UTC {
		t.Errorf("recorded at %v: want about now, in UTC", got[0].RecordedAt)
	}
	if got[1].ID == uuid.Nil || got[1].Schema != 1 {
		t.Errorf("id %v, schema %d: want a generated id and schema 1", got[1].ID, got[1].Schema)
	}
	if want := (eventstore.Receipt{Version: 2, Position: got[1].Position}); receipt != want {
		t.Errorf("receipt %+v, want %+v", receipt, want)
	}
}

func testMetadata(t *testing.T, s Store) {
	ctx := eventstore.WithMetadata(t.Context(), eventstore.Metadata{CorrelationID: "request-1", Actor: "alice"})
	ctx = eventstore.WithMetadata(ctx, eventstore.Metadata{Actor: "bob", Headers: map[string]string{"ip": "::1"}})
	own := draft(1)
	own.Metadata = eventstore.Metadata{CorrelationID: "own", CausationID: "cause", TraceParent: "00-1-2-01"}
	if _, err := s.Append(ctx, stream("a"), eventstore.Any, own, draft(2)); err != nil {
		t.Fatal(err)
	}
	var got []eventstore.Metadata
	for _, event := range collect(t, s.Read(t.Context(), stream("a"), eventstore.ReadOptions{})) {
		got = append(got, event.Metadata)
	}
	headers := map[string]string{"ip": "::1"}
	want := []eventstore.Metadata{
		{CorrelationID: "own", CausationID: "cause", Actor: "bob", TraceParent: "00-1-2-01", Headers: headers},
		{CorrelationID: "request-1", Actor: "bob", Headers: headers},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}

func testExpectedVersion(t *testing.T, s Store) {
	mustAppend(t, s, stream("two"), eventstore.NoStream, drafts(2)...)
	for _, test := range []struct {
		key      string
		expected eventstore.Version
		actual   eventstore.Version
		ok       bool
	}{
		{"two", 2, 2, true},
		{"two", 3, 3, true},
		{"two", eventstore.NoStream, 4, false},
		{"two", 3, 4, false},
		{"two", 5, 4, false}, // in the future
		{"two", eventstore.Any, 4, true},
		{"two", eventstore.Exists, 5, true},
		{"none", eventstore.Exists, 0, false},
		{"none", 1, 0, false},
		{"none", eventstore.Any, 0, true},
		{"other", eventstore.NoStream, 0, true},
		{"Two", eventstore.NoStream, 0, true}, // case matters
	} {
		receipt, err := s.Append(t.Context(), stream(test.key), test.expected, draft(0))
		if test.ok {
			if err != nil || receipt.Version != test.actual+1 {
				t.Errorf("%s expecting %v: version %d, %v; want %d", test.key, test.expected, receipt.Version, err, test.actual+1)
			}
			continue
		}
		var conflict *eventstore.ConflictError
		if !errors.As(err, &conflict) || !errors.Is(err, eventstore.ErrConflict) {
			t.Errorf("%s expecting %v: %v, want a conflict", test.key, test.expected, err)
			continue
		}
		want := eventstore.ConflictError{Stream: stream(test.key), Expected: test.expected, Actual: test.actual}
		if *conflict != want {
			t.Errorf("conflict %+v, want %+v", *conflict, want)
		}
	}
	if n := len(collect(t, s.Read(t.Context(), stream("two"), eventstore.ReadOptions{}))); n != 6 {
		t.Errorf("%d events in the stream, want 6: a refused append stored something", n)
	}
}

func testCommitIsAtomic(t *testing.T, s Store) {
	mustAppend(t, s, stream("b"), eventstore.NoStream, draft(1))
	end, _ := s.Tidemark(t.Context())
	_, err := s.Commit(t.Context(),
		eventstore.Change{Stream: stream("a"), Expected: eventstore.NoStream, Events: drafts(3)},
		eventstore.Change{Stream: stream("b"), Expected: eventstore.NoStream, Events: drafts(1)},
		eventstore.Change{Stream: stream("c"), Expected: eventstore.Any, Events: drafts(1)})
	var conflict *eventstore.ConflictError
	if !errors.As(err, &conflict) || conflict.Stream != stream("b") {
		t.Errorf("commit: %v, want a conflict in %s", err, stream("b"))
	}
	if got := collect(t, s.ReadAll(t.Context(), end, eventstore.Filter{})); len(got) != 0 {
		t.Errorf("a refused commit stored %d events", len(got))
	}
}

func testCommitOrder(t *testing.T, s Store) {
	mustAppend(t, s, stream("b"), eventstore.NoStream, draft(0))
	receipts, err := s.Commit(t.Context(),
		eventstore.Change{Stream: stream("z"), Expected: eventstore.NoStream, Events: drafts(2)},
		eventstore.Change{Stream: stream("b"), Expected: 1, Events: drafts(3)},
		eventstore.Change{Stream: stream("a"), Expected: eventstore.Any, Events: drafts(1)})
	if err != nil {
		t.Fatal(err)
	}
	type place struct {
		Stream  string
		Version eventstore.Version
	}
	var got []place
	last := make(map[string]eventstore.Receipt)
	for _, event := range collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{})) {
		got = append(got, place{event.Stream.Key, event.Version})
		last[event.Stream.Key] = eventstore.Receipt{Version: event.Version, Position: event.Position}
	}
	want := []place{{"b", 1}, {"z", 1}, {"z", 2}, {"b", 2}, {"b", 3}, {"b", 4}, {"a", 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]eventstore.Receipt{last["z"], last["b"], last["a"]}, receipts); diff != "" {
		t.Errorf("receipts (-want +got):\n%s", diff)
	}
}

func testInvalidArguments(t *testing.T, s Store) {
	payload := func(data string) []eventstore.Draft {
		return []eventstore.Draft{draft(1), {Type: "thing.happened", Data: json.RawMessage(data)}}
	}
	long := strings.Repeat("x", 251)
	ok := func(key string) eventstore.Change {
		return eventstore.Change{Stream: stream(key), Expected: eventstore.Any, Events: drafts(1)}
	}
	with := func(change func(*eventstore.Change)) eventstore.Change {
		c := ok("a")
		change(&c)
		return c
	}
	for name, changes := range map[string][]eventstore.Change{
		"no changes":           {},
		"no events":            {{Stream: stream("a"), Expected: eventstore.Any}},
		"no stream":            {with(func(c *eventstore.Change) { c.Stream = eventstore.StreamID{} })},
		"no category":          {with(func(c *eventstore.Change) { c.Stream.Category = "" })},
		"no key":               {with(func(c *eventstore.Change) { c.Stream.Key = "" })},
		"dash in category":     {with(func(c *eventstore.Change) { c.Stream.Category = "a-b" })},
		"long stream":          {with(func(c *eventstore.Change) { c.Stream.Key = long })},
		"NUL in stream":        {with(func(c *eventstore.Change) { c.Stream.Key = "a\x00b" })},
		"stream not UTF-8":     {with(func(c *eventstore.Change) { c.Stream.Key = "a\xff" })},
		"expected below all":   {with(func(c *eventstore.Change) { c.Expected = -3 })},
		"stream twice":         {ok("a"), ok("b"), ok("a")},
		"one of two bad":       {ok("a"), {Stream: stream("b"), Expected: eventstore.Any}},
		"no type":              {with(func(c *eventstore.Change) { c.Events[0].Type = "" })},
		"long type":            {with(func(c *eventstore.Change) { c.Events[0].Type = long })},
		"negative schema":      {with(func(c *eventstore.Change) { c.Events[0].Schema = -1 })},
		"schema too high":      {with(func(c *eventstore.Change) { c.Events[0].Schema = 1 << 15 })},
		"no payload":           {with(func(c *eventstore.Change) { c.Events = payload("") })},
		"not JSON":             {with(func(c *eventstore.Change) { c.Events = payload(`{"a":`) })},
		"two values":           {with(func(c *eventstore.Change) { c.Events = payload(`{} {}`) })},
		"NUL in payload":       {with(func(c *eventstore.Change) { c.Events = payload(`{"a":"\u0000"}`) })},
		"NUL behind backslash": {with(func(c *eventstore.Change) { c.Events = payload(`{"a":"\\\u0000"}`) })},
		"half a surrogate":     {with(func(c *eventstore.Change) { c.Events = payload(`{"a":"\ud800 \udc00"}`) })},
		"metadata not UTF-8":   {with(func(c *eventstore.Change) { c.Events[0].Metadata.Headers = map[string]string{"a": "\xff"} })},
		"payload not UTF-8":    {with(func(c *eventstore.Change) { c.Events = payload("\"\xff\"") })},
		"10 MB payload":        {with(func(c *eventstore.Change) { c.Events = payload(`"` + strings.Repeat("x", 10<<20) + `"`) })},
		"NUL in metadata":      {with(func(c *eventstore.Change) { c.Events[0].Metadata.Actor = "\x00" })},
	} {
		_, err := s.Commit(t.Context(), changes...)
		var bad *eventstore.InvalidError
		if !errors.As(err, &bad) || !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("%s: %v, want an InvalidError", name, err)
		}
	}
	for _, name := range []string{"", long, "\xff", "a\x00"} {
		ctx := eventstore.WithKey(t.Context(), name, nil)
		_, commitErr := s.Commit(ctx, ok("a"))
		_, _, storedErr := s.Receipts(ctx)
		if !errors.Is(commitErr, eventstore.ErrInvalid) || !errors.Is(storedErr, eventstore.ErrInvalid) {
			t.Errorf("idempotency key %.10q: commit %v, stored %v; want ErrInvalid", name, commitErr, storedErr)
		}
	}
	for name, events := range map[string]iter.Seq2[eventstore.Raw, error]{
		"read malformed stream":    s.Read(t.Context(), eventstore.StreamID{}, eventstore.ReadOptions{}),
		"read negative version":    s.Read(t.Context(), stream("a"), eventstore.ReadOptions{After: -1}),
		"read through a negative":  s.Read(t.Context(), stream("a"), eventstore.ReadOptions{Through: -1}),
		"read negative limit":      s.Read(t.Context(), stream("a"), eventstore.ReadOptions{Limit: -1}),
		"read log after negative":  s.ReadAll(t.Context(), -1, eventstore.Filter{}),
		"follow log from negative": s.Follow(t.Context(), -1, eventstore.Filter{}),
		"read as of the year 0":    s.Read(t.Context(), stream("a"), eventstore.ReadOptions{AsOf: time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)}),
		"filter by no type":        s.ReadAll(t.Context(), 0, eventstore.Filter{Types: []string{""}}),
		"filter by a bad category": s.ReadAllBackwards(t.Context(), 0, eventstore.Filter{Categories: []string{"a-b"}}),
		"filter by no stream":      s.Follow(t.Context(), 0, eventstore.Filter{Streams: []eventstore.StreamID{{}}}),
	} {
		pairs := 0
		for _, err := range events {
			pairs++
			if !errors.Is(err, eventstore.ErrInvalid) {
				t.Errorf("%s: %v, want ErrInvalid", name, err)
			}
		}
		if pairs != 1 {
			t.Errorf("%s: %d pairs, want the error alone", name, pairs)
		}
	}
	if end, err := s.Tidemark(t.Context()); end != 0 || err != nil {
		t.Errorf("tidemark %d, %v: something was stored", end, err)
	}
}

func testLargestEvent(t *testing.T, s Store) {
	data := []byte(`"` + strings.Repeat("x", eventstore.DefaultMaxEventBytes-2) + `"`)
	mustAppend(t, s, stream("a"), eventstore.NoStream, eventstore.Draft{Type: "large", Data: data})
	got := collect(t, s.Read(t.Context(), stream("a"), eventstore.ReadOptions{}))
	if len(got) != 1 || string(got[0].Data) != string(data) {
		t.Error("the largest payload did not come back as it went in")
	}
}

func testKey(t *testing.T, s Store) {
	attempt := func() context.Context { return eventstore.WithKey(t.Context(), "order-7", []byte("deposit 5")) }
	ctx := attempt()
	if _, ok, err := s.Receipts(ctx); ok || err != nil {
		t.Errorf("before: stored %v, %v", ok, err)
	}
	if _, err := s.Append(ctx, stream("a"), 3, draft(1)); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("%v, want a conflict", err)
	}
	if _, ok, _ := s.Receipts(ctx); ok {
		t.Error("a refused append used up the key")
	}
	changes := []eventstore.Change{
		{Stream: stream("z"), Expected: eventstore.NoStream, Events: drafts(2)},
		{Stream: stream("a"), Expected: eventstore.Any, Events: drafts(1)},
	}
	first, err := s.Commit(ctx, changes...)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, stream("a"), 1, draft(2)) // a repeat still gets the first receipts
	again, err := s.Commit(attempt(), changes...)
	if diff := cmp.Diff(first, again); diff != "" || err != nil {
		t.Errorf("repeated: %v (-want +got):\n%s", err, diff)
	}
	found, ok, err := s.Receipts(ctx)
	if diff := cmp.Diff(first, found); diff != "" || !ok || err != nil {
		t.Errorf("stored: %v, %v (-want +got):\n%s", ok, err, diff)
	}
	other := eventstore.WithKey(t.Context(), "order-7", []byte("deposit 6"))
	_, _, storedErr := s.Receipts(other)
	_, commitErr := s.Commit(other, changes...)
	for _, err := range []error{storedErr, commitErr} {
		var reused *eventstore.KeyReusedError
		if !errors.As(err, &reused) || reused.Key != "order-7" || !errors.Is(err, eventstore.ErrKeyReused) {
			t.Errorf("other content: %v, want a KeyReusedError", err)
		}
	}
	if _, err := s.Commit(attempt(), changes[0]); !errors.Is(err, eventstore.ErrKeyReused) {
		t.Errorf("a commit of one change under the key of two: %v, want ErrKeyReused", err)
	}
	if n := len(collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{}))); n != 4 {
		t.Errorf("%d events, want 4", n)
	}
}

// testRepeatByID: an append of the same event ids at the same expected version gets the receipts of the first time.
// No other append does.
func testRepeatByID(t *testing.T, s Store) {
	drafts := func() []eventstore.Draft {
		return []eventstore.Draft{{ID: uuid.New(), Type: "a", Data: []byte(`1`)}, {ID: uuid.New(), Type: "a", Data: []byte(`2`)}}
	}
	mustAppend(t, s, stream("a"), eventstore.NoStream, draft(1))
	events := drafts()
	first, err := s.Append(t.Context(), stream("a"), 1, events...)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, stream("a"), 3, draft(1))
	for range 2 {
		again, err := s.Append(t.Context(), stream("a"), 1, events...)
		if err != nil || again != first {
			t.Errorf("repeated: %+v, %v, want %+v", again, err, first)
		}
	}
	for name, attempt := range map[string]func() error{
		"other ids": func() error { _, err := s.Append(t.Context(), stream("a"), 1, drafts()...); return err },
		"fewer":     func() error { _, err := s.Append(t.Context(), stream("a"), 2, events[0]); return err },
		"more": func() error {
			_, err := s.Append(t.Context(), stream("a"), 1, append(events, draft(1))...)
			return err
		},
		"other version":  func() error { _, err := s.Append(t.Context(), stream("a"), 0, events...); return err },
		"other order":    func() error { _, err := s.Append(t.Context(), stream("a"), 1, events[1], events[0]); return err },
		"another stream": func() error { _, err := s.Append(t.Context(), stream("b"), 1, events...); return err },
		"one of two": func() error {
			_, err := s.Commit(t.Context(), eventstore.Change{Stream: stream("a"), Expected: 1, Events: events},
				eventstore.Change{Stream: stream("c"), Expected: 0, Events: drafts()})
			return err
		},
	} {
		if err := attempt(); !errors.Is(err, eventstore.ErrConflict) {
			t.Errorf("%s: %v, want a conflict", name, err)
		}
	}
	two := []eventstore.Change{{Stream: stream("d"), Expected: 0, Events: drafts()}, {Stream: stream("e"), Expected: 0, Events: drafts()[:1]}}
	both, err := s.Commit(t.Context(), two...)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Commit(eventstore.WithKey(t.Context(), "new key", nil), two...)
	if err != nil || again[0] != both[0] || again[1] != both[1] {
		t.Errorf("a commit of two repeated: %+v, %v, want %+v", again, err, both)
	}
}
