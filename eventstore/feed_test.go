package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// never is a poll interval that is longer than any test. A reader with this interval sees an event only after a
// notification.
const never = time.Hour

// another returns another store over the same database, like the store of another process.
func another(t *testing.T, pool *pgxpool.Pool, config eventstore.Config) *eventstore.Store {
	t.Helper()
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	store, err := eventstore.New(pool, &config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

// follow starts followers. It returns a function that waits until each follower has seen one more event, and returns
// these events.
func follow(t *testing.T, store *eventstore.Store, followers int, filter eventstore.Filter) (next func() []eventstore.Raw) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	seen := make([]chan eventstore.Raw, followers)
	for i := range seen {
		seen[i] = make(chan eventstore.Raw, 1000)
		running.Go(func() {
			for event, err := range store.Follow(ctx, 0, filter) {
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				seen[i] <- event
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return func() (all []eventstore.Raw) {
		for i := range seen {
			select {
			case event := <-seen[i]:
				all = append(all, event)
			case <-time.After(20 * time.Second):
				t.Fatal("a follower saw nothing")
			}
		}
		return all
	}
}

// listeners returns the process ids of the connections that listen in the database.
func listeners(t *testing.T, pool *pgxpool.Pool) []int32 {
	t.Helper()
	rows, _ := pool.Query(t.Context(), `select pid from pg_stat_activity where datname = current_database() and query ilike 'listen %'`)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// awaitListeners returns when want connections listen.
func awaitListeners(t *testing.T, pool *pgxpool.Pool, want int) []int32 {
	t.Helper()
	var pids []int32
	pgtest.Until(t, 20*time.Second, fmt.Sprintf("%d connections listen", want), func() bool {
		pids = listeners(t, pool)
		return len(pids) == want
	})
	return pids
}

// TestNotify: the followers of another process are notified of an append, over one connection for all of them. When
// this connection is lost, they are notified again as soon as there is a new one.
func TestNotify(t *testing.T) {
	t.Parallel()
	writer, pool := open(t)
	reader := another(t, pool, eventstore.Config{PollInterval: never})
	next := follow(t, reader, 10, eventstore.Filter{})
	pid := awaitListeners(t, pool, 1)
	for n := range eventstore.Version(5) {
		mustAppend(t, writer, "a", n)
		for _, event := range next() {
			if event.Version != n+1 {
				t.Errorf("saw version %d, want %d", event.Version, n+1)
			}
		}
	}
	mustExec(t, pool, `select pg_terminate_backend($1)`, pid[0])
	mustAppend(t, writer, "a", 5)
	next()
	for again := pid; again[0] == pid[0]; { // the old connection may have passed on the append before it ended
		again = awaitListeners(t, pool, 1)
	}
	mustAppend(t, writer, "a", 6)
	next()
}

// TestListenerLeaves: when no reader waits, no connection listens.
func TestListenerLeaves(t *testing.T) {
	t.Parallel()
	_, pool := open(t)
	reader := another(t, pool, eventstore.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = reader.Next(ctx, eventstore.After(0), eventstore.Filter{}, 1)
	}()
	awaitListeners(t, pool, 1)
	cancel()
	<-done
	awaitListeners(t, pool, 0)

	done = make(chan struct{})
	go func() {
		defer close(done)
		_, _ = reader.Next(t.Context(), eventstore.After(0), eventstore.Filter{}, 1)
	}()
	awaitListeners(t, pool, 1) // a connection listens again
	reader.Close()
	awaitListeners(t, pool, 0)
	mustAppend(t, another(t, pool, eventstore.Config{}), "a", 0) // seen by polling
	<-done
}

// TestPollOnly: without notifications followers see everything, a little later.
func TestPollOnly(t *testing.T) {
	t.Parallel()
	writer, pool := open(t)
	reader := another(t, pool, eventstore.Config{PollOnly: true, PollInterval: time.Millisecond})
	next := follow(t, reader, 2, eventstore.Filter{})
	for n := range eventstore.Version(5) {
		mustAppend(t, writer, "a", n)
		next()
	}
	if pids := listeners(t, pool); len(pids) != 0 {
		t.Errorf("%d connections listen", len(pids))
	}
}

// TestNotifyCoalesces: many appends cost few notifications, and no notification is part of an append's transaction.
func TestNotifyCoalesces(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	conn, err := pgx.Connect(t.Context(), pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	mustExec(t, conn, `listen tidemark`)
	const writers, each = 16, 50
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				mustAppend(t, store, fmt.Sprint(w), eventstore.Version(n))
			}
		})
	}
	writing.Wait()
	store.Close()
	mustExec(t, conn, `select pg_notify('tidemark', 'end')`)
	count := 0
	for {
		notification, err := conn.WaitForNotification(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if notification.Payload == "end" {
			break
		}
		count++
	}
	if count == 0 || count > writers*each/4 {
		t.Errorf("%d notifications of %d appends", count, writers*each)
	}
	var definitions string
	if err := pool.QueryRow(t.Context(), `select string_agg(pg_get_functiondef(oid), '') from pg_proc where pronamespace = 'tidemark'::regnamespace`).Scan(&definitions); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ToLower(definitions), "notify") {
		t.Error("a function of the schema notifies")
	}
}

// TestSlowConsumer: while a follower's loop body runs, the only connection of the pool is free.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	pool := limitedPool(t, 1, nil)
	small, err := eventstore.New(pool, &eventstore.Config{PageSize: 10})
	if err != nil {
		t.Fatal(err)
	}
	for n := range eventstore.Version(25) {
		mustAppend(t, small, "a", n)
	}
	seen := 0
	for event, err := range small.Follow(t.Context(), 0, eventstore.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn.Release()
		if seen++; event.Version == 25 {
			break
		}
	}
	if seen != 25 {
		t.Errorf("saw %d events, want 25", seen)
	}
}

// TestFollowEnds: a follower ends after an error that a retry cannot fix.
func TestFollowEnds(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), pgtest.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	store := another(t, pool, eventstore.Config{})
	for _, err := range store.Follow(t.Context(), 0, eventstore.Filter{}) {
		if !errors.Is(err, eventstore.ErrNotMigrated) {
			t.Errorf("%v, want ErrNotMigrated", err)
		}
	}
	_, migrated := open(t)
	closing := another(t, migrated, eventstore.Config{PollInterval: time.Millisecond})
	migrated.Close()
	for _, err := range closing.Follow(t.Context(), 0, eventstore.Filter{}) {
		if err == nil {
			t.Error("an event from a closed pool")
		}
	}
}

// TestFollowFilter: a follower advances over events that its filter leaves out, and does not get them.
func TestFollowFilter(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	next := follow(t, store, 1, eventstore.Filter{Streams: []eventstore.StreamID{stream("wanted")}, Categories: []string{"thing"}})
	for i := range 50 {
		mustAppend(t, store, fmt.Sprint("other", i), 0)
	}
	mustAppend(t, store, "wanted", 0)
	if event := next()[0]; event.Stream != stream("wanted") {
		t.Errorf("saw an event of %s", event.Stream)
	}
}
