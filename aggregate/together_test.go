package aggregate_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/snapshot"
)

// separate hides that a store can read events together with a snapshot.
type separate struct{ aggregate.Store }

// trips counts how often a connection waits for an answer.
type trips struct {
	net.Conn
	count    *atomic.Int64
	answered atomic.Bool
}

func (c *trips) Write(p []byte) (int, error) {
	if c.answered.Swap(false) {
		c.count.Add(1)
	}
	return c.Conn.Write(p)
}

func (c *trips) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.answered.Store(true)
	return n, err
}

// countTrips returns a pool to the same database, and its counter.
func countTrips(t *testing.T, like *pgxpool.Pool, mode pgx.QueryExecMode) (*pgxpool.Pool, *atomic.Int64) {
	t.Helper()
	count, config := new(atomic.Int64), like.Config()
	dial := config.ConnConfig.DialFunc
	config.MaxConns = 1
	config.ConnConfig.DefaultQueryExecMode = mode
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return &trips{Conn: conn, count: count}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, count
}

// never returns a repository that uses snapshots and takes none, with its snapshotter.
func never(t *testing.T, events aggregate.Store, snapshots snapshot.Store, observe func(aggregate.LoadDone)) (*repository, *snapshot.Snapshotter) {
	t.Helper()
	s := made(snapshot.NewSnapshotter(snapshots, &snapshot.Config{Policy: snapshot.Never(), Logger: slog.New(slog.DiscardHandler)}))
	t.Cleanup(s.Close)
	config := &aggregate.Config{Snapshots: s}
	if observe != nil {
		config.Observer.Load = func(_ context.Context, done aggregate.LoadDone) { observe(done) }
	}
	return made(aggregate.NewRepository(events, counters, config)), s
}

// TestOneRoundTrip: a load takes one round trip, with a snapshot and without one, in all modes of pgx.
func TestOneRoundTrip(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	plain := made(aggregate.NewRepository(made(eventstore.New(pool, nil)), counters, nil))
	grow(t, plain, "plain", 5)
	taking := made(snapshot.NewSnapshotter(made(snapshot.NewPostgres(pool, nil)), &snapshot.Config{Sync: true, Policy: snapshot.Every(10)}))
	grow(t, made(aggregate.NewRepository(made(eventstore.New(pool, nil)), counters, &aggregate.Config{Snapshots: taking})), "saved", 15)
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		counted, count := countTrips(t, pool, mode)
		events := made(eventstore.New(counted, &eventstore.Config{PollOnly: true}))
		snapshots := made(snapshot.NewPostgres(counted, nil))
		for _, test := range []struct {
			store aggregate.Store
			want  int64
		}{{events, 1}, {separate{events}, 2}} {
			repo, _ := never(t, test.store, snapshots, nil)
			for key, version := range map[string]eventstore.Version{"saved": 15, "plain": 5, "none": 0} {
				for n := range 2 { // the first load may prepare the statements
					count.Store(0)
					loaded, err := repo.Load(t.Context(), key)
					if err != nil || loaded.Version != version {
						t.Fatalf("%s: %+v, %v", key, loaded, err)
					}
					if got := count.Load(); n > 0 && got != test.want {
						t.Errorf("%s, %s, %T: %d round trips, want %d", mode, key, test.store, got, test.want)
					}
				}
			}
		}
	}
}

// TestTogetherIsTheSame: a load in one round trip and a load in two give the same, count the same and leave the same
// snapshots, whatever the snapshots are.
func TestTogetherIsTheSame(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	events, snapshots := made(eventstore.New(pool, &eventstore.Config{PageSize: 4})), made(snapshot.NewPostgres(pool, &snapshot.PostgresConfig{Retention: snapshot.Retention{Latest: 9}}))
	base := snapshot.Snapshot{Kind: counters.SnapshotKind(), Data: []byte(`{"Value":0,"Limit":1000000}`)}
	cases := map[string][]func(*snapshot.Snapshot){
		"none":         nil,
		"good":         {func(s *snapshot.Snapshot) { s.Version = 3 }},
		"two":          {func(s *snapshot.Snapshot) { s.Version = 3 }, func(s *snapshot.Snapshot) { s.Version = 9 }},
		"last":         {func(s *snapshot.Snapshot) { s.Version = 12 }},
		"first":        {func(s *snapshot.Snapshot) { s.Version = 1 }},
		"no JSON":      {func(s *snapshot.Snapshot) { s.Version = 3 }, func(s *snapshot.Snapshot) { s.Version, s.Data = 9, []byte("?") }},
		"other event":  {func(s *snapshot.Snapshot) { s.Version = 3 }, func(s *snapshot.Snapshot) { s.Version, s.EventID = 9, uuid.New() }},
		"ahead":        {func(s *snapshot.Snapshot) { s.Version = 3 }, func(s *snapshot.Snapshot) { s.Version, s.EventID = 99, uuid.New() }},
		"other schema": {func(s *snapshot.Snapshot) { s.Version, s.Kind.Schema = 3, 2 }},
		"other type":   {func(s *snapshot.Snapshot) { s.Version, s.Kind.Type = 3, "order" }},
	}
	type outcome struct {
		Loads []aggregate.LoadDone
		State []counter
		Stats snapshot.Stats
		Left  []eventstore.Version
	}
	run := func(name string, store aggregate.Store, key string) (o outcome) {
		grow(t, made(aggregate.NewRepository(events, counters, nil)), key, 12)
		history, err := folds(t, events, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range cases[name] {
			s := base
			change(&s)
			s.Stream, s.RecordedAt = counters.Stream(key), history[0].RecordedAt
			if n := int(s.Version); n <= len(history) && s.EventID == uuid.Nil {
				s.EventID = history[n-1].ID
			}
			if string(s.Data) == string(base.Data) {
				s.Data = fmt.Appendf(nil, `{"Value":%d,"Limit":1000000}`, s.Version-1)
			}
			if err := snapshots.Save(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		repo, snapshotter := never(t, store, snapshots, func(done aggregate.LoadDone) {
			done.Took, done.Stream = 0, eventstore.StreamID{}
			o.Loads = append(o.Loads, done)
		})
		for _, to := range []eventstore.Version{12, 9, 8, 3, 2, 50} {
			loaded, err := repo.LoadVersion(t.Context(), key, to)
			if err != nil {
				t.Fatal(err)
			}
			o.State = append(o.State, *loaded.State)
		}
		o.Stats = snapshotter.Stats()
		for v := eventstore.Version(100); v > 0; {
			found, ok, err := snapshots.Load(t.Context(), counters.Stream(key), base.Kind, v)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			o.Left, v = append(o.Left, found.Version), found.Version-1
		}
		return o
	}
	for name := range cases {
		want, got := run(name, separate{events}, name+"2"), run(name, events, name+"1")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: in two round trips (-) and in one (+)\n%s", name, diff)
		}
		if got.State[0] != (counter{11, 1_000_000}) {
			t.Errorf("%s: %+v", name, got.State)
		}
	}
}

func folds(t *testing.T, events *eventstore.Store, key string) (all []eventstore.Raw, err error) {
	for event, err := range events.Read(t.Context(), counters.Stream(key), eventstore.ReadOptions{}) {
		if err != nil {
			return nil, err
		}
		all = append(all, event)
	}
	return all, nil
}

// TestTogetherWithoutSnapshots: a table of snapshots that is locked, or not there, fails no load. Snapshots in another
// database are loaded from there.
func TestTogetherWithoutSnapshots(t *testing.T) {
	t.Parallel()
	pool, other := pgtest.Pool(t), pgtest.Pool(t)
	events := made(eventstore.New(pool, nil))
	grow(t, made(aggregate.NewRepository(events, counters, nil)), "a", 5)
	check := func(name string, repo *repository, snapshots *snapshot.Snapshotter, want snapshot.Stats) {
		t.Helper()
		loaded, err := repo.Load(t.Context(), "a")
		if err != nil || loaded.Version != 5 || loaded.State.Value != 4 || snapshots.Stats() != want {
			t.Errorf("%s: loaded %+v, %v, stats %+v", name, loaded, err, snapshots.Stats())
		}
	}
	elsewhere := made(snapshot.NewPostgres(other, nil))
	taking := made(snapshot.NewSnapshotter(elsewhere, &snapshot.Config{Sync: true, Policy: snapshot.Every(1)}))
	if _, err := made(aggregate.NewRepository(events, counters, &aggregate.Config{Snapshots: taking})).Load(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	repo, snapshots := never(t, events, elsewhere, nil)
	check("another database", repo, snapshots, snapshot.Stats{Used: 1})

	repo, snapshots = never(t, events, made(snapshot.NewPostgres(pool, nil)), nil)
	lock := made(pool.Begin(t.Context()))
	if _, err := lock.Exec(t.Context(), `lock table tidemark.snapshots`); err != nil {
		t.Fatal(err)
	}
	check("locked", repo, snapshots, snapshot.Stats{Failed: 1})
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("not locked", repo, snapshots, snapshot.Stats{Failed: 1, Absent: 1})
	if _, err := pool.Exec(t.Context(), `drop table tidemark.snapshots`); err != nil {
		t.Fatal(err)
	}
	check("no table", repo, snapshots, snapshot.Stats{Failed: 2, Absent: 1})
}
