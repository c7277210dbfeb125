package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// changes returns changes of n streams, with one event each, at any version.
func changes(prefix string, n int) (all []eventstore.Change) {
	for i := range n {
		all = append(all, eventstore.Change{Stream: stream(fmt.Sprint(prefix, i)), Expected: eventstore.Any, Events: []eventstore.Draft{draft(i)}})
	}
	return all
}

// TestSharedStream: the requests of a group share a stream, and another process appends to this stream. The other
// process holds up all requests of the group or none. If it held up only the first requests, the later ones would leave
// a gap in the versions.
func TestSharedStream(t *testing.T) {
	t.Parallel()
	const rounds, requests = 50, 500
	store, pool := open(t)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		for ctx.Err() == nil {
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { // it holds up the group for a while
				_, err := store.WithTx(tx).Append(t.Context(), stream("shared"), eventstore.Any, draft(1))
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
	const group = `
		select count(distinct outcome)
		  from tidemark.append_group(
		       array(select generate_series(1, $1)), array_fill('thing-shared'::text, array[$1]), array_fill(-1::bigint, array[$1]),
		       array(select generate_series(1, $1)), array(select generate_series(1, $1)),
		       array(select gen_random_uuid() from generate_series(1, $1)), array_fill('t'::text, array[$1]),
		       array_fill(1::smallint, array[$1]), array_fill('{}'::json, array[$1]), array_fill(null::json, array[$1]),
		       patience => 20)`
	for range rounds {
		var outcomes int
		if err := pool.QueryRow(t.Context(), group, requests).Scan(&outcomes); err != nil {
			t.Error(err)
		}
		if outcomes != 1 {
			t.Errorf("%d outcomes in one group", outcomes)
		}
	}
	stop()
	writing.Wait()
	n := eventstore.Version(0)
	for event, err := range store.Read(t.Context(), stream("shared"), eventstore.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; event.Version != n {
			t.Fatalf("version %d comes as number %d", event.Version, n)
		}
	}
}

// TestWaitingLeavesAFlusher: requests that wait in Postgres, for a lock that the store cannot foresee, do not hold up
// other requests, however many of them wait.
func TestWaitingLeavesAFlusher(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	tx := begin(t, pool)
	mustExec(t, tx, `lock table tidemark.append_keys in share mode`) // only appends with a key wait for it
	var waiting sync.WaitGroup
	for i := range 30 {
		waiting.Go(func() {
			ctx := eventstore.WithKey(t.Context(), fmt.Sprint(i), nil)
			if _, err := store.Append(ctx, stream(fmt.Sprint(i)), eventstore.Any, draft(i)); err != nil {
				t.Error(err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for n := range 20 {
		if _, err := store.Append(ctx, stream("free"), eventstore.Version(n), draft(n)); err != nil {
			t.Fatalf("append %d beside those that wait: %v", n, err)
		}
	}
	mustCommit(t, tx)
	waiting.Wait()
}

// TestLongWrite: a group that takes long to write, without waiting for a lock, does not hold up other requests, not
// even a single request.
func TestLongWrite(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `
		create function long_write() returns trigger language plpgsql as $$
		begin
		    while not pg_try_advisory_xact_lock(1) loop
		        perform pg_sleep(0.001);
		    end loop;
		    return new;
		end $$;
		create trigger long_write before insert on tidemark.events
		   for each row when (new.stream = 'thing-long') execute function long_write()`)
	tx := begin(t, pool)
	mustExec(t, tx, `select pg_advisory_xact_lock(1)`)
	long := make(chan error)
	go func() {
		_, err := store.Append(t.Context(), stream("long"), eventstore.Any, draft(1))
		long <- err
	}()
	pgtest.Until(t, time.Minute, "the trigger sleeps", func() (sleeping bool) {
		const sql = `select exists (select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database())`
		if err := pool.QueryRow(t.Context(), sql).Scan(&sleeping); err != nil {
			t.Fatal(err)
		}
		return sleeping
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := store.Append(ctx, stream("free"), eventstore.Any, draft(1)); err != nil {
		t.Error(err)
	}
	mustCommit(t, tx)
	if err := <-long; err != nil {
		t.Error(err)
	}
}

// TestWaitsForOneOfItsStreams: a commit that waits for another transaction on one of its streams does not hold up
// appends to its other streams.
func TestWaitsForOneOfItsStreams(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	commit := block(t, store, pool, "m0")
	result := make(chan error)
	go func() {
		_, err := store.Commit(t.Context(), changes("m", 2)...)
		result <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 50 {
		if _, err := store.Append(ctx, stream("m1"), eventstore.Any, draft(1)); err != nil {
			t.Fatal(err)
		}
	}
	commit()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestLockEntries: commits of many streams that come together take a bounded part of the lock table.
func TestLockEntries(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.05); return null; end $$`)
	mustExec(t, pool, `create trigger slow after insert on tidemark.events for each statement execute function slow()`)
	var commits sync.WaitGroup
	for i := range 100 {
		commits.Go(func() {
			if _, err := store.Commit(t.Context(), changes(fmt.Sprint("c", i, "-"), 15)...); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		commits.Wait()
		close(done)
	}()
	most := 0
	for busy := true; busy; {
		select {
		case <-done:
			busy = false
		default:
		}
		var n int
		const sql = `select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`
		if err := pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		most = max(most, n)
	}
	if most == 0 || most > 2*(256+1) {
		t.Errorf("at most %d entries, want no more than two groups of 256 streams and a fence each", most)
	}
}

// TestErrorAfterLostAnswer: events were stored, and the answer was lost. If sending them again is refused, the append
// must not return that they were refused.
func TestErrorAfterLostAnswer(t *testing.T) {
	t.Parallel()
	var cut atomic.Bool
	var admin *pgxpool.Pool
	pool := limitedPool(t, 1, func(conn net.Conn) net.Conn {
		return cutConn{conn, &cut, func() {
			const refuse = `create or replace function tidemark.append_one(
				stream text, expected bigint, id uuid, type text, schema smallint, payload json, meta json, patience int, seen uuid default null)
				returns bigint[] language plpgsql as
				$$ begin raise exception using errcode = '53200', message = 'out of shared memory'; end $$`
			if _, err := admin.Exec(context.Background(), refuse); err != nil {
				t.Error(err)
			}
		}}
	})
	var err error
	if admin, err = pgxpool.New(t.Context(), pool.Config().ConnString()); err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for n := range eventstore.Version(2) {
		store, err := eventstore.New(pool, nil)
		if err != nil {
			t.Fatal(err)
		}
		cut.Store(n == 1) // once the statement is prepared
		_, err = store.Append(t.Context(), stream("a"), n, draft(1))
		if n == 1 && !errors.Is(err, eventstore.ErrUnknownOutcome) {
			t.Errorf("%v, want ErrUnknownOutcome", err)
		}
		store.Close() // so that the answer is cut, and not a notification
	}
}

// TestOnNotification: an application's own handler of notifications does no harm.
func TestOnNotification(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	next := follow(t, another(t, pool, eventstore.Config{PollInterval: never}), 1, eventstore.Filter{})
	awaitListeners(t, pool, 1)
	mustAppend(t, another(t, pool, eventstore.Config{}), "a", 0)
	next()
}
