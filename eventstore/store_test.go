package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	eventstoretest.Run(t, func(t *testing.T) eventstoretest.Store {
		store, _ := open(t)
		return store
	})
}

func checkEmpty(t *testing.T, store *eventstore.Store) {
	for event, err := range store.ReadAll(t.Context(), 0, eventstore.Filter{}) {
		if err == nil {
			t.Errorf("an event of the other store: %+v", event)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	for want, test := range map[string]struct {
		pool   *pgxpool.Pool
		config *eventstore.Config
	}{
		"the pool is nil":               {nil, nil},
		`schema "x\"; drop table y"`:    {pool, &eventstore.Config{Schema: `x"; drop table y`}},
		"Config.MaxEventBytes is -1":    {pool, &eventstore.Config{MaxEventBytes: -1}},
		"Config.PageSize is -2":         {pool, &eventstore.Config{PageSize: -2}},
		"Config.PollInterval is -3ns":   {pool, &eventstore.Config{PollInterval: -3}},
		"Config.Inline holds a nil *ev": {pool, &eventstore.Config{Inline: (*inlineNothing)(nil)}},
	} {
		_, err := eventstore.New(test.pool, test.config)
		if !errors.Is(err, eventstore.ErrInvalid) || !strings.HasPrefix(err.Error(), "eventstore.New: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want ErrInvalid that says %q", err, want)
		}
	}
}

type inlineNothing struct{}

func (*inlineNothing) Names() []string                                       { return nil }
func (*inlineNothing) Apply(context.Context, pgx.Tx, []eventstore.Raw) error { return nil }

func TestWithTxRefusesNil(t *testing.T) {
	t.Parallel()
	store, err := eventstore.New(pgtest.Pool(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tx := range []pgx.Tx{nil, (*pgxpool.Tx)(nil)} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "eventstore: Store.WithTx: the transaction is nil") {
					t.Errorf("panic %q for %#v", got, tx)
				}
			}()
			store.WithTx(tx)
		}()
	}
}

func TestNotMigrated(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), pgtest.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, appendErr := store.Append(t.Context(), stream("a"), eventstore.Any, draft(1))
	_, tidemarkErr := store.Tidemark(t.Context())
	for what, err := range map[string]error{
		"append": appendErr, "tidemark": tidemarkErr,
		"read": firstErr(store.Read(t.Context(), stream("a"), eventstore.ReadOptions{})),
		"all":  firstErr(store.ReadAll(t.Context(), 0, eventstore.Filter{})),
	} {
		if !errors.Is(err, eventstore.ErrNotMigrated) {
			t.Errorf("%s: %v, want ErrNotMigrated", what, err)
		}
	}
}

func firstErr(events func(func(eventstore.Raw, error) bool)) (first error) {
	for _, err := range events {
		first = err
		break
	}
	return first
}

// TestWithTx: an append and the caller's own rows are stored together or not at all.
func TestWithTx(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `create table mine (x int)`)
	for _, commit := range []bool{false, true} {
		tx := begin(t, pool)
		bound := store.WithTx(tx)
		mustExec(t, tx, `insert into mine values (1)`)
		mustAppend(t, bound, "a", eventstore.NoStream)
		mustAppend(t, bound, "a", 1) // the transaction sees its own append
		if commit {
			mustCommit(t, tx)
		} else if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		var rows, events int
		if err := pool.QueryRow(t.Context(), `select (select count(*) from mine), (select count(*) from tidemark.events)`).Scan(&rows, &events); err != nil {
			t.Fatal(err)
		}
		if want := map[bool][2]int{false: {0, 0}, true: {1, 2}}[commit]; rows != want[0] || events != want[1] {
			t.Errorf("commit %v: %d rows and %d events, want %v", commit, rows, events, want)
		}
	}
}

// TestKeyIsAtomic: an idempotency key is stored with the events or not at all.
func TestKeyIsAtomic(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	ctx := eventstore.WithKey(t.Context(), "once", nil)
	for _, commit := range []bool{false, true} {
		tx := begin(t, pool)
		first, err := store.WithTx(tx).Append(ctx, stream("a"), eventstore.NoStream, draft(1))
		if err != nil {
			t.Fatal(err)
		}
		again, err := store.WithTx(tx).Append(eventstore.WithKey(t.Context(), "once", nil), stream("a"), eventstore.NoStream, draft(1))
		if err != nil || again != first {
			t.Errorf("repeated in one transaction: %+v, %v; want %+v", again, err, first)
		}
		if commit {
			mustCommit(t, tx)
		} else if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, stored, err := store.Receipts(ctx); stored != commit || err != nil {
			t.Errorf("commit %v: stored %v, %v", commit, stored, err)
		}
	}
}

// TestWithTxConflict: an append within a caller's transaction waits for an open append to the same stream, and then
// knows the version. After a conflict the transaction can still be used.
func TestWithTxConflict(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	first, second := begin(t, pool), begin(t, pool)
	appendIn(t, store, first)
	result := make(chan error, 1)
	go func() {
		_, err := store.WithTx(second).Append(t.Context(), stream("open"), eventstore.NoStream, draft(2))
		result <- err
	}()
	waitUntilBlocked(t, pool, second.Conn().PgConn().PID())
	mustCommit(t, first)
	var conflict *eventstore.ConflictError
	if err := <-result; !errors.As(err, &conflict) || conflict.Stream != stream("open") || conflict.Actual != 1 {
		t.Errorf("%v, want a conflict in %s at version 1", err, stream("open"))
	}
	mustAppend(t, store.WithTx(second), "open", 1)
	mustCommit(t, second)
}

func waitUntilBlocked(t *testing.T, pool *pgxpool.Pool, pid uint32) {
	t.Helper()
	pgtest.Until(t, time.Minute, "the session waits for a lock", func() (blocked bool) {
		if err := pool.QueryRow(t.Context(), `select cardinality(pg_blocking_pids($1)) > 0`, pid).Scan(&blocked); err != nil {
			t.Fatal(err)
		}
		return blocked
	})
}

func TestEventsNeverChange(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustAppend(t, store, "a", eventstore.NoStream)
	for _, sql := range []string{
		`update tidemark.events set version = 2`,
		`delete from tidemark.events`,
		`truncate tidemark.events`,
		`delete from tidemark.events where false`,
	} {
		if _, err := pool.Exec(t.Context(), sql); !pgerr.Is(err, pgerr.Immutable) {
			t.Errorf("%s: %v, want it refused", sql, err)
		}
	}
}

// TestAppendFromSQL: the SQL function keeps the guarantees for every client, such as psql.
func TestAppendFromSQL(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	call := func(streams, expected, changes, types string) error {
		_, err := pool.Exec(t.Context(), `select * from tidemark.append(`+streams+`, `+expected+`, `+changes+`,
			array[gen_random_uuid()], `+types+`, array[1::smallint], array['{}'::json], array[null::json])`)
		return err
	}
	if err := call(`array['thing-a']`, `array[0]`, `array[1]`, `array['t']`); err != nil {
		t.Errorf("a good call: %v", err)
	}
	for name, test := range map[string]struct {
		streams, expected, changes, types, code string
	}{
		"conflict":          {`array['thing-a']`, `array[0]`, `array[1]`, `array['t']`, pgerr.Conflict},
		"no stream":         {`array[]::text[]`, `array[]::bigint[]`, `array[1]`, `array['t']`, pgerr.InvalidArgument},
		"null stream":       {`array[null]`, `array[0]`, `array[1]`, `array['t']`, pgerr.InvalidArgument},
		"malformed stream":  {`array['thing']`, `array[0]`, `array[1]`, `array['t']`, pgerr.InvalidArgument},
		"empty category":    {`array['-x']`, `array[0]`, `array[1]`, `array['t']`, pgerr.InvalidArgument},
		"empty key":         {`array['x-']`, `array[0]`, `array[1]`, `array['t']`, pgerr.InvalidArgument},
		"expected too low":  {`array['x-y']`, `array[-3]`, `array[1]`, `array['t']`, pgerr.InvalidArgument},
		"expected null":     {`array['x-y']`, `array[null]::bigint[]`, `array[1]`, `array['t']`, pgerr.InvalidArgument},
		"no event":          {`array['x-y']`, `array[0]`, `array[]::int[]`, `array['t']`, pgerr.InvalidArgument},
		"lengths differ":    {`array['x-y']`, `array[0]`, `array[1]`, `array['t', 'u']`, pgerr.InvalidArgument},
		"null array":        {`array['x-y']`, `null`, `array[1]`, `array['t']`, pgerr.InvalidArgument},
		"change of nothing": {`array['x-y']`, `array[0]`, `array[2]`, `array['t']`, pgerr.InvalidArgument},
	} {
		if err := call(test.streams, test.expected, test.changes, test.types); !pgerr.Is(err, test.code) {
			t.Errorf("%s: %v, want SQLSTATE %s", name, err, test.code)
		}
	}
	if keys, _ := keysAfter(t, store, 0); len(keys) != 1 {
		t.Errorf("events of %v, want one event", keys)
	}
}
