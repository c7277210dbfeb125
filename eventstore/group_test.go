package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// block opens a transaction and appends to a stream in it. It returns a function that commits the transaction.
func block(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool, key string) (commit func()) {
	t.Helper()
	tx := begin(t, pool)
	if _, err := store.WithTx(tx).Append(t.Context(), stream(key), eventstore.Any, draft(0)); err != nil {
		t.Fatal(err)
	}
	return func() { mustCommit(t, tx) }
}

// passBy appends to another stream, so often that the store has tried all requests that were queued before.
func passBy(t *testing.T, store *eventstore.Store) {
	t.Helper()
	for range 5 {
		if _, err := store.Append(t.Context(), stream("free"), eventstore.Any, draft(1)); err != nil {
			t.Error(err)
		}
	}
}

// TestGroupOutcomes lets many commits share transactions. Some of the commits must fail. Each commit gets the outcome
// that it would have had alone.
func TestGroupOutcomes(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `alter table tidemark.events add constraint refuse check (type <> 'refused')`)
	errRefused := errors.New("any error")
	mustAppend(t, store, "old", eventstore.NoStream)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	change := func(key string, expected eventstore.Version, n int) eventstore.Change {
		c := eventstore.Change{Stream: stream(key), Expected: expected}
		for i := range n {
			c.Events = append(c.Events, draft(i))
		}
		return c
	}
	var callers sync.WaitGroup
	for i := range 300 {
		callers.Go(func() {
			key := fmt.Sprint("new", i)
			ctx, changes, want := t.Context(), []eventstore.Change{change(key, eventstore.NoStream, 1)}, error(nil)
			switch i % 10 {
			case 1:
				changes[0].Stream.Key, want = "old", eventstore.ErrConflict
			case 2: // one of its two changes conflicts
				changes, want = append(changes, change("old", 7, 1)), eventstore.ErrConflict
			case 3:
				changes[0].Expected, want = eventstore.Exists, eventstore.ErrConflict
			case 4: // only Postgres refuses this type
				changes[0].Events[0].Type, want = "refused", errRefused
			case 5:
				ctx, want = cancelled, context.Canceled
			case 6:
				changes[0] = change("shared", eventstore.Any, 2)
			case 7:
				changes = append(changes, change("shared", eventstore.Any, 1), change(key+"b", eventstore.Any, 3))
			case 8:
				ctx = eventstore.WithKey(ctx, fmt.Sprint("key", i/20), []byte("same")) // every second commit is a repeat
				changes[0].Stream.Key = fmt.Sprint("keyed", i/20)
			}
			receipts, err := store.Commit(ctx, changes...)
			if (err == nil) != (want == nil) || want != errRefused && !errors.Is(err, want) {
				t.Errorf("commit %d: %v, want %v", i, err, want)
			}
			for n, receipt := range receipts {
				if n == 0 && i%10 == 8 && receipt.Version != 1 {
					t.Errorf("commit %d under a key: %+v", i, receipt)
				}
				var last eventstore.Raw
				for event, err := range store.Read(t.Context(), changes[n].Stream, eventstore.ReadOptions{To: receipt.Version}) {
					if err != nil {
						t.Error(err)
					}
					last = event
				}
				if last.Version != receipt.Version || last.Position != receipt.Position {
					t.Errorf("commit %d, stream %s: receipt %+v, but version %d is at %d", i, changes[n].Stream, receipt, last.Version, last.Position)
				}
			}
		})
	}
	callers.Wait()
	events, last, version := 0, eventstore.Position(0), make(map[eventstore.StreamID]eventstore.Version)
	for event, err := range store.ReadAll(t.Context(), 0, eventstore.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if version[event.Stream]++; event.Version != version[event.Stream] || event.Position <= last {
			t.Errorf("event %d of stream %s is at position %d, after %d", event.Version, event.Stream, event.Position, last)
		}
		events, last = events+1, event.Position
	}
	// There are 30 commits of each kind. Kinds 0 and 9 store one event, 6 two and 7 five. Of kind 8, every second
	// commit stores one event. The stream "old" had one event before.
	if want := 30*(1+1+2+5) + 15 + 1; events != want {
		t.Errorf("%d events, want %d", events, want)
	}
	if n := version[stream("shared")]; n != 30*3 {
		t.Errorf("the shared stream has %d events, want 90", n)
	}
}

// TestBlockerHoldsUpItsStreamOnly: while a transaction is open, appends to its stream wait, and appends to other
// streams do not.
func TestBlockerHoldsUpItsStreamOnly(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	commit := block(t, store, pool, "blocked")
	results := make(chan error, 3)
	for _, expected := range []eventstore.Version{eventstore.NoStream, eventstore.Any, eventstore.Any} {
		go func() {
			_, err := store.Append(t.Context(), stream("blocked"), expected, draft(1))
			results <- err
		}()
	}
	// The appends do not even wait in Postgres: a group that waited there would hold up others for a while.
	watched, stop := context.WithCancel(t.Context())
	defer stop()
	waited := make(chan int)
	go func() {
		most := 0
		for watched.Err() == nil {
			const sql = `
				select count(*)
				  from pg_stat_activity
				 where datname = current_database()
				   and wait_event_type = 'Lock'
				   and wait_event in ('transactionid', 'advisory', 'tuple')`
			var waiting int
			if err := pool.QueryRow(t.Context(), sql).Scan(&waiting); err != nil {
				t.Error(err)
			}
			most = max(most, waiting)
		}
		waited <- most
	}()
	var bystanders sync.WaitGroup
	for i := range 8 {
		bystanders.Go(func() {
			for n := range 25 {
				if _, err := store.Append(t.Context(), stream(fmt.Sprint("free", i)), eventstore.Version(n), draft(n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	bystanders.Wait() // while the transaction is still open
	stop()
	if most := <-waited; most > 0 {
		t.Errorf("%d connections waited for the transaction", most)
	}
	select {
	case err := <-results:
		t.Fatalf("an append to the blocked stream did not wait: %v", err)
	default:
	}
	commit()
	conflicts := 0
	for range 3 {
		if err := <-results; errors.Is(err, eventstore.ErrConflict) {
			conflicts++
		} else if err != nil {
			t.Error(err)
		}
	}
	if conflicts != 1 {
		t.Errorf("%d conflicts, want that of the exact version", conflicts)
	}
}

// TestTwoStores lets two stores, as of two processes, write to the same streams. Appends at exact versions conflict,
// appends at any version wait, and commits change the streams in different orders. No event is lost or stored twice.
func TestTwoStores(t *testing.T) {
	t.Parallel()
	one, pool := open(t)
	other, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	var stored [3]atomic.Int64
	var writers sync.WaitGroup
	for w := range 12 {
		store := []*eventstore.Store{one, other}[w%2]
		writers.Go(func() {
			for n := range 20 {
				a, b := (w+n)%3, (w+n+1+w%2)%3
				change := func(i int) eventstore.Change {
					return eventstore.Change{Stream: stream(fmt.Sprint("s", i)), Expected: eventstore.Any, Events: []eventstore.Draft{draft(n)}}
				}
				changes := []eventstore.Change{change(a), change(b)}
				if w%3 == 0 {
					changes[0].Expected = eventstore.Version(stored[a].Load()) // often wrong
				}
				_, err := store.Commit(t.Context(), changes...)
				if err == nil {
					stored[a].Add(1)
					stored[b].Add(1)
				} else if w%3 != 0 || !errors.Is(err, eventstore.ErrConflict) {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	writers.Wait()
	for i := range stored {
		var last eventstore.Version
		for event, err := range one.Read(t.Context(), stream(fmt.Sprint("s", i)), eventstore.ReadOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			last = event.Version
		}
		if int64(last) != stored[i].Load() {
			t.Errorf("stream %d is at version %d, %d appends were acknowledged", i, last, stored[i].Load())
		}
	}
}

// TestCancelBlocked: an append that is cancelled while it waits for another transaction stores nothing, at that time or
// later.
func TestCancelBlocked(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	commit := block(t, store, pool, "blocked")
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 2)
	for range 2 { // both wait for the transaction
		go func() {
			_, err := store.Append(ctx, stream("blocked"), eventstore.Any, draft(1))
			results <- err
		}()
	}
	passBy(t, store)
	cancel()
	for range 2 {
		if err := <-results; !errors.Is(err, context.Canceled) || errors.Is(err, eventstore.ErrUnknownOutcome) {
			t.Errorf("%v, want it cancelled and not stored", err)
		}
	}
	commit()
	if last := mustAppend(t, store, "blocked", 1); last.Version != 2 {
		t.Errorf("the stream is at version %d, want 2: a cancelled append was stored", last.Version)
	}
}

// TestClose: appends that are under way are stored, and later appends are refused.
func TestClose(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	commit := block(t, store, pool, "blocked")
	result := make(chan error)
	go func() {
		_, err := store.Append(t.Context(), stream("blocked"), eventstore.Any, draft(1))
		result <- err
	}()
	passBy(t, store)
	closed := make(chan struct{})
	go func() {
		store.Close()
		close(closed)
	}()
	for {
		if _, err := store.Append(t.Context(), stream("late"), eventstore.Any, draft(1)); errors.Is(err, eventstore.ErrClosed) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-closed:
		t.Error("Close did not wait for the append under way")
	case <-time.After(50 * time.Millisecond): // in this time Close must not return
	}
	commit()
	if err := <-result; err != nil {
		t.Error(err)
	}
	<-closed
}

// TestServerEndsConnection: the server ends the connection in the middle of an append. The store repeats an append that
// can be repeated. Another append returns ErrUnknownOutcome.
func TestServerEndsConnection(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `create table deaths (left_over int)`)
	mustExec(t, pool, `create sequence public.died`)
	mustExec(t, pool, `create function die() returns trigger language plpgsql as $$
		begin
			if nextval('public.died') <= (select max(left_over) from public.deaths) then
				perform pg_terminate_backend(pg_backend_pid());
				perform pg_sleep(60);
			end if;
			return null;
		end $$`)
	mustExec(t, pool, `create trigger die after insert on tidemark.events execute function die()`)
	next := func(deaths int) {
		t.Helper()
		mustExec(t, pool, `select setval('public.died', 1, false)`)
		mustExec(t, pool, `delete from deaths`)
		mustExec(t, pool, `insert into deaths values ($1)`, deaths)
	}
	next(1)
	if receipt, err := store.Append(t.Context(), stream("exact"), 0, draft(1)); err != nil || receipt.Version != 1 {
		t.Errorf("exact version: %+v, %v; want it repeated", receipt, err)
	}
	next(1)
	ctx := eventstore.WithKey(t.Context(), "key", nil)
	if receipt, err := store.Append(ctx, stream("keyed"), eventstore.Any, draft(1)); err != nil || receipt.Version != 1 {
		t.Errorf("under a key: %+v, %v; want it repeated", receipt, err)
	}
	next(1)
	if _, err := store.Append(t.Context(), stream("any"), eventstore.Any, draft(1)); !errors.Is(err, eventstore.ErrUnknownOutcome) {
		t.Errorf("any version: %v, want ErrUnknownOutcome", err)
	}
	next(100)
	event := draft(1)
	event.ID = uuid.New()
	if _, err := store.Append(t.Context(), stream("hopeless"), 0, event); !errors.Is(err, eventstore.ErrUnknownOutcome) {
		t.Errorf("again and again: %v, want ErrUnknownOutcome", err)
	}
	next(0)
	if receipt, err := store.Append(t.Context(), stream("hopeless"), 0, event); err != nil || receipt.Version != 1 {
		t.Errorf("repeated by the caller: %+v, %v", receipt, err)
	}
}

// TestDoneWhileWriting: an append is being written when its context is done, and Postgres does not answer. Its caller is
// told so after five seconds. The next append does not wait.
func TestDoneWhileWriting(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `create function hang() returns trigger language plpgsql as $$
		begin
			if new.stream like 'thing-slow%' then
				perform pg_sleep(60);
			end if;
			return new;
		end $$`)
	mustExec(t, pool, `create trigger hang before insert on tidemark.events for each row execute function hang()`)
	if _, err := store.Append(t.Context(), stream("first"), eventstore.Any, draft(1)); err != nil { // now callers write
		t.Fatal(err)
	}
	for expected, key := range map[eventstore.Version]string{eventstore.Any: "slow", eventstore.NoStream: "slow and repeatable"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := store.Append(ctx, stream(key), expected, draft(1))
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("the append took %s", took)
		}
		if !errors.Is(err, eventstore.ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want ErrUnknownOutcome because of the deadline", err)
		}
		if _, err := store.Append(t.Context(), stream("other"), eventstore.Any, draft(1)); err != nil {
			t.Errorf("the next append: %v", err)
		}
	}
}

// TestServerEndsConnectionInFrench: the store uses the severity that Postgres does not translate.
func TestServerEndsConnectionInFrench(t *testing.T) {
	t.Parallel()
	for _, severity := range []string{"FATAL", "PANIC", "ERROR"} {
		err := &pgconn.PgError{Severity: "whatever", SeverityUnlocalized: severity}
		if lost := eventstore.WasLost(err); lost != (severity != "ERROR") {
			t.Errorf("%s: lost %v", severity, lost)
		}
	}
}

// cutConn loses the next answer of the server once cut is true. It then calls then, and closes the connection.
type cutConn struct {
	net.Conn
	cut  *atomic.Bool
	then func()
}

func (c cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.cut.CompareAndSwap(true, false) {
		c.then()
		_ = c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// TestLostAnswer: the events are stored, and the connection is lost before the store gets the answer. The store finds
// out by itself where the events are, if their ids at exact versions or a key identify them.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	var cut atomic.Bool
	pool := limitedPool(t, 1, func(conn net.Conn) net.Conn { return cutConn{conn, &cut, func() {}} })
	twice := []eventstore.Draft{draft(1), draft(2)}
	keyed := eventstore.WithKey(t.Context(), "key", nil)
	for _, test := range []struct {
		name     string
		ctx      context.Context
		expected eventstore.Version
		events   []eventstore.Draft
	}{
		{"short", t.Context(), 1, twice[:1]},
		{"group", t.Context(), 1, twice},
		{"key", keyed, eventstore.Any, twice},
		{"any", t.Context(), eventstore.Any, twice},
	} {
		first := another(t, pool, eventstore.Config{})
		mustAppend(t, first, test.name, 0) // prepares the statement
		if _, err := first.Append(t.Context(), stream("other"), eventstore.Any, twice...); err != nil {
			t.Fatal(err)
		}
		first.Close() // so that the answer is cut, and not a notification
		store := another(t, pool, eventstore.Config{})
		cut.Store(true)
		receipt, err := store.Append(test.ctx, stream(test.name), test.expected, test.events...)
		if test.name == "any" {
			if !errors.Is(err, eventstore.ErrUnknownOutcome) {
				t.Errorf("any version: %v, want ErrUnknownOutcome", err)
			}
		} else if want := eventstore.Version(1 + len(test.events)); err != nil || receipt.Version != want {
			t.Errorf("%s: %+v, %v; want version %d", test.name, receipt, err, want)
		}
		version := eventstore.Version(0)
		for event, err := range store.Read(t.Context(), stream(test.name), eventstore.ReadOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			version = event.Version
		}
		if want := eventstore.Version(1 + len(test.events)); version != want {
			t.Errorf("%s: the stream is at version %d, want %d", test.name, version, want)
		}
	}
}

// TestKeyedGroup: appends under different keys share a stream and a transaction. Each append gets its own receipt.
func TestKeyedGroup(t *testing.T) {
	t.Parallel()
	pool := limitedPool(t, 1, nil)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := pool.Acquire(t.Context()) // so that all the appends wait in one queue
	if err != nil {
		t.Fatal(err)
	}
	const n = 20
	receipts := make([]eventstore.Receipt, n)
	key := func(i int) context.Context { return eventstore.WithKey(t.Context(), fmt.Sprint("key", i), nil) }
	var callers sync.WaitGroup
	for i := range n {
		callers.Go(func() {
			var err error
			if receipts[i], err = store.Append(key(i), stream(fmt.Sprint(i%3)), eventstore.Any, draft(i), draft(i)); err != nil {
				t.Error(err)
			}
		})
	}
	taken.Release()
	callers.Wait()
	seen := make(map[eventstore.Position]bool)
	for i, receipt := range receipts {
		if again, ok, err := store.Receipts(key(i)); !ok || err != nil || again[0] != receipt {
			t.Errorf("key %d: %+v, %v; want the receipt %+v", i, again, err, receipt)
		}
		if seen[receipt.Position] {
			t.Errorf("two appends have the receipt %+v", receipt)
		}
		seen[receipt.Position] = true
	}
}

// limitedPool returns a pool on a new database, with at most the given number of connections. wrap, unless nil, wraps
// each connection.
func limitedPool(t *testing.T, connections int32, wrap func(net.Conn) net.Conn) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		dial := config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return wrap(conn), nil
		}
	}
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestWithoutConnections: callers that wait for a connection can still be cancelled. The others are served when a
// connection is free.
func TestWithoutConnections(t *testing.T) {
	t.Parallel()
	pool := limitedPool(t, 1, nil)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := store.Append(ctx, stream("a"), eventstore.Any, draft(1)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, eventstore.ErrUnknownOutcome) {
		t.Errorf("%v, want the deadline", err)
	}
	result := make(chan error)
	go func() {
		_, err := store.Append(t.Context(), stream("a"), eventstore.NoStream, draft(1))
		result <- err
	}()
	taken.Release()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestLockedTable: while another transaction has locked the table, appends wait and can be cancelled. A cancelled
// append stores nothing. The others are stored when the lock is gone.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	tx := begin(t, pool)
	mustExec(t, tx, `lock table tidemark.events in access exclusive mode`)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var patient, hurried sync.WaitGroup
	for i := range 10 {
		patient.Go(func() {
			if _, err := store.Append(t.Context(), stream(fmt.Sprint("patient", i)), eventstore.NoStream, draft(i)); err != nil {
				t.Error(err)
			}
		})
		hurried.Go(func() {
			_, err := store.Append(ctx, stream(fmt.Sprint("hurried", i)), eventstore.NoStream, draft(i))
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, eventstore.ErrUnknownOutcome) {
				t.Errorf("%v, want the deadline, and that nothing was stored", err)
			}
		})
	}
	hurried.Wait() // while the table is still locked
	mustCommit(t, tx)
	patient.Wait()
	if keys, _ := keysAfter(t, store, 0); len(keys) != 10 {
		t.Errorf("%d events, want 10", len(keys))
	}
}
