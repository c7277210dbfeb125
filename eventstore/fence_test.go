package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/migrations"
)

// removeFence replaces the SQL functions that append by functions without the fence. The guarantee that no event is
// skipped needs the fence.
func removeFence(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	// The arguments of the lock stay: they go to a function that does nothing.
	mustExec(t, pool, `create function tidemark.no_lock(int, int) returns void language sql as ''`)
	for _, name := range []string{"append_group", "append_one"} {
		var definition string
		const find = `select pg_get_functiondef(oid) from pg_proc where proname = $1 and pronamespace = 'tidemark'::regnamespace`
		if err := pool.QueryRow(t.Context(), find, name).Scan(&definition); err != nil {
			t.Fatal(err)
		}
		lock := map[string]string{"append_group": "perform ", "append_one": "done := "}[name] + `pg_advisory_xact_lock_shared(`
		if strings.Count(definition, lock) != 1 {
			t.Fatalf("%s takes the lock %d times, want once:\n%s", name, strings.Count(definition, lock), definition)
		}
		mustExec(t, pool, strings.Replace(definition, "pg_advisory_xact_lock_shared(", `tidemark.no_lock(`, 1))
	}
}

// shortPath appends one event as the store does for a commit that is alone in its group.
const shortPath = `select * from tidemark.append_one('thing-slow', 0, gen_random_uuid(), 'thing.happened', 1::smallint, '{}', null, 20)`

// TestSequenceGap is the shortest history in which a reader loses an event without the fence. It shows that the fence
// prevents this.
func TestSequenceGap(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fence bool
		sql   string   // appends the slow event; empty if the store appends it
		want  []string // the events that a reader has seen at the end
	}{
		{"with the fence", true, "", []string{"slow", "fast"}},
		{"without it the slow one is lost", false, "", []string{"fast"}},
		{"with the fence, short path", true, shortPath, []string{"slow", "fast"}},
		{"without it, short path", false, shortPath, []string{"fast"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store, pool := open(t)
			if !test.fence {
				removeFence(t, pool)
			}
			slow := begin(t, pool)
			if test.sql == "" {
				if _, err := store.WithTx(slow).Append(t.Context(), stream("slow"), eventstore.NoStream, draft(1)); err != nil {
					t.Fatal(err)
				}
			} else {
				mustExec(t, slow, test.sql)
			}
			mustAppend(t, store, "fast", eventstore.NoStream)

			seen, at := keysAfter(t, store, 0)
			mustCommit(t, slow)
			more, _ := keysAfter(t, store, at)
			if seen = append(seen, more...); !slices.Equal(seen, test.want) {
				t.Errorf("the reader saw %v, want %v", seen, test.want)
			}
		})
	}
}

// TestSequenceGapUnderLoad lets several writers append with random delays before they commit or roll back, while a
// reader follows.
func TestSequenceGapUnderLoad(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fence bool
		start int64 // the sequence's value to start from
	}{
		{"from zero", true, 0},
		{"across 2^31", true, 1<<31 - 200},
		{"across 2^32", true, 1<<32 - 200},
		{"without the fence", false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			lost := gapTrial(t, test.fence, test.start)
			for tries := 1; !test.fence && lost == 0 && tries < 30; tries++ { // whether an event is lost is a matter of chance
				lost = gapTrial(t, test.fence, test.start)
			}
			if test.fence && lost > 0 {
				t.Errorf("%d events were skipped", lost)
			}
			if !test.fence && lost == 0 {
				t.Error("no event was skipped without the fence: the test does not test it")
			}
		})
	}
}

// gapTrial returns how many committed events a follower did not see. The store has the fence or not, and its sequence
// starts after start.
func gapTrial(t *testing.T, fence bool, start int64) (lost int) {
	store, pool := open(t)
	if !fence {
		removeFence(t, pool)
	}
	if start > 0 {
		mustExec(t, pool, `select setval('tidemark.events_position_seq', $1)`, start)
	}
	const writers, each = 6, 60 // as many writers as the pool has connections for, beside the reader
	ctx, stop := context.WithCancel(t.Context())
	defer stop()

	seen := make(map[eventstore.Position]bool)
	var follower sync.WaitGroup
	follower.Go(func() {
		last := eventstore.Position(0)
		for event, err := range store.Follow(ctx, 0, eventstore.Filter{}) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
			if event.Position <= last {
				t.Errorf("position %d came after %d", event.Position, last)
			}
			last = event.Position
			seen[last] = true
			if event.Type == "end" {
				return
			}
		}
	})
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 7))
			for n := range each {
				slowAppend(t, store, pool, fmt.Sprintf("%d.%d", w, n), random)
			}
		})
	}
	group.Wait()
	if _, err := store.Append(ctx, stream("end"), eventstore.Any, eventstore.Draft{Type: "end", Data: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	follower.Wait()

	rows, _ := pool.Query(ctx, `select position from tidemark.events`)
	stored, err := pgx.CollectRows(rows, pgx.RowTo[eventstore.Position])
	if err != nil {
		t.Fatal(err)
	}
	if len(stored) < writers*each/2 {
		t.Errorf("only %d events were stored", len(stored))
	}
	for _, position := range stored {
		if !seen[position] {
			lost++
		}
	}
	return lost
}

// slowAppend appends, waits for up to 5 ms, and then commits. One time in five it rolls back instead.
func slowAppend(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool, key string, random *rand.Rand) {
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	defer tx.Rollback(context.Background())
	if random.IntN(2) == 0 { // an early transaction id, so that ids and positions have different orders
		_, _ = tx.Exec(t.Context(), `select pg_current_xact_id()`)
	}
	if _, err := store.WithTx(tx).Append(t.Context(), stream(key), eventstore.NoStream, draft(1), draft(2)); err != nil {
		t.Error(err)
		return
	}
	// The test needs this delay, in which the append is open. It does not wait for anything.
	_, _ = tx.Exec(t.Context(), `select pg_sleep($1)`, random.Float64()*0.005)
	if random.IntN(5) > 0 {
		if err := tx.Commit(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestTidemark shows which transactions hold the tidemark back, and which do not.
func TestTidemark(t *testing.T) {
	t.Parallel()
	ctx := context.Background()

	// Each case opens a transaction after event 1 was stored. Then event 2 is stored. The tidemark must be at event 1
	// if the case holds it back, and at event 2 otherwise. After the case's end() it must be at the last event.
	for name, test := range map[string]struct {
		open  func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) (end func())
		holds bool
	}{
		"nothing": {func(*testing.T, *eventstore.Store, *pgxpool.Pool) func() { return func() {} }, false},
		"open append, committed": {func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) func() {
			tx := begin(t, pool)
			appendIn(t, store, tx)
			return func() { mustCommit(t, tx) }
		}, true},
		"open append, rolled back": {func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) func() {
			tx := begin(t, pool)
			appendIn(t, store, tx)
			return func() { tx.Rollback(ctx) }
		}, true},
		"open append, backend killed": {func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) func() {
			tx := begin(t, pool)
			appendIn(t, store, tx)
			pid := tx.Conn().PgConn().PID()
			return func() {
				mustExec(t, pool, `select pg_terminate_backend($1, 10000)`, pid)
			}
		}, true},
		"open append in a savepoint": {func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) func() {
			tx := begin(t, pool)
			mustExec(t, tx, `savepoint a`)
			appendIn(t, store, tx)
			mustExec(t, tx, `release savepoint a`)
			return func() { mustCommit(t, tx) }
		}, true},
		"savepoint rolled back": {func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) func() {
			tx := begin(t, pool)
			mustExec(t, tx, `savepoint a`)
			appendIn(t, store, tx)
			mustExec(t, tx, `rollback to savepoint a`)
			return func() { mustCommit(t, tx) }
		}, false},
		"append in a savepoint after one outside": {func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) func() {
			tx := begin(t, pool)
			appendIn(t, store, tx)
			mustExec(t, tx, `savepoint a`)
			if _, err := store.WithTx(tx).Append(t.Context(), stream("open2"), eventstore.NoStream, draft(1)); err != nil {
				t.Fatal(err)
			}
			mustExec(t, tx, `rollback to savepoint a`)
			return func() { mustCommit(t, tx) }
		}, true},
		"prepared transaction, committed": {func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) func() {
			prepare(t, store, pool)
			return func() { mustExec(t, pool, `commit prepared 'tidemark test'`) }
		}, true},
		"prepared transaction, rolled back": {func(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) func() {
			prepare(t, store, pool)
			return func() { mustExec(t, pool, `rollback prepared 'tidemark test'`) }
		}, true},
		"foreign transaction in this database": {func(t *testing.T, _ *eventstore.Store, pool *pgxpool.Pool) func() {
			tx := begin(t, pool)
			mustExec(t, tx, `create table foreign_table (x int)`)
			mustExec(t, tx, `insert into foreign_table values (1)`)
			return func() { mustCommit(t, tx) }
		}, false},
		"foreign transaction in another database": {func(t *testing.T, _ *eventstore.Store, _ *pgxpool.Pool) func() {
			other, otherPool := open(t)
			tx := begin(t, otherPool)
			mustExec(t, tx, `create table foreign_table (x int)`)
			appendIn(t, other, tx) // another store, whose fence has the same key
			return func() { mustCommit(t, tx) }
		}, false},
		"open append in another schema": {func(t *testing.T, _ *eventstore.Store, pool *pgxpool.Pool) func() {
			other := openSchema(t, pool, "other")
			tx := begin(t, pool)
			appendIn(t, other, tx)
			return func() { mustCommit(t, tx) }
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, pool := open(t)
			one := mustAppend(t, store, "one", eventstore.NoStream).Position
			end := test.open(t, store, pool)
			two := mustAppend(t, store, "two", eventstore.NoStream).Position

			want := two
			if test.holds {
				want = one
			}
			checkTidemark(t, store, want)
			end()
			last := mustAppend(t, store, "last", eventstore.NoStream).Position
			checkTidemark(t, store, last)
		})
	}
}

// appendIn appends within a transaction and leaves it open.
func appendIn(t *testing.T, store *eventstore.Store, tx pgx.Tx) {
	t.Helper()
	if _, err := store.WithTx(tx).Append(t.Context(), stream("open"), eventstore.NoStream, draft(1)); err != nil {
		t.Fatal(err)
	}
}

// prepare leaves a prepared transaction that has appended. No connection owns it.
func prepare(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) {
	t.Helper()
	var slots int
	if err := pool.QueryRow(t.Context(), `select current_setting('max_prepared_transactions')::int`).Scan(&slots); err != nil {
		t.Fatal(err)
	}
	if slots == 0 {
		t.Skip("this server has max_prepared_transactions = 0")
	}
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	appendIn(t, store, tx)
	mustExec(t, tx, `prepare transaction 'tidemark test'`)
}

func openSchema(t *testing.T, pool *pgxpool.Pool, schema string) *eventstore.Store {
	t.Helper()
	if err := migrations.Up(t.Context(), pool, &migrations.Config{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	store, err := eventstore.New(pool, &eventstore.Config{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func checkTidemark(t *testing.T, store *eventstore.Store, want eventstore.Position) {
	t.Helper()
	got, err := store.Tidemark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("tidemark %d, want %d", got, want)
	}
}

// TestTidemarkIsOfACommittedEvent: positions that no committed event used may be given out again
// after a crash, so no reader may move past them.
func TestTidemarkIsOfACommittedEvent(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	one := mustAppend(t, store, "one", eventstore.NoStream).Position
	tx := begin(t, pool)
	appendIn(t, store, tx)
	tx.Rollback(t.Context())
	checkTidemark(t, store, one)
}

// TestTidemarkFarBehind: the position of a fence is known exactly, up to 2^32 positions behind the sequence.
func TestTidemarkFarBehind(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	one := mustAppend(t, store, "one", eventstore.NoStream).Position
	tx := begin(t, pool)
	appendIn(t, store, tx)
	mustExec(t, pool, `select setval('tidemark.events_position_seq', $1)`, int64(one)+1<<32-10)
	mustAppend(t, store, "far", eventstore.NoStream)
	checkTidemark(t, store, one)
}

func TestTidemarkNeedsANewSnapshot(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.WithTx(tx).Tidemark(t.Context()); !errors.Is(err, eventstore.ErrNoTidemark) {
			t.Errorf("%s: %v, want ErrNoTidemark", level, err)
		}
		tx.Rollback(t.Context())
	}
}

// TestWriterDoesNotWait: an append is not held up by an open append to another stream.
func TestWriterDoesNotWait(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	tx := begin(t, pool)
	appendIn(t, store, tx)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for n := range eventstore.Version(10) {
		if _, err := store.Append(ctx, stream("other"), n, draft(1)); err != nil {
			t.Fatal(err)
		}
	}
	// An append to the same stream waits, and then knows the version.
	result := make(chan error, 1)
	go func() {
		_, err := store.Append(ctx, stream("open"), eventstore.NoStream, draft(2))
		result <- err
	}()
	mustCommit(t, tx)
	if err := <-result; !errors.Is(err, eventstore.ErrConflict) {
		t.Errorf("append to the stream that was open: %v, want a conflict", err)
	}
}

// TestFenceBesideRefused: a request that is stored has a fence, even in a group in which another request is refused for
// several reasons at once.
func TestFenceBesideRefused(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	if _, err := store.Append(eventstore.WithKey(t.Context(), "key", nil), stream("old"), eventstore.NoStream, draft(1)); err != nil {
		t.Fatal(err)
	}
	tx := begin(t, pool)
	rows, _ := tx.Query(t.Context(), `
		select outcome
		  from tidemark.append_group(
		       array[1, 1, 2], array['thing-old', 'thing-older', 'thing-slow'], array[7, 7, 0], array[1, 2, 3], array[1, 1, 1],
		       array[gen_random_uuid(), gen_random_uuid(), gen_random_uuid()], array['t', 't', 't'], array[1, 1, 1]::smallint[],
		       array['{}', '{}', '{}']::json[], array[null, null, null]::json[],
		       array['key', null], array['', '']::bytea[], 20)`)
	outcomes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if want := []string{"known", "known", "stored"}; err != nil || !slices.Equal(outcomes, want) {
		t.Fatalf("outcomes %q, %v; want %q", outcomes, err, want)
	}
	mustAppend(t, store, "fast", eventstore.NoStream)
	seen, last := keysAfter(t, store, 0)
	mustCommit(t, tx)
	rest, _ := keysAfter(t, store, last)
	if all := append(seen, rest...); !slices.Equal(all, []string{"old", "slow", "fast"}) {
		t.Errorf("a reader saw %q", all)
	}
}
