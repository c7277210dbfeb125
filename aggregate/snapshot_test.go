package aggregate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/snapshot"
)

type repository = aggregate.Repository[counter, event]

// counting counts the events that are read.
type counting struct {
	aggregate.Store
	events, reads atomic.Int64
}

func (c *counting) Read(ctx context.Context, stream eventstore.StreamID, options eventstore.ReadOptions) iter.Seq2[eventstore.Raw, error] {
	c.reads.Add(1)
	return func(yield func(eventstore.Raw, error) bool) {
		for event, err := range c.Store.Read(ctx, stream, options) {
			c.events.Add(1)
			if !yield(event, err) {
				return
			}
		}
	}
}

// since returns how many events were read since the last call, and in how many reads.
func (c *counting) since() (events, reads int) {
	return int(c.events.Swap(0)), int(c.reads.Swap(0))
}

// kept is an event store and a snapshot store.
type kept struct {
	events    *counting
	snapshots snapshot.Store
	pool      *pgxpool.Pool // nil in memory
}

// eachKept runs a test over both implementations.
func eachKept(t *testing.T, retention snapshot.Retention, run func(*testing.T, kept)) {
	t.Helper()
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		pool := pgtest.Pool(t)
		events, err := eventstore.New(pool, nil)
		if err != nil {
			t.Fatal(err)
		}
		snapshots, err := snapshot.NewPostgres(pool, &snapshot.PostgresConfig{Retention: retention})
		if err != nil {
			t.Fatal(err)
		}
		run(t, kept{&counting{Store: events}, snapshots, pool})
	})
	t.Run("memory", func(t *testing.T) {
		snapshots, err := snapshot.NewMemory(retention)
		if err != nil {
			t.Fatal(err)
		}
		run(t, kept{&counting{Store: eventstoretest.NewMemory()}, snapshots, nil})
	})
}

// repository returns a repository with a snapshotter of its own, which logs into the buffer.
func (k kept) repository(t *testing.T, config snapshot.Config, cache int) (*repository, *snapshot.Snapshotter, *logged) {
	t.Helper()
	return k.over(t, k.events, config, cache)
}

// over is repository with a store of its own.
func (k kept) over(t *testing.T, events aggregate.Store, config snapshot.Config, cache int) (*repository, *snapshot.Snapshotter, *logged) {
	t.Helper()
	log := &logged{}
	config.Logger = slog.New(slog.NewTextHandler(log, nil))
	snapshots := made(snapshot.NewSnapshotter(k.snapshots, &config))
	t.Cleanup(snapshots.Close)
	return made(aggregate.NewRepository(events, counters, &aggregate.Config{
		MaxAttempts: 1000, MaxDelay: 5 * time.Millisecond, Snapshots: snapshots, CacheSize: cache,
	})), snapshots, log
}

// logged collects the log.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) contains(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// grow appends to a counter until it is at a version.
func grow(t *testing.T, repo *repository, key string, to eventstore.Version) {
	t.Helper()
	receipt, err := repo.Update(t.Context(), key, limit(1_000_000))
	for err == nil && receipt.Version < to {
		receipt, err = repo.Update(t.Context(), key, add(1))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// checkLoad loads a counter and compares it with the state that is folded from all its events.
func checkLoad(t testing.TB, k kept, repo *repository, key string) *aggregate.Loaded[counter, event] {
	t.Helper()
	plain, err := made(aggregate.NewRepository(k.events.Store, counters, nil)).Load(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := repo.Load(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if *loaded.State != *plain.State || loaded.Version != plain.Version || loaded.Position != plain.Position {
		t.Errorf("loaded %+v at %d, %d; want %+v at %d, %d", *loaded.State, loaded.Version, loaded.Position, *plain.State, plain.Version, plain.Position)
	}
	return loaded
}

// saved returns the latest snapshot of a counter.
func saved(t *testing.T, k kept, key string) (snapshot.Snapshot, bool) {
	t.Helper()
	found, ok, err := k.snapshots.Load(t.Context(), counters.Stream(key), counters.SnapshotKind(), 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	return found, ok
}

// TestSnapshotIsUsed: loading reads the events after the snapshot, and the one it was taken after.
func TestSnapshotIsUsed(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		repo, snapshots, _ := k.repository(t, snapshot.Config{Sync: true}, 0)
		grow(t, repo, "a", 250)
		last, ok := saved(t, k, "a")
		if !ok || last.Version != 200 {
			t.Fatalf("the latest snapshot is of version %d, want 200", last.Version)
		}
		k.events.since()
		if loaded, err := repo.Load(t.Context(), "a"); err != nil || loaded.State.Value != 249 || loaded.Version != 250 {
			t.Errorf("loaded %+v, %v", loaded, err)
		}
		if events, _ := k.events.since(); events != 51 {
			t.Errorf("%d events read, want 51", events)
		}
		checkLoad(t, k, repo, "a")
		if stats := snapshots.Stats(); stats.Saved != 2 || stats.Used == 0 || stats.Failed+stats.Bad+stats.Dropped > 0 {
			t.Errorf("stats %+v, want 2 saved", stats)
		}
	})
}

// TestSnapshotLater: by default snapshots are saved in the background, and Close waits for them.
func TestSnapshotLater(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		for _, cache := range []int{0, 10} {
			key := fmt.Sprint("cache", cache)
			repo, snapshots, _ := k.repository(t, snapshot.Config{Policy: snapshot.Every(10)}, cache)
			grow(t, repo, key, 95)
			snapshots.Close()
			if last, ok := saved(t, k, key); !ok || last.Version < 85 || last.Version > 95 {
				t.Errorf("cache of %d: the latest snapshot is of version %d, %t; want one of the last 10", cache, last.Version, ok)
			}
			checkLoad(t, k, repo, key)
		}
	})
}

// TestLoadTakesSnapshot: a stream that another repository has filled gets its snapshot when it is loaded.
func TestLoadTakesSnapshot(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		grow(t, made(aggregate.NewRepository(k.events, counters, nil)), "a", 30)
		repo, _, _ := k.repository(t, snapshot.Config{Sync: true, Policy: snapshot.LoadedMoreThan(29)}, 0)
		checkLoad(t, k, repo, "a").State.Value = -1 // the state belongs to the caller
		if last, ok := saved(t, k, "a"); !ok || last.Version != 30 {
			t.Errorf("the snapshot is of version %d, %t; want 30", last.Version, ok)
		}
		checkLoad(t, k, repo, "a")

		later, snapshots, _ := k.repository(t, snapshot.Config{Policy: snapshot.Every(1)}, 0)
		grow(t, made(aggregate.NewRepository(k.events, counters, nil)), "a", 31)
		checkLoad(t, k, later, "a").State.Value = -1 // while the snapshot waits in the queue
		snapshots.Flush()
		if last, ok := saved(t, k, "a"); !ok || last.Version != 31 {
			t.Errorf("the snapshot is of version %d, %t; want 31", last.Version, ok)
		}
		checkLoad(t, k, later, "a")
	})
}

// TestSnapshotOnType: the snapshot of a chosen event is of exactly that version.
func TestSnapshotOnType(t *testing.T) {
	eachKept(t, snapshot.Retention{Latest: 9}, func(t *testing.T, k kept) {
		for _, cache := range []int{0, 10} {
			key := fmt.Sprint("cache", cache)
			repo, _, _ := k.repository(t, snapshot.Config{Sync: true, Policy: snapshot.On("limited")}, cache)
			for i, decide := range []func(*counter) ([]event, error){limit(5), add(1), add(1), limit(7), add(1)} {
				if _, err := repo.Update(t.Context(), key, decide); err != nil {
					t.Fatalf("%d: %v", i, err)
				}
			}
			if last, ok := saved(t, k, key); !ok || last.Version != 4 {
				t.Errorf("cache of %d: the snapshot is of version %d, want 4", cache, last.Version)
			}
		}
	})
}

// TestBadSnapshots: whatever is wrong with a snapshot, the aggregate loads from its events, and a good snapshot
// replaces the bad one.
func TestBadSnapshots(t *testing.T) {
	kind := counters.SnapshotKind()
	for name, test := range map[string]struct {
		spoil    func(*snapshot.Snapshot)
		log      string
		outdated bool // counted as outdated and not as bad
	}{
		"corrupt":            {spoil: func(s *snapshot.Snapshot) { s.Data = []byte(`{"Value":`) }, log: "does not decode"},
		"empty":              {spoil: func(s *snapshot.Snapshot) { s.Data = nil }, log: "does not decode"},
		"ahead":              {spoil: func(s *snapshot.Snapshot) { s.Version, s.EventID = 500, uuid.New() }, log: "ahead"},
		"of another history": {spoil: func(s *snapshot.Snapshot) { s.EventID = uuid.New() }, log: "another history"},
		"of another event":   {spoil: func(s *snapshot.Snapshot) { s.Version-- }, log: "another history"},
		"of another type":    {spoil: func(s *snapshot.Snapshot) { s.Kind.Type = "order" }, log: "order"},
		"of an older schema": {spoil: func(s *snapshot.Snapshot) { s.Kind.Schema-- }, outdated: true},
		"of another shape":   {spoil: func(s *snapshot.Snapshot) { s.Kind.Shape = "0123456789abcdef" }, outdated: true},
	} {
		t.Run(name, func(t *testing.T) {
			eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
				newer := counters.WithSchema(kind.Schema + 1)
				log := &logged{}
				snapshots := made(snapshot.NewSnapshotter(k.snapshots, &snapshot.Config{
					Sync: true, Policy: snapshot.Every(10), Logger: slog.New(slog.NewTextHandler(log, nil)),
				}))
				repo := made(aggregate.NewRepository(k.events, newer, &aggregate.Config{Snapshots: snapshots}))
				grow(t, repo, "a", 15)
				good, ok, err := k.snapshots.Load(t.Context(), newer.Stream("a"), newer.SnapshotKind(), 1<<40)
				if err != nil || !ok || good.Version != 10 {
					t.Fatalf("snapshot of version %d, %t, %v", good.Version, ok, err)
				}
				if err := k.snapshots.Delete(t.Context(), good.Stream, good.Version); err != nil {
					t.Fatal(err)
				}
				bad := good
				bad.Data = []byte(`{"Value":999,"Limit":999}`) // must not be seen
				test.spoil(&bad)
				if err := k.snapshots.Save(t.Context(), bad); err != nil {
					t.Fatal(err)
				}
				before := snapshots.Stats()
				checkLoad(t, k, repo, "a")
				stats := snapshots.Stats()
				if got, want := stats.Bad-before.Bad, int64(1); (got == want) == test.outdated {
					t.Errorf("%d bad snapshots counted", got)
				}
				if got, want := stats.Outdated-before.Outdated, int64(1); (got == want) != test.outdated {
					t.Errorf("%d outdated snapshots counted", got)
				}
				if test.log != "" && !log.contains(test.log) {
					t.Errorf("nothing is logged that says %q:\n%s", test.log, &log.text)
				}
				grow(t, repo, "a", 30)
				now, ok, err := k.snapshots.Load(t.Context(), newer.Stream("a"), newer.SnapshotKind(), 1<<40)
				if err != nil || !ok || now.Kind != newer.SnapshotKind() || now.Version > 30 {
					t.Errorf("in its place is version %d of %+v, %t, %v", now.Version, now.Kind, ok, err)
				}
				k.events.since()
				checkLoad(t, k, repo, "a")
				if events, _ := k.events.since(); events > 11 {
					t.Errorf("%d events read: the snapshot in its place is not used", events)
				}
				if again := snapshots.Stats(); again.Bad != stats.Bad {
					t.Errorf("a bad snapshot was found again: %+v", again)
				}
			})
		})
	}
}

// TestTwoReleases: while two releases run side by side, each has its own snapshots. When one release has ended, its
// snapshots are deleted.
func TestTwoReleases(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		newer := counters.WithSchema(2)
		snapshots := made(snapshot.NewSnapshotter(k.snapshots, &snapshot.Config{Sync: true, Policy: snapshot.Every(10)}))
		next := made(aggregate.NewRepository(k.events, newer, &aggregate.Config{Snapshots: snapshots}))
		old, oldSnapshots, _ := k.repository(t, snapshot.Config{Sync: true, Policy: snapshot.Every(10)}, 0)
		for version := eventstore.Version(3); version < 100; version += 6 {
			grow(t, old, "a", version)
			grow(t, next, "a", version+3)
		}
		is := func(definition *aggregate.Definition[counter, event]) bool {
			t.Helper()
			found, ok, err := k.snapshots.Load(t.Context(), counters.Stream("a"), definition.SnapshotKind(), 1<<40)
			if err != nil {
				t.Fatal(err)
			}
			return ok && found.Kind == definition.SnapshotKind()
		}
		for _, stats := range []snapshot.Stats{snapshots.Stats(), oldSnapshots.Stats()} {
			if stats.Bad > 0 || stats.Used < 10*stats.Outdated {
				t.Errorf("stats %+v, want nearly all loads to use a snapshot", stats)
			}
		}
		if !is(counters) || !is(newer) {
			t.Errorf("there is one of the old release: %t, of the new one: %t; want both", is(counters), is(newer))
		}
		grow(t, next, "a", 140)
		if is(counters) || !is(newer) {
			t.Errorf("there is one of the old release: %t, of the new one: %t; want the latter", is(counters), is(newer))
		}
		checkLoad(t, k, old, "a")
	})
}

// failing is a snapshot store that fails.
type failing struct{ snapshot.Store }

var errBroken = errors.New("broken")

func (failing) Load(context.Context, eventstore.StreamID, snapshot.Kind, eventstore.Version) (snapshot.Snapshot, bool, error) {
	return snapshot.Snapshot{}, false, errBroken
}
func (failing) Save(context.Context, ...snapshot.Snapshot) error { return errBroken }

// TestFailingSnapshots: no command fails because a snapshot store or an encoding fails.
func TestFailingSnapshots(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		broken := k
		broken.snapshots = failing{}
		own := func(encode func(*counter) ([]byte, error)) *aggregate.Definition[counter, event] {
			return counters.WithEncoding(encode, func([]byte) (*counter, error) { panic("no") })
		}
		for name, test := range map[string]struct {
			k          kept
			definition *aggregate.Definition[counter, event]
		}{
			"store":  {broken, counters},
			"encode": {k, own(func(*counter) ([]byte, error) { return nil, errBroken })},
			"panic":  {k, own(func(*counter) ([]byte, error) { panic("no") })},
			"decode": {k, own(func(c *counter) ([]byte, error) { return json.Marshal(c) })},
		} {
			for _, sync := range []bool{true, false} {
				key := fmt.Sprint(name, sync)
				log := &logged{}
				snapshots := made(snapshot.NewSnapshotter(test.k.snapshots, &snapshot.Config{
					Sync: sync, Policy: snapshot.Every(2), Logger: slog.New(slog.NewTextHandler(log, nil)),
				}))
				repo := made(aggregate.NewRepository(k.events, test.definition, &aggregate.Config{Snapshots: snapshots}))
				grow(t, repo, key, 9)
				snapshots.Flush()
				checkLoad(t, k, repo, key)
				snapshots.Close()
				stats := snapshots.Stats()
				if stats.Failed+stats.Bad == 0 || !log.contains(key) {
					t.Errorf("%s: stats %+v, log:\n%s", key, stats, &log.text)
				}
			}
		}
	})
}

// TestPanicAfterCommit: a panic of the application's policy does not fail an update whose events are stored.
func TestPanicAfterCommit(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		repo, snapshots, log := k.repository(t, snapshot.Config{Policy: func(snapshot.Progress) bool { panic("no") }}, 10)
		grow(t, repo, "a", 3)
		checkLoad(t, k, repo, "a")
		if stats := snapshots.Stats(); stats.Failed == 0 || !log.contains("policy") {
			t.Errorf("stats %+v, log %s", stats, &log.text)
		}
	})
}

// TestDroppedIsDueAgain: a snapshot that was dropped from a full queue is taken with the next event, of whatever type.
func TestDroppedIsDueAgain(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		blocked := blocking{k.snapshots, make(chan struct{})}
		snapshots := made(snapshot.NewSnapshotter(blocked, &snapshot.Config{Policy: snapshot.On("limited"), Queue: 1}))
		t.Cleanup(snapshots.Close)
		repo := made(aggregate.NewRepository(k.events, counters, &aggregate.Config{Snapshots: snapshots, CacheSize: 10}))
		for i := 0; snapshots.Stats().Dropped == 0; i++ {
			grow(t, repo, fmt.Sprint("other", i), 1)
		}
		grow(t, repo, "last", 1) // the queue is full
		close(blocked.gate)
		snapshots.Flush()
		if _, ok := saved(t, k, "last"); ok {
			t.Fatal("it was not dropped")
		}
		if _, err := repo.Update(t.Context(), "last", add(1)); err != nil {
			t.Fatal(err)
		}
		snapshots.Flush()
		if last, ok := saved(t, k, "last"); !ok || last.Version < 2 {
			t.Errorf("the snapshot is of version %d, %t", last.Version, ok)
		}
	})
}

// blocking is a snapshot store that waits until the gate is closed before it saves.
type blocking struct {
	snapshot.Store
	gate chan struct{}
}

func (b blocking) Save(ctx context.Context, snapshots ...snapshot.Snapshot) error {
	select {
	case <-b.gate:
	case <-ctx.Done():
	}
	return b.Store.Save(ctx, snapshots...)
}

// TestSnapshotInTransaction: no snapshot has the events of a transaction before the transaction commits.
func TestSnapshotInTransaction(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	events, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := snapshot.NewMemory(snapshot.Retention{})
	if err != nil {
		t.Fatal(err)
	}
	snapshots := made(snapshot.NewSnapshotter(kept, &snapshot.Config{Sync: true, Policy: snapshot.Every(1)}))
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	repo := made(aggregate.NewRepository(events.WithTx(tx), counters, &aggregate.Config{Snapshots: snapshots, CacheSize: 10}))
	grow(t, repo, "a", 3)
	if _, err := repo.Load(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if stats := snapshots.Stats(); stats.Saved > 0 {
		t.Errorf("stats %+v, want none saved", stats)
	}
}

// TestTwoWritersOfSnapshots: two processes take snapshots of one stream, each of the state that it has.
func TestTwoWritersOfSnapshots(t *testing.T) {
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		first, _, _ := k.repository(t, snapshot.Config{Policy: snapshot.Every(3)}, 10)
		grow(t, first, "a", 1)
		var wg sync.WaitGroup
		for range 2 {
			repo, snapshots, log := k.repository(t, snapshot.Config{Policy: snapshot.Every(3)}, 10)
			wg.Go(func() {
				for range 100 {
					if _, err := repo.Update(t.Context(), "a", add(1)); err != nil {
						t.Error(err)
					}
				}
				snapshots.Close()
				if stats := snapshots.Stats(); stats.Failed+stats.Bad > 0 || stats.Saved == 0 {
					t.Errorf("stats %+v\n%s", stats, &log.text)
				}
			})
		}
		wg.Wait()
		loaded := checkLoad(t, k, first, "a")
		if loaded.State.Value != 200 || loaded.Version != 201 {
			t.Errorf("loaded %+v at %d, want 200 at 201", loaded.State, loaded.Version)
		}
		last, _ := saved(t, k, "a")
		if state, err := counters.DecodeState(last.Data); err != nil || eventstore.Version(state.Value) != last.Version-1 {
			t.Errorf("the snapshot of version %d is %+v, %v", last.Version, state, err)
		}
	})
}

type hidden struct {
	Value   int
	private int
}

func (h *hidden) Apply(event) { h.private++ }

type skipped struct {
	Value int `json:"-"`
}

func (*skipped) Apply(event) {}

type anything struct{ Values []any }

func (*anything) Apply(event) {}

type nested struct {
	At       time.Time
	ID       uuid.UUID
	ByName   map[string][]*nested
	Embedded struct{ hidden }
}

func (*nested) Apply(event) {}

// clock has the MarshalJSON of the embedded time.
type clock struct {
	time.Time
	Value int
}

func (*clock) Apply(event) {}

type way int

func (way) MarshalText() ([]byte, error) { return nil, nil }

type oneWay struct{ Way way }

func (*oneWay) Apply(event) {}

// TestUnfitState: a repository with snapshots refuses a state if JSON would lose a part of it.
func TestUnfitState(t *testing.T) {
	t.Parallel()
	memory, err := snapshot.NewMemory(snapshot.Retention{})
	if err != nil {
		t.Fatal(err)
	}
	config := &aggregate.Config{Snapshots: made(snapshot.NewSnapshotter(memory, nil))}
	for field, open := range map[string]func(){
		"hidden.private": func() {
			made(aggregate.NewRepository(eventstoretest.NewMemory(), aggregate.Define[hidden]("a", counters.Codec()), config))
		},
		"skipped.Value": func() {
			made(aggregate.NewRepository(eventstoretest.NewMemory(), aggregate.Define[skipped]("a", counters.Codec()), config))
		},
		"anything.Values": func() {
			made(aggregate.NewRepository(eventstoretest.NewMemory(), aggregate.Define[anything]("a", counters.Codec()), config))
		},
		"nested.Embedded.hidden.private": func() {
			made(aggregate.NewRepository(eventstoretest.NewMemory(), aggregate.Define[nested]("a", counters.Codec()), config))
		},
		"clock may be written as its embedded field Time": func() {
			made(aggregate.NewRepository(eventstoretest.NewMemory(), aggregate.Define[clock]("a", counters.Codec()), config))
		},
		"oneWay.Way": func() {
			made(aggregate.NewRepository(eventstoretest.NewMemory(), aggregate.Define[oneWay]("a", counters.Codec()), config))
		},
		"CacheSize": func() {
			made(aggregate.NewRepository(eventstoretest.NewMemory(), counters, &aggregate.Config{CacheSize: -1}))
		},
	} {
		func() {
			defer func() {
				if p := fmt.Sprint(recover()); !strings.Contains(p, field) {
					t.Errorf("%s: panic %q", field, p)
				}
			}()
			open()
		}()
	}
	// Without snapshots, or with an encoding of its own, such a state is accepted.
	definition := aggregate.Define[hidden]("a", counters.Codec())
	made(aggregate.NewRepository(eventstoretest.NewMemory(), definition, nil))
	made(aggregate.NewRepository(eventstoretest.NewMemory(), definition.WithEncoding(
		func(h *hidden) ([]byte, error) { return json.Marshal([]int{h.Value, h.private}) },
		func(data []byte) (*hidden, error) { return nil, nil }), config))
}

// TestKindFollowsShape: a state with other fields has another shape. A schema is raised by hand.
func TestKindFollowsShape(t *testing.T) {
	t.Parallel()
	before, after := shapeBefore(t), shapeAfter(t)
	if before.Shape == after.Shape || before.Type != after.Type || before.Schema != after.Schema {
		t.Errorf("before %+v, after %+v: want two shapes", before, after)
	}
	if again := shapeBefore(t); again != before {
		t.Errorf("%+v, then %+v: want one shape", before, again)
	}
	want := counters.SnapshotKind()
	want.Schema = 7
	if diff := cmp.Diff(want, counters.WithSchema(7).SnapshotKind()); diff != "" {
		t.Errorf("another schema (-want +got):\n%s", diff)
	}
}

type (
	cents int64
	euros int64
)

// TestKinds: states that look alike as JSON can be of different kinds.
func TestKinds(t *testing.T) {
	t.Parallel()
	kinds := map[snapshot.Kind]string{
		aggregate.Define[counter]("counter", counters.Codec()).SnapshotKind(): "the counter",
		aggregate.Define[twin]("counter", counters.Codec()).SnapshotKind():    "another type with the same fields",
		kindOf[struct{ Value int64 }](t):                                      "a number",
		kindOf[struct{ Value cents }](t):                                      "cents",
		kindOf[struct{ Value euros }](t):                                      "euros",
		kindOf[struct{ Value []euros }](t):                                    "several",
		kindOf[struct{ Value time.Time }](t):                                  "a time",
		kindOf[struct {
			Value int64 `json:"v"`
		}](t): "a name",
		own[counter]().SnapshotKind():                                       "an own encoding",
		own[twin]().SnapshotKind():                                          "an own encoding of the other type",
		aggregate.Define[counter]("other", counters.Codec()).SnapshotKind(): "another category",
	}
	if len(kinds) != 11 {
		t.Errorf("of 11 kinds these are left: %v", kinds)
	}
}

type twin counter

func (*twin) Apply(event) {}

func own[S any, P aggregate.State[S, event]]() *aggregate.Definition[S, event] {
	return aggregate.Define[S, P]("counter", counters.Codec()).WithEncoding(
		func(s *S) ([]byte, error) { return json.Marshal(s) },
		func(data []byte) (*S, error) { return new(S), nil })
}

func shapeBefore(t *testing.T) snapshot.Kind {
	type state struct{ Value int }
	return kindOf[state](t)
}

func shapeAfter(t *testing.T) snapshot.Kind {
	type state struct{ Value int64 }
	return kindOf[state](t)
}

// applied makes any type S the state of an aggregate with the events of counters.
type applied[S any] struct{ State S }

func (*applied[S]) Apply(event) {}

func kindOf[S any](t *testing.T) snapshot.Kind {
	t.Helper()
	return aggregate.Define[applied[S]]("counter", counters.Codec()).SnapshotKind()
}
