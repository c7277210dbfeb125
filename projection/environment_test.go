package projection_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// lines counts the log records.
type lines struct {
	slog.Handler
	n atomic.Int64
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler       { return l }

func (l *lines) Handle(context.Context, slog.Record) error {
	l.n.Add(1)
	return nil
}

// noLetters fails if there are dead letters.
func (f *fixture) noLetters() {
	f.Helper()
	var n int
	var reason string
	if err := f.pool.QueryRow(f.Context(), `select count(*), coalesce(min(error), '') from tidemark.dead_letters`).Scan(&n, &reason); err != nil || n > 0 {
		f.Errorf("%d events are parked, one of them because of %q; %v", n, reason, err)
	}
}

// switchable returns a pool, and a function that turns a setting on and off for all connections of the pool.
func switchable(f *fixture, name, value string) (pool *pgxpool.Pool, turn func(on bool)) {
	f.Helper()
	config := f.pool.Config()
	var on atomic.Bool
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		if delete(c.RuntimeParams, name); on.Load() {
			c.RuntimeParams[name] = value
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(pool.Close)
	return pool, func(to bool) {
		on.Store(to)
		pool.Reset()
	}
}

// TestReadOnlyDatabase: while the database is read-only, no event is blamed, no effect is called, and the failure is
// logged with growing pauses.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			pool, readOnly := switchable(f, "default_transaction_read_only", "on")
			log, calls := &lines{}, atomic.Int64{}
			p := k.make(f, "a", projection.Options{}, func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
				calls.Add(1)
				return nil
			})
			r := f.run(pool, &projection.Config{Logger: slog.New(log), MaxBackoff: 400 * time.Millisecond}, p)
			f.wait(r, f.put("x", 1))
			readOnly(true)
			f.until("it is failing", func() bool { // the status cannot say so: it cannot be written
				last := f.put("y", 1)
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				return r.Wait(ctx, last) != nil
			})
			before, logged := calls.Load(), log.n.Load()
			last := f.put("z", 1, 2, 3)
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := r.Wait(ctx, last); err == nil {
				t.Error("the projection advances although it cannot write")
			}
			if n, most := log.n.Load()-logged, int64(time.Since(start)/(100*time.Millisecond)); n > most {
				t.Errorf("%d lines are logged in %s, want at most %d", n, time.Since(start), most)
			}
			if n := calls.Load() - before; k.name == "subscription" && n > 0 {
				t.Errorf("%d effects were called although the checkpoint could not be written", n)
			}
			readOnly(false)
			f.wait(r, last)
			f.noLetters()
		})
	}
}

// run runs projections over the given pool until the test ends.
func (f *fixture) run(pool *pgxpool.Pool, config *projection.Config, projections ...*projection.Projection) *projection.Runner {
	f.Helper()
	other := &fixture{T: f.T, pool: pool}
	var err error
	if other.store, err = eventstore.New(pool, nil); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(other.store.Close)
	r, _ := other.start(config, other.store, projections...)
	return r
}

// TestStatementTimeout: another session locks the read model for longer than statements can take. No event is blamed.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"statement_timeout", "lock_timeout"} {
		for _, k := range kinds[:2] {
			t.Run(setting+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				f := setup(t)
				pool, limit := switchable(f, setting, "50ms")
				r := f.run(pool, &projection.Config{Logger: quiet.Logger, MaxBackoff: 20 * time.Millisecond}, k.make(f, "a", projection.Options{}, noHook))
				f.wait(r, f.put("x", 1))
				operator, err := projection.NewOperator(f.pool, quietOperator) // over a pool without the limit
				if err != nil {
					t.Fatal(err)
				}
				limit(true)
				tx, err := f.pool.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback(context.Background())
				table := "model"
				if k.name == "table" {
					table = "a_v1"
				}
				if _, err := tx.Exec(t.Context(), `lock table `+table+` in share mode`); err != nil {
					t.Fatal(err)
				}
				last := f.put("y", 1, 2, 3)
				f.until("it fails for some time", func() bool {
					status, err := operator.Status(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					p := status.Projections[0].Partitions[0]
					return !p.FailingSince.IsZero() && time.Since(p.FailingSince) > time.Second
				})
				if err := tx.Rollback(t.Context()); err != nil {
					t.Fatal(err)
				}
				f.wait(r, last)
				f.noLetters()
			})
		}
	}
}

// TestHiddenError: the error of Postgres decides whether the event is to blame, even when the handler hides that error.
func TestHiddenError(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create table busy (n int)`)
	var tries atomic.Int64
	r, _ := f.start(quiet, f.store, projection.New("a", nil, projection.On(counting, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		switch e.Data.N {
		case 1: // the environment fails, and the handler returns an error of its own
			tries.Add(1)
			if _, err := tx.Exec(ctx, `set local lock_timeout = '10ms'`); err != nil {
				return err
			}
			rows, _ := tx.Query(ctx, `select n from busy for update`)
			if _, err := pgx.CollectRows(rows, pgx.RowTo[int]); err != nil {
				return errors.New("the counter is not there")
			}
		case 2: // the environment fails, and the handler ignores the error
			tries.Add(1)
			_, _ = tx.Exec(ctx, `set local lock_timeout = '10ms'; lock table busy`)
		case 3: // the data is wrong, and the handler ignores the error
			_, _ = tx.Exec(ctx, `insert into model values ('a', 1, 99999999999999)`)
			return nil
		}
		_, err := tx.Exec(ctx, `insert into model values ('a', $1, $2)`, e.Position, e.Data.N)
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		return nil
	})))
	f.wait(r, f.put("x", 0))
	for n := range 2 {
		tx, err := f.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		if _, err := tx.Exec(t.Context(), `lock table busy in access exclusive mode`); err != nil {
			t.Fatal(err)
		}
		tries.Store(0)
		last := f.put("x", n+1)
		f.until("it was tried more often than an event that is to blame", func() bool { return tries.Load() > 8 })
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.wait(r, last)
		f.noLetters()
	}
	f.wait(r, f.put("bad", 3))
	var reason string
	if err := f.pool.QueryRow(t.Context(), `select error from tidemark.dead_letters`).Scan(&reason); err != nil || !strings.Contains(reason, "out of range") {
		t.Errorf("the dead letter says %q, %v; want the error of Postgres", reason, err)
	}
}

// TestConstraintBetweenPartitions: an event that fails on a constraint is tried again while another partition advances,
// because that partition may delete or write the row that the constraint is about.
func TestConstraintBetweenPartitions(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create table seats (seat int primary key, owner text)`)
	// Events with the number 1 take the one seat, and events with 0 free it, slowly. The keys are in different
	// partitions.
	p := projection.New("a", &projection.Options{Partitions: 4}, projection.On(counting, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		sql := `insert into seats values (1, $1)`
		if e.Data.N == 0 {
			if _, err := tx.Exec(ctx, `select pg_sleep(0.02)`); err != nil {
				return err
			}
			sql = `delete from seats where owner = $1`
		}
		owner := strings.TrimPrefix(e.Stream.Key, "free-")
		_, err := tx.Exec(ctx, sql, owner)
		return err
	}))
	var last eventstore.Position
	for n := range 20 {
		owner := fmt.Sprint("owner", n)
		f.put(owner, 1)
		last = f.put(owner, 0)
	}
	config := *quiet
	config.BatchSize = 1 // a seat is taken in one transaction and freed in the next
	r, _ := f.start(&config, f.store, p)
	f.wait(r, last)
	f.noLetters()
	// Now no other event can free the seat: the event is to blame.
	f.put("one", 1)
	f.wait(r, f.put("two", 1))
	if s := f.statusOf(r, "a"); s.Parked != 1 {
		t.Errorf("%d events are parked, want the one whose seat is never freed", s.Parked)
	}
}

// TestLastingFailure: while a failure lasts that is not about an event, the status has the time since when it lasts.
// The partition tries again with growing pauses. The projection is unhealthy and, after StallAfter, stalled.
func TestLastingFailure(t *testing.T) {
	t.Parallel()
	f := setup(t)
	lines := &lines{}
	log := &failingLog{Store: f.store}
	config := &projection.Config{Logger: slog.New(lines), MaxBackoff: 2 * time.Second, StallAfter: 4 * time.Second}
	r, _ := f.start(config, log, record("a", nil))
	f.wait(r, f.put("a", 0))
	log.fail.Store(true)
	begun := time.Now()
	last := f.put("other", 0)
	f.until("failing", func() bool { return !f.statusOf(r, "a").Partitions[0].FailingSince.IsZero() })
	since := f.statusOf(r, "a").Partitions[0]
	pgtest.Until(t, 20*time.Second, "stalled", func() bool {
		p := f.statusOf(r, "a").Partitions[0]
		if !p.FailingSince.Equal(since.FailingSince) || !p.AdvancedAt.Equal(since.AdvancedAt) || p.Error == "" {
			t.Fatalf("after %s it fails since %s and advanced at %s: %q; want since %s and %s",
				time.Since(begun), p.FailingSince, p.AdvancedAt, p.Error, since.FailingSince, since.AdvancedAt)
		}
		if err := r.Health(t.Context()); err == nil {
			t.Fatal("it is healthy")
		}
		return f.statusOf(r, "a").Stalled
	})
	if n, most := lines.n.Load(), 20+int64(time.Since(begun)/time.Second); n > most {
		t.Errorf("%d lines are logged in %s", n, time.Since(begun))
	}
	log.fail.Store(false)
	f.wait(r, last)
	f.until("healthy", func() bool { return r.Health(t.Context()) == nil })
}
