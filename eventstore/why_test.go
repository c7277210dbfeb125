package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// idOf returns a UUIDv7 that was made at a time.
func idOf(at time.Time) (id uuid.UUID) {
	id = uuid.Must(uuid.NewV7())
	ms := at.UnixMilli()
	for n := range 6 {
		id[n] = byte(ms >> (40 - 8*n))
	}
	return id
}

// TestEvent: an event is found by the time in its id, wherever it is in the log, even if the id was made some time
// before the event was stored.
func TestEvent(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Event(t.Context(), uuid.Must(uuid.NewV7())); !errors.Is(err, eventstore.ErrNotFound) {
		t.Errorf("in an empty log: %v, want ErrNotFound", err)
	}
	// The events of the log are seven seconds apart, and cover almost ten hours.
	const events = 5000
	began := time.Now().Add(-10 * time.Hour).Truncate(time.Millisecond)
	ids := make([]uuid.UUID, events)
	texts, times := make([]string, events), make([]time.Time, events)
	for n := range events {
		at := began.Add(time.Duration(n) * 7 * time.Second)
		ids[n] = idOf(at.Add(-time.Duration(rand.IntN(1500)) * time.Millisecond))
		texts[n], times[n] = ids[n].String(), at
	}
	ids[100] = idOf(times[100].Add(-50 * time.Minute)) // made long before it was stored
	ids[200] = idOf(times[200].Add(3 * time.Minute))   // by a clock that is ahead
	ids[300] = idOf(times[300].Add(-3 * time.Hour))
	texts[100], texts[200], texts[300] = ids[100].String(), ids[200].String(), ids[300].String()
	if _, err := pool.Exec(t.Context(), `
		insert into tidemark.events (position, stream, version, id, type, schema, recorded_at, data)
		select 3 * n, 'note-a', n, id::uuid, 'noted', 1, at, '{}'
		  from unnest($1::text[], $2::timestamptz[]) with ordinality e (id, at, n)`, texts, times); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 100, 200, 250, 499, 2500, 4321, events - 2, events - 1} {
		if e, err := store.Event(t.Context(), ids[n]); err != nil || e.Position != eventstore.Position(3*(n+1)) {
			t.Errorf("event %d: position %d, %v; want %d", n, e.Position, err, 3*(n+1))
		}
	}
	if _, err := store.Event(t.Context(), ids[300]); !errors.Is(err, eventstore.ErrNotFound) {
		t.Errorf("an id that is three hours off: %v, want ErrNotFound", err)
	}
	if _, err := store.Event(t.Context(), uuid.New()); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("an id without a time: %v, want ErrInvalid", err)
	}
}

// TestWhy: Why finds the causes and the effects of an event in all streams, from the metadata that WithCause sets.
func TestWhy(t *testing.T) {
	t.Parallel()
	store, err := eventstore.New(pgtest.Pool(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(ctx context.Context, key string) eventstore.Raw {
		t.Helper()
		receipt, err := store.Append(ctx, stream(key), eventstore.Any, draft(1))
		if err != nil {
			t.Fatal(err)
		}
		events, err := store.EventsAt(t.Context(), receipt.Position)
		if err != nil || len(events) != 1 {
			t.Fatal(events, err)
		}
		return events[0]
	}
	by := func(e eventstore.Raw) context.Context { return eventstore.WithCause(t.Context(), e) }
	root := put(t.Context(), "root")
	put(t.Context(), "unrelated")
	left, right := put(by(root), "left"), put(by(root), "right")
	leaf := put(by(left), "leaf")
	put(by(right), "other")
	put(by(leaf), "end")

	text := func(why eventstore.Causation) string {
		var causes []string
		for _, c := range why.Causes {
			causes = append(causes, c.Stream.Key)
		}
		var tree func([]eventstore.Causation) string
		tree = func(all []eventstore.Causation) string {
			var texts []string
			for _, e := range all {
				texts = append(texts, e.Event.Stream.Key+tree(e.Effects))
			}
			if len(texts) == 0 {
				return ""
			}
			return "(" + strings.Join(texts, " ") + ")"
		}
		return fmt.Sprint(causes, " ", why.Event.Stream.Key, tree(why.Effects))
	}
	for _, c := range []struct {
		of   eventstore.Raw
		want string
	}{
		{root, "[] root(left(leaf(end)) right(other))"},
		{left, "[root] left(leaf(end))"},
		{leaf, "[root left] leaf(end)"},
		{right, "[root] right(other)"},
	} {
		why, err := store.Why(t.Context(), c.of.ID)
		if err != nil || why.Cut || text(why) != c.want {
			t.Errorf("why %s: %s, %v; want %s", c.of.Stream, text(why), err, c.want)
		}
	}
	if leaf.Metadata.Depth != 2 {
		t.Errorf("the leaf has depth %d, want 2", leaf.Metadata.Depth)
	}
	if _, err := store.Why(t.Context(), uuid.Must(uuid.NewV7())); !errors.Is(err, eventstore.ErrNotFound) {
		t.Errorf("of no event: %v, want ErrNotFound", err)
	}
}

// TestWhyInACircle: nothing prevents events from naming each other as causes. Why returns each of them once.
func TestWhyInACircle(t *testing.T) {
	t.Parallel()
	store, err := eventstore.New(pgtest.Pool(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, b := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	for _, e := range []struct{ id, cause uuid.UUID }{{a, b}, {b, a}, {a, b}} {
		d := draft(1)
		d.ID, d.Metadata = e.id, eventstore.Metadata{CorrelationID: "circle", CausationID: e.cause.String()}
		if _, err := store.Append(t.Context(), stream("a"), eventstore.Any, d); err != nil {
			t.Fatal(err)
		}
	}
	why, err := store.Why(t.Context(), a)
	if err != nil || why.Event.Position != 1 || len(why.Causes) != 1 || len(why.Effects) != 1 || len(why.Effects[0].Effects) != 1 {
		t.Errorf("%+v, %v; want one cause and one effect of the first event", why, err)
	}
}

// TestPath: events say which service appended them, how many events led to them, and through which services.
func TestPath(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	ctx := t.Context()
	var last eventstore.Raw
	for n, service := range []string{"shop", "shop", "bank", "", "shop"} {
		store, err := eventstore.New(pool, &eventstore.Config{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		receipt, err := store.Append(ctx, stream(fmt.Sprint(n)), eventstore.NoStream, draft(1))
		if err != nil {
			t.Fatal(err)
		}
		events, err := store.EventsAt(t.Context(), receipt.Position)
		if err != nil {
			t.Fatal(err)
		}
		last = events[0]
		ctx = eventstore.WithCause(ctx, last)
	}
	if m := last.Metadata; m.Source != "shop" || m.Depth != 4 || fmt.Sprint(m.Hops) != "[shop bank]" {
		t.Errorf("source %q, depth %d, hops %v; want shop, 4, [shop bank]", m.Source, m.Depth, m.Hops)
	}
	long := last
	for n := range 50 {
		long.Metadata.Source = fmt.Sprint("s", n)
		long.Metadata = eventstore.MetadataFrom(eventstore.WithCause(t.Context(), long))
	}
	if m := long.Metadata; len(m.Hops) != 32 || m.Hops[31] != "s49" || m.Depth != 54 {
		t.Errorf("after 50 services: %d hops up to %v, depth %d; want the last 32", len(m.Hops), m.Hops, m.Depth)
	}
	if _, err := eventstore.New(pool, &eventstore.Config{Service: "a\nb"}); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("a service with a line break: %v, want ErrInvalid", err)
	}
}

// TestCheck: Config.Check gets the events as they would be stored. After it has refused a commit, nothing of the commit
// is stored.
func TestCheck(t *testing.T) {
	t.Parallel()
	refused := errors.New("not today")
	pool := pgtest.Pool(t)
	store, err := eventstore.New(pool, &eventstore.Config{Service: "shop", Check: func(_ context.Context, changes []eventstore.Change) error {
		for _, c := range changes {
			for _, e := range c.Events {
				if e.ID == uuid.Nil || e.Schema != 1 || e.Metadata.Source != "shop" {
					t.Errorf("the check is given %+v, not what is to be stored", e)
				}
			}
			if c.Stream.Key == "bad" {
				return refused
			}
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	good, bad := eventstore.Change{Stream: stream("good"), Events: []eventstore.Draft{draft(1)}}, eventstore.Change{Stream: stream("bad"), Events: []eventstore.Draft{draft(1)}}
	if _, err := store.Commit(t.Context(), good, bad); !errors.Is(err, refused) {
		t.Errorf("%v, want the error of the check", err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := store.WithTx(tx).Commit(t.Context(), bad); !errors.Is(err, refused) {
		t.Errorf("in a transaction: %v, want the error of the check", err)
	}
	ctx := eventstore.WithKey(t.Context(), "k", nil)
	if _, err := store.Commit(ctx, bad); !errors.Is(err, refused) {
		t.Errorf("under a key: %v, want the error of the check", err)
	}
	if _, err := store.Commit(ctx, good); err != nil {
		t.Errorf("the key of a commit that was refused: %v, want it to be free", err)
	}
	if end, err := store.Tidemark(t.Context()); err != nil || end != 1 {
		t.Errorf("the log ends at %d, %v; want the good event alone", end, err)
	}
}

// TestSteps: code that commits several times for one request gives each commit a step. A repeat of the request stores
// no commit twice.
func TestSteps(t *testing.T) {
	t.Parallel()
	store, err := eventstore.New(pgtest.Pool(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	change := func(key string) eventstore.Change {
		return eventstore.Change{Stream: stream(key), Expected: eventstore.Any, Events: []eventstore.Draft{draft(1)}}
	}
	for _, name := range []string{"request", strings.Repeat("ü", 125)} {
		var first [3]eventstore.Receipt
		for attempt := range 3 {
			ctx := eventstore.WithKey(t.Context(), name, []byte("content"))
			steps := []context.Context{ctx, eventstore.WithStep(ctx, "mail"), eventstore.WithStep(ctx, "audit")}
			for n, ctx := range steps {
				receipts, err := store.Commit(ctx, change("a"))
				if err != nil {
					t.Fatalf("%.10s, step %d: %v", name, n, err)
				}
				if attempt == 0 {
					first[n] = receipts[0]
				}
				if receipts[0] != first[n] {
					t.Errorf("%.10s, attempt %d, step %d: %+v, want %+v", name, attempt, n, receipts[0], first[n])
				}
			}
			if first[0] == first[1] || first[1] == first[2] {
				t.Errorf("%.10s: two steps have one receipt: %+v", name, first)
			}
			if _, err := store.Commit(eventstore.WithStep(ctx, "mail"), change("b")); !errors.Is(err, eventstore.ErrKeySpent) {
				t.Errorf("%.10s: a second commit of one step: %v, want ErrKeySpent", name, err)
			}
		}
		other := eventstore.WithStep(eventstore.WithKey(t.Context(), name, []byte("other")), "mail")
		if _, err := store.Commit(other, change("a")); !errors.Is(err, eventstore.ErrKeyReused) {
			t.Errorf("%.10s: a step of another request: %v, want ErrKeyReused", name, err)
		}
	}
	if ctx := t.Context(); eventstore.WithStep(ctx, "mail") != ctx {
		t.Error("a step without a key is a key")
	}
	once := func() ([]eventstore.Receipt, error) {
		return store.CommitOnce(t.Context(), "explicit", nil, change("c"))
	}
	one, err := once()
	if err != nil {
		t.Fatal(err)
	}
	if two, err := once(); err != nil || two[0] != one[0] {
		t.Errorf("CommitOnce again: %+v, %v; want %+v", two, err, one)
	}
}
