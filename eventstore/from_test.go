package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// startAt finds the version first, and then another one in the statement that reads the events, as if a write had come
// between. Nil is no row.
func startAt(first, second *int64) eventstore.Start {
	number := func(n int) string {
		return fmt.Sprintf("select $%d::bigint where $%[1]d::bigint is not null and ($1::text, $2::bigint, $3::bigint, $4::bigint) is distinct from ('', 0, 0, 0)", n)
	}
	return eventstore.Start{
		SQL: number(3), Version: number(4), Args: []any{first, second}, Within: 10 * time.Second,
		Scan: func(rows pgx.Rows) (version eventstore.Version, err error) {
			if rows.Next() {
				err = rows.Scan((*int64)(&version))
			}
			return version, err
		},
	}
}

func collected(events iter.Seq2[eventstore.Raw, error]) (all []eventstore.Raw, err error) {
	for event, err := range events {
		if err != nil {
			return all, err
		}
		all = append(all, event)
	}
	return all, nil
}

// TestReadFrom: ReadFrom gives what Read gives from the version that the query finds, with pages of any size, also when
// the second statement finds another version.
func TestReadFrom(t *testing.T) {
	t.Parallel()
	_, pool := open(t)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		for _, size := range []int{2, 7, 1000} {
			store, err := eventstore.New(openMode(t, pool, mode), &eventstore.Config{PageSize: size, PollOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprint(mode, size)
			for n := range 7 {
				mustAppend(t, store, name, eventstore.Version(n))
			}
			n := func(n int64) *int64 { return &n }
			versions := []*int64{nil, n(0), n(1), n(3), n(6), n(7), n(8), n(100)}
			for _, key := range []string{name, "none"} {
				for _, to := range []eventstore.Version{0, 3, 6, 9} {
					for _, first := range versions {
						for _, second := range versions {
							checkFrom(t, store, stream(key), to, first, second)
						}
					}
				}
			}
		}
	}
}

func checkFrom(t *testing.T, store *eventstore.Store, id eventstore.StreamID, to eventstore.Version, first, second *int64) {
	t.Helper()
	version := int64(1)
	if first != nil {
		version = max(*first, 1)
	}
	want, err := collected(store.Read(t.Context(), id, eventstore.ReadOptions{After: eventstore.Version(version - 1), To: to}))
	if err != nil {
		t.Fatal(err)
	}
	from, err := store.ReadFrom(t.Context(), id, to, startAt(first, second))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // an iterator can be used again
		got, err := collected(from)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s to %d from %v, then %v: %v\n%s", id, to, deref(first), deref(second), err, diff)
		}
	}
}

func deref(n *int64) any {
	if n == nil {
		return "none"
	}
	return *n
}

// TestReadFromFails: an error of the query is returned at once, an error of the events by the iterator.
func TestReadFromFails(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustAppend(t, store, "a", eventstore.NoStream)
	broken := errors.New("broken")
	read := func(ctx context.Context, s *eventstore.Store, change func(*eventstore.Start)) (iter.Seq2[eventstore.Raw, error], error) {
		start := startAt(nil, nil)
		if change != nil {
			change(&start)
		}
		return s.ReadFrom(ctx, stream("a"), 0, start)
	}
	for name, change := range map[string]func(*eventstore.Start){
		"no table": func(s *eventstore.Start) { s.SQL = "select 1 from no_such_table" },
		"fails":    func(s *eventstore.Start) { s.SQL = "select 1 / ($2::bigint * 0)" + s.SQL[len("select $3::bigint"):] },
		"scan":     func(s *eventstore.Start) { s.Scan = func(pgx.Rows) (eventstore.Version, error) { return 0, broken } },
		"late": func(s *eventstore.Start) {
			s.SQL += " or (select pg_sleep(9) is null)"
			s.Within = 100 * time.Millisecond
		},
	} {
		began := time.Now()
		if _, err := read(t.Context(), store, change); err == nil || name == "scan" && !errors.Is(err, broken) || time.Since(began) > 5*time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(began))
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read(done, store, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("when the caller has given up: %v", err)
	}
	if _, err := read(t.Context(), store.WithTx(begin(t, pool)), nil); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("in a transaction: %v", err)
	}
	if _, err := store.ReadFrom(t.Context(), eventstore.StreamID{}, 0, startAt(nil, nil)); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("no stream: %v", err)
	}
	mustExec(t, pool, `drop function tidemark.proven(bigint, uuid, bigint, boolean)`)
	mustExec(t, pool, `create function tidemark.proven() returns boolean language plpgsql as $$ begin raise exception 'no proof'; end $$`)
	events, err := read(t.Context(), store, nil)
	if err != nil {
		t.Fatalf("the error of the events is not that of the query: %v", err)
	}
	if _, err := collected(events); err == nil {
		t.Error("the events are read without a proof")
	}
}

// TestUses: a store knows its pool, and is not over it in a transaction.
func TestUses(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	if other := pgtest.Pool(t); !store.Uses(pool) || store.Uses(other) || store.WithTx(begin(t, pool)).Uses(pool) {
		t.Error("a store does not know its pool")
	}
}
