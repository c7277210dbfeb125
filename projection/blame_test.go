package projection_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestMalformedAddress: the error for a malformed address is blamed on the event, and not taken for a network failure.
func TestMalformedAddress(t *testing.T) {
	t.Parallel()
	addresses := []string{"http://[", "mailto:ada@example.org", "http://localhost:99999999/", ""}
	for _, k := range kinds {
		if k.name == "table" {
			continue // a fold makes no HTTP requests
		}
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			r, _ := f.start(quiet, f.store, k.make(f, "a", projection.Options{}, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
				if e.Data.N < 0 {
					return nil
				}
				answer, err := http.Get(addresses[e.Data.N])
				if err != nil {
					return fmt.Errorf("tell the customer: %w", err)
				}
				return answer.Body.Close()
			}))
			for n := range addresses {
				f.put(fmt.Sprint("bad", n), n)
			}
			f.wait(r, f.put("good", -1))
			if s := f.statusOf(r, "a"); s.Parked != len(addresses) {
				t.Errorf("%d events are parked, want the %d with bad addresses", s.Parked, len(addresses))
			}
		})
	}
}

// TestPausesGrow: pages that a partition passes again before each attempt at a failing event do not count as progress.
// So the pauses grow.
func TestPausesGrow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	// Pauses start at 0.1 s and grow by a factor of 1.5. At random, a pause can be half as long.
	const tries, least = 8, 1300 * time.Millisecond
	tried := make(chan time.Time, 1000)
	fails := record("a", func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
		tried <- time.Now()
		return projection.Transient(errors.New("no"))
	})
	passes := projection.New("b", nil, projection.On(other, nothing))
	f.append(other, 30)
	f.put("a", 1)
	f.start(&projection.Config{Logger: quiet.Logger, BatchSize: 10}, f.store, fails, passes)
	first := <-tried
	var last time.Time
	for range tries - 1 {
		last = <-tried
	}
	if took := last.Sub(first); took < least {
		t.Errorf("%d attempts within %s, want %s at least", tries, took, least)
	}
}

// TestIdleHandler: when a handler leaves its transaction idle for longer than a lease, Postgres ends the transaction,
// and the event is blamed. It does not matter whether the handler returns that error, hides it, or never gets it.
func TestIdleHandler(t *testing.T) {
	t.Parallel()
	const lease = 500 * time.Millisecond
	for name, then := range map[string]func(context.Context, pgx.Tx) error{
		"continues": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `insert into model values ('a', 0, 0)`)
			return err
		},
		"hides the error": func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `insert into model values ('a', 0, 0)`); err != nil {
				return errors.New("no")
			}
			return nil
		},
		"leaves it to others": func(context.Context, pgx.Tx) error { return nil },
	} {
		for _, more := range []int{0, 2} { // events behind it
			t.Run(fmt.Sprint(name, "/", more), func(t *testing.T) {
				t.Parallel()
				f := setup(t)
				config := &projection.Config{Logger: quiet.Logger, MaxBackoff: time.Millisecond, Lease: lease}
				r, _ := f.start(config, f.store, record("a", func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
					if e.Data.N != bad {
						return nil
					}
					pauseFor(ctx, 2*lease)
					return then(ctx, tx)
				}))
				f.put("before", 1)
				last := f.put("bad", bad)
				for n := range more {
					last = f.put(fmt.Sprint("after", n), n)
				}
				f.wait(r, last)
				letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "a", Version: projection.Live}, "", 0, 10)
				if err != nil || len(letters) != 1 || letters[0].Key != "counter-bad" {
					t.Errorf("dead letters %+v, %v; want only the event of the idle handler", letters, err)
				}
			})
		}
	}
}

// TestLongStatementIsNotIdle: a transaction is not idle during a statement that takes longer than a lease. When the
// session ends after such a statement, the event is not blamed but tried again.
func TestLongStatementIsNotIdle(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const lease = 300 * time.Millisecond
	calls := 0
	config := &projection.Config{Logger: quiet.Logger, MaxBackoff: time.Millisecond, Lease: lease}
	p := projection.New("a", &projection.Options{MaxAttempts: 1}, projection.On(counting, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		if calls++; calls <= 2 {
			if _, err := tx.Exec(ctx, `select pg_sleep($1)`, 2*lease.Seconds()); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `select pg_terminate_backend(pg_backend_pid())`); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `insert into model values ('a', $1, $2)`, e.Position, e.Data.N)
		return err
	}))
	r, _ := f.start(config, f.store, p)
	f.wait(r, f.put("x", 1))
	f.noLetters()
	f.checkModel("a")
}

// TestFencedTwice: a partition is fenced twice, first while its token stays the same, then by a new token. It continues
// both times.
func TestFencedTwice(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			var slow atomic.Bool
			config := *quiet
			config.BatchSize = 10
			r, _ := f.start(&config, f.store, k.make(f, "a", projection.Options{}, func(ctx context.Context, _ pgx.Tx, _ eventstore.Event[counted]) error {
				if slow.Load() {
					pauseFor(ctx, 20*time.Millisecond)
				}
				return nil
			}))
			f.wait(r, f.put("a", 1))
			f.exec(`update tidemark.projection_partitions set checkpoint = 0, handled = 0`) // as after a crash of Postgres that lost the commit
			f.wait(r, f.put("a", 2))
			slow.Store(true)
			for n := range 60 {
				f.put("b", n)
			}
			f.exec(`update tidemark.projection_partitions set fencing_token = fencing_token + 1`)
			f.wait(r, f.put("a", 3))
			f.noLetters()
		})
	}
}

// TestPartsStop: events that the codec splits into parts count for StopAfter like other events, and are tried as often.
func TestPartsStop(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$`)
	split := codec.New(codec.Split("counted", func(e counted) []counted { return []counted{{2 * e.N}, {2*e.N + 1}} }))
	table := projection.NewTable("parts", &projection.Options{
		StopAfter: 3,
		DDL: `create table {parts} (key text primary key, events bigint not null, total bigint not null); create trigger refuse before insert or update on {parts}
			for each row when (new.total > 4) execute function refuse()`,
	}, projection.Fold(split,
		func(e eventstore.Event[counted]) string { return fmt.Sprint(e.Data.N) },
		func(row *sum, e eventstore.Event[counted]) projection.Op {
			row.Total = int64(e.Data.N)
			return projection.Put
		}))
	for n := range 8 {
		f.put(fmt.Sprint(n), n)
	}
	r, _ := f.start(quiet, f.store, table)
	f.stopped(r, "parts", "3 different keys")
	rows, _ := f.pool.Query(t.Context(), `select distinct attempts from tidemark.dead_letters where attempts > 0`)
	attempts, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil || !slices.Equal(attempts, []int{3}) {
		t.Errorf("attempts %v, %v; want 3", attempts, err)
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
