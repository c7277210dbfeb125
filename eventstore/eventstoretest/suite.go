package eventstoretest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Store is what the suite tests: the methods of [eventstore.Store] that need no Postgres.
type Store interface {
	Append(context.Context, eventstore.StreamID, eventstore.Version, ...eventstore.Draft) (eventstore.Receipt, error)
	Commit(context.Context, ...eventstore.Change) ([]eventstore.Receipt, error)
	Stored(context.Context) ([]eventstore.Receipt, bool, error)
	Read(context.Context, eventstore.StreamID, eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error]
	ReadAll(context.Context, eventstore.Position, eventstore.Filter) iter.Seq2[eventstore.Raw, error]
	Follow(context.Context, eventstore.Position, eventstore.Filter) iter.Seq2[eventstore.Raw, error]
	Next(context.Context, eventstore.Position, eventstore.Filter, int) (eventstore.Page, error)
	Tidemark(context.Context) (eventstore.Position, error)
}

// Run tests that a store keeps the contract of package eventstore. newStore returns a fresh,
// empty store for one test and frees it with t.Cleanup.
func Run(t *testing.T, newStore func(t *testing.T) Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"Metadata", testMetadata},
		{"ExpectedVersion", testExpectedVersion},
		{"CommitIsAtomic", testCommitIsAtomic},
		{"CommitOrder", testCommitOrder},
		{"InvalidArguments", testInvalidArguments},
		{"LargestEvent", testLargestEvent},
		{"ReadOptions", testReadOptions},
		{"ReadAll", testReadAll},
		{"Follow", testFollow},
		{"Next", testNext},
		{"Key", testKey},
		{"KeyConcurrent", testKeyConcurrent},
		{"OneWinner", testOneWinner},
		{"AnyQueues", testAnyQueues},
		{"CrossingCommits", testCrossingCommits},
		{"FollowersSeeAll", testFollowersSeeAll},
		{"Model", testModel},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newStore(t))
		})
	}
}

func stream(key string) eventstore.StreamID {
	return eventstore.StreamID{Category: "thing", Key: key}
}

func draft(n int) eventstore.Draft {
	return eventstore.Draft{Type: "thing.happened", Data: fmt.Appendf(nil, `{"n":%d}`, n)}
}

func drafts(n int) []eventstore.Draft {
	all := make([]eventstore.Draft, n)
	for i := range all {
		all[i] = draft(i + 1)
	}
	return all
}

func mustAppend(t *testing.T, s Store, id eventstore.StreamID, expected eventstore.Version, events ...eventstore.Draft) eventstore.Receipt {
	t.Helper()
	receipt, err := s.Append(t.Context(), id, expected, events...)
	if err != nil {
		t.Fatalf("append to %s: %v", id, err)
	}
	return receipt
}

func collect(t *testing.T, events iter.Seq2[eventstore.Raw, error]) []eventstore.Raw {
	t.Helper()
	var all []eventstore.Raw
	for event, err := range events {
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		all = append(all, event)
	}
	return all
}

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
	for _, name := range []string{"", long} {
		if _, err := s.Commit(eventstore.WithKey(t.Context(), name, nil), ok("a")); !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("idempotency key of %d bytes: %v, want ErrInvalid", len(name), err)
		}
	}
	for name, events := range map[string]iter.Seq2[eventstore.Raw, error]{
		"read malformed stream":    s.Read(t.Context(), eventstore.StreamID{}, eventstore.ReadOptions{}),
		"read negative version":    s.Read(t.Context(), stream("a"), eventstore.ReadOptions{After: -1}),
		"read negative limit":      s.Read(t.Context(), stream("a"), eventstore.ReadOptions{Limit: -1}),
		"read log after negative":  s.ReadAll(t.Context(), -1, eventstore.Filter{}),
		"follow log from negative": s.Follow(t.Context(), -1, eventstore.Filter{}),
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
		break // must not panic, nor keep anything open
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
	page, err := s.Next(t.Context(), 0, eventstore.Filter{}, 2)
	if err != nil || len(page.Events) != 2 || page.Through != page.Events[1].Position {
		t.Errorf("limited page: %+v, %v", page, err)
	}
	page, err = s.Next(t.Context(), 0, eventstore.Filter{Types: []string{"other"}}, 2)
	if err != nil || len(page.Events) != 0 || page.Through != end {
		t.Errorf("a page that matches nothing: %d events through %d, %v; want none through %d", len(page.Events), page.Through, err, end)
	}
	if _, err := s.Next(t.Context(), 0, eventstore.Filter{}, 0); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("limit 0: %v, want ErrInvalid", err)
	}
	got := make(chan eventstore.Page, 1)
	go func() {
		page, _ := s.Next(t.Context(), end, eventstore.Filter{}, 2)
		got <- page
	}()
	mustAppend(t, s, stream("b"), eventstore.NoStream, draft(1))
	if page := <-got; len(page.Events) != 1 || page.Events[0].Stream != stream("b") {
		t.Errorf("after waiting: %+v", page)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Next(ctx, end+1000, eventstore.Filter{}, 2); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing came: %v, want context.DeadlineExceeded", err)
	}
}

func testKey(t *testing.T, s Store) {
	ctx := eventstore.WithKey(t.Context(), "order-7", []byte("deposit 5"))
	if _, ok, err := s.Stored(ctx); ok || err != nil {
		t.Errorf("before: stored %v, %v", ok, err)
	}
	if _, err := s.Append(ctx, stream("a"), 3, draft(1)); !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("%v, want a conflict", err)
	}
	if _, ok, _ := s.Stored(ctx); ok {
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
	mustAppend(t, s, stream("a"), 1, draft(2)) // the answer stays that of the first call
	again, err := s.Commit(ctx, changes...)
	if diff := cmp.Diff(first, again); diff != "" || err != nil {
		t.Errorf("repeated: %v (-want +got):\n%s", err, diff)
	}
	found, ok, err := s.Stored(ctx)
	if diff := cmp.Diff(first, found); diff != "" || !ok || err != nil {
		t.Errorf("stored: %v, %v (-want +got):\n%s", ok, err, diff)
	}
	other := eventstore.WithKey(t.Context(), "order-7", []byte("deposit 6"))
	_, _, storedErr := s.Stored(other)
	_, commitErr := s.Commit(other, changes...)
	for _, err := range []error{storedErr, commitErr} {
		var reused *eventstore.KeyReusedError
		if !errors.As(err, &reused) || reused.Key != "order-7" || !errors.Is(err, eventstore.ErrKeyReused) {
			t.Errorf("other content: %v, want a KeyReusedError", err)
		}
	}
	if n := len(collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{}))); n != 4 {
		t.Errorf("%d events, want 4", n)
	}
}

func testKeyConcurrent(t *testing.T, s Store) {
	ctx := eventstore.WithKey(t.Context(), "once", nil)
	receipts := make([]eventstore.Receipt, 16)
	var wg sync.WaitGroup
	for i := range receipts {
		wg.Go(func() {
			var err error
			if receipts[i], err = s.Append(ctx, stream("a"), eventstore.Any, draft(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(collect(t, s.Read(t.Context(), stream("a"), eventstore.ReadOptions{}))); n != 1 {
		t.Errorf("stored %d times", n)
	}
	for _, receipt := range receipts {
		if receipt != receipts[0] || receipt.Version != 1 {
			t.Errorf("receipts differ: %v", receipts)
			break
		}
	}
}

func testOneWinner(t *testing.T, s Store) {
	for round := range eventstore.Version(20) {
		var mu sync.Mutex
		won := 0
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := s.Append(t.Context(), stream("hot"), round, draft(int(round)))
				var conflict *eventstore.ConflictError
				switch {
				case err == nil:
					mu.Lock()
					won++
					mu.Unlock()
				case !errors.As(err, &conflict):
					t.Errorf("loser: %v, want a conflict", err)
				case conflict.Actual != round+1:
					t.Errorf("loser: %v, want the actual version %d", err, round+1)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Fatalf("round %d: %d appends succeeded, want 1", round, won)
		}
	}
}

func testAnyQueues(t *testing.T, s Store) {
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := s.Append(t.Context(), stream("hot"), eventstore.Any, drafts(2)...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	checkLog(t, collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{})), writers*each*2)
}

// testCrossingCommits changes the same streams in opposite orders, which must not deadlock.
func testCrossingCommits(t *testing.T, s Store) {
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			names := []string{"a", "b", "c"}
			for range each {
				expected := []eventstore.Version{eventstore.Any, eventstore.Any, eventstore.Any}
				if w%4 == 0 { // some know the versions
					for i := range names {
						expected[i] = eventstore.Version(len(collect(t, s.Read(t.Context(), stream(names[i]), eventstore.ReadOptions{}))))
					}
				}
				var changes []eventstore.Change
				for i := range names {
					n := (i*(1+w%2) + w) % 3
					changes = append(changes, eventstore.Change{Stream: stream(names[n]), Expected: expected[n], Events: drafts(1)})
				}
				if _, err := s.Commit(t.Context(), changes...); err != nil && (w%4 != 0 || !errors.Is(err, eventstore.ErrConflict)) {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
	checkLog(t, collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{})), -1)
}

// checkLog checks that positions increase, that each stream's versions are 1, 2, 3 … in the
// order of positions, and how many events there are, unless want is negative.
func checkLog(t *testing.T, log []eventstore.Raw, want int) {
	t.Helper()
	if want >= 0 && len(log) != want {
		t.Errorf("%d events, want %d", len(log), want)
	}
	at := make(map[eventstore.StreamID]eventstore.Version)
	last := eventstore.Position(0)
	for _, event := range log {
		if event.Position <= last {
			t.Errorf("position %d comes after %d", event.Position, last)
		}
		last = event.Position
		if at[event.Stream]++; event.Version != at[event.Stream] {
			t.Fatalf("stream %s: version %d at position %d, want version %d", event.Stream, event.Version, event.Position, at[event.Stream])
		}
	}
}

// testFollowersSeeAll lets followers run beside writers and compares what they saw.
func testFollowersSeeAll(t *testing.T, s Store) {
	const writers, each, followers = 8, 25, 3
	var wg sync.WaitGroup
	seen := make([][]eventstore.Raw, followers)
	for f := range followers {
		wg.Go(func() {
			for event, err := range s.Follow(t.Context(), 0, eventstore.Filter{}) {
				if err != nil {
					t.Error(err)
					return
				}
				if seen[f] = append(seen[f], event); len(seen[f]) == writers*each {
					return
				}
			}
		})
	}
	for w := range writers {
		wg.Go(func() {
			for n := range eventstore.Version(each) {
				mustAppend(t, s, stream(fmt.Sprint(w)), n, draft(int(n)))
			}
		})
	}
	wg.Wait()
	log := collect(t, s.ReadAll(t.Context(), 0, eventstore.Filter{}))
	checkLog(t, log, writers*each)
	for f := range followers {
		if diff := cmp.Diff(log, seen[f], cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("follower %d saw another log (-want +got):\n%s", f, diff)
		}
	}
}
