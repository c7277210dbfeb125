package projection_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

// runErr runs projections and returns the error of Run.
func (f *fixture) runErr(log projection.Log, projections ...*projection.Projection) error {
	f.Helper()
	r, err := projection.NewRunner(f.pool, log, quiet, projections...)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.Context(), 10*time.Second)
	defer cancel()
	return r.Run(ctx)
}

// seats returns a projection with the given name, table and version.
func seats(name, table string, version int) *projection.Projection {
	o := &projection.Options{Version: version, Tables: []string{table}, DDL: `create table {` + table + `} (position bigint primary key, by text)`}
	return projection.New(name, o, projection.On(counting, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		_, err := tx.Exec(ctx, `insert into {`+table+`} values ($1, $2)`, e.Position, name)
		return err
	}))
}

// TestTableOfAnother: a projection cannot take the table of another projection, at any version and under any spelling
// of the table's name. The error names both projections. When the other projection is dropped, the table is free.
func TestTableOfAnother(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, seats("first", "m", 1))
	f.wait(r, f.put("a", 1))
	for _, p := range []*projection.Projection{seats("second", "m", 1), seats("second", "m", 2), seats("second", "public.m", 2)} {
		err := f.runErr(f.store, p)
		var taken *projection.TakenError
		if !errors.As(err, &taken) || taken.Owner != "first" || taken.Projection != "second" {
			t.Errorf("version %d: %v, want a TakenError that names both", p.Version(), err)
		}
	}
	var by string
	if err := f.pool.QueryRow(t.Context(), `select by from m`).Scan(&by); err != nil || by != "first" {
		t.Errorf("readers see rows of projection %q, want \"first\"; %v", by, err)
	}
	next, end := f.start(quiet, f.store, seats("first", "m", 2)) // a new version of the same projection can have it
	f.untilLive(next, 2)
	end()
	stop()
	f.exec(`delete from tidemark.projections where name = 'first'`)
	f.exec(`drop view m; drop table m_v1, m_v2`)
	r, _ = f.start(quiet, f.store, seats("second", "m", 1))
	f.wait(r, f.put("a", 2))
}

// TestNameOfApplication: a projection cannot take the name of a table or view that the application uses, or that
// belongs to a projection of another schema.
func TestNameOfApplication(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create view v as select 'mine' as by; create table t (by text); create materialized view mv as select 'mine' as by`)
	if err := migrations.Up(t.Context(), f.pool, &migrations.Config{Schema: "elsewhere"}); err != nil {
		t.Fatal(err)
	}
	store, err := eventstore.New(f.pool, &eventstore.Config{Schema: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	config := *quiet
	config.Schema = "elsewhere"
	r, stop := f.start(&config, store, seats("theirs", "s", 1))
	f.wait(r, 0)
	stop()
	for _, table := range []string{"v", "t", "mv", "s"} {
		for _, version := range []int{1, 2} {
			err := f.runErr(f.store, seats("mine", table, version))
			var taken *projection.TakenError
			if !errors.As(err, &taken) || taken.Owner != "" || taken.Table != table {
				t.Errorf("%s, version %d: %v, want a TakenError without an owner", table, version, err)
			}
		}
	}
	f.exec(`select by from v; select by from t; select by from mv; select by from s`)
}

// TestDropLive: Drop removes the live version and its view when it is the last version and no process runs it. Then
// another projection can take the name of its table.
func TestDropLive(t *testing.T) {
	t.Parallel()
	f := setup(t)
	old, stop := f.start(quiet, f.store, seats("first", "m", 1))
	f.wait(old, f.put("a", 1))
	if err := old.Operator().Drop(t.Context(), projection.Ref{Name: "first", Version: 1}); !errors.Is(err, projection.ErrRefused) || !strings.Contains(err.Error(), "runs it") {
		t.Errorf("while it runs: %v, want it refused", err)
	}
	stop()
	both, end := f.start(quiet, f.store, seats("first", "m", 2))
	f.untilLive(both, 2)
	end()
	if err := both.Operator().Drop(t.Context(), projection.Ref{Name: "first", Version: 2}); !errors.Is(err, projection.ErrRefused) || !strings.Contains(err.Error(), "other versions") {
		t.Errorf("with an older version: %v, want it refused", err)
	}
	for _, version := range []int{1, 2} {
		if err := both.Operator().Drop(t.Context(), projection.Ref{Name: "first", Version: version}); err != nil {
			t.Error(err)
		}
	}
	r, _ := f.start(quiet, f.store, seats("second", "m", 1))
	f.wait(r, f.put("a", 2))
	var by string
	if err := f.pool.QueryRow(t.Context(), `select distinct by from m`).Scan(&by); err != nil || by != "second" {
		t.Errorf("readers see rows of projection %q, want \"second\"; %v", by, err)
	}
}

// TestTablesThatCannotBeMade: a projection whose DDL is wrong does not hold up other projections.
func TestTablesThatCannotBeMade(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`create table left_v1 (n int)`)
	wrong := projection.New("wrong", &projection.Options{Tables: []string{"w"}, DDL: `create table {w} (n no_such_type)`}, projection.On(counting, nothing))
	left := seats("left", "left", 1)
	if err := f.runErr(f.store, wrong, left); err == nil || !strings.Contains(err.Error(), "no_such_type") || !strings.Contains(err.Error(), "drop or rename it") {
		t.Errorf("Run: %v, want both reasons", err)
	}
	r, _ := f.start(quiet, f.store, wrong, left, record("good", nil))
	f.wait(r, f.put("a", 1), "good")
	if err := r.Health(t.Context()); err == nil || !strings.Contains(err.Error(), "no_such_type") || !strings.Contains(err.Error(), "left_v1") {
		t.Errorf("health: %v, want both reasons", err)
	}
}

// TestRegisterBehindALock: a runner that cannot register projections because of a lock tries again, and does not end.
func TestRegisterBehindALock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	position := f.put("a", 1)
	pool := pgtest.Connect(t, f.pool.Config().ConnString(), func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["lock_timeout"] = "20ms" })
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `lock table tidemark.projections in share mode`); err != nil {
		t.Fatal(err)
	}
	lines := &lines{}
	r := f.run(pool, &projection.Config{Logger: slog.New(lines)}, record("a", nil))
	f.until("it was tried again", func() bool { return lines.n.Load() > 1 })
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(r, position)
}

// TestOtherKind: a projection cannot have another kind than the one that is stored under its name and version.
func TestOtherKind(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, newHandler(f, "a", projection.Options{}, noHook), newPositions(f, "b", projection.Options{}, noHook))
	f.wait(r, f.put("a", 1))
	stop()
	for name, p := range map[string]*projection.Projection{
		"handlers": newEffect(f, "a", projection.Options{}, noHook),
		"table": projection.New("b", &projection.Options{Tables: []string{"b"}, DDL: `create table {b} (stream text primary key, positions text not null, numbers text not null)`},
			projection.On(counting, func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil })),
	} {
		var changed *projection.ChangedError
		if err := f.runErr(f.store, p); !errors.As(err, &changed) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want a ChangedError that names the kinds", name, err)
		}
	}
}

// TestOtherStore: when a runner's pool and log are of different databases, Run returns an error at once.
func TestOtherStore(t *testing.T) {
	t.Parallel()
	f, other := setup(t), setup(t)
	err := f.runErr(other.store, record("a", nil))
	mine, mineErr := f.store.Identity(t.Context())
	its, itsErr := other.store.Identity(t.Context())
	if err == nil || mineErr != nil || itsErr != nil || !strings.Contains(err.Error(), mine.String()) || !strings.Contains(err.Error(), its.String()) {
		t.Errorf("%v, want an error that names %s and %s", err, mine, its)
	}
}

// TestClockPutBack: leases, members and holds that end far in the future are not believed. They were written before the
// server's clock was put back.
func TestClockPutBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.Lease = time.Second
	_, stop := f.start(&config, f.store, record("a", nil))
	f.until("it runs", func() bool {
		var n int
		return f.pool.QueryRow(t.Context(), `select count(*) from tidemark.projection_members`).Scan(&n) == nil && n == 1
	})
	stop()
	f.exec(`update tidemark.projection_partitions set lease_owner = 'gone', lease_expires = clock_timestamp() + interval '1 hour', lease_length = '10 s',
	               advanced_at = clock_timestamp() + interval '1 hour'`)
	f.exec(`insert into tidemark.projection_members (projection, version, owner, expires, length) values ('a', 1, 'gone', clock_timestamp() + interval '1 hour', '10 s')`)
	f.exec(`update tidemark.projections set held_until = clock_timestamp() + interval '1 hour'`)
	r, err := projection.NewRunner(f.pool, f.store, &config, record("a", nil))
	if err != nil {
		t.Fatal(err)
	}
	if s := f.statusOf(r, "a"); s.Partitions[0].Owner != "" || s.LagTime < 0 {
		t.Errorf("the status has the owner %q and the lag %s, want no owner and no negative lag", s.Partitions[0].Owner, s.LagTime)
	}
	r, _ = f.start(&config, f.store, record("a", nil))
	f.wait(r, f.put("a", 1))
}

// TestStalledWithoutClock: a projection without progress is stalled, even if it advanced in the future by the clock of
// the server.
func TestStalledWithoutClock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.StallAfter = 50 * time.Millisecond
	r, stop := f.start(&config, f.store, record("a", nil))
	f.wait(r, f.put("a", 1))
	stop()
	f.put("a", 2)
	f.exec(`update tidemark.projection_partitions set advanced_at = clock_timestamp() + interval '1 hour'`)
	f.until("stalled", func() bool { return f.statusOf(r, "a").Stalled })
}

// TestOnceOfAFrozenProcess: while the transaction of another process has noted the effect and does not end, the event
// waits and does not become a dead letter.
func TestOnceOfAFrozenProcess(t *testing.T) {
	t.Parallel()
	f := setup(t)
	frozen, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Rollback(context.Background())
	position := f.put("a", 1)
	if _, err := frozen.Exec(t.Context(), `insert into tidemark.inbox (projection, position, part) values ('a', $1, 'mail')`, position); err != nil {
		t.Fatal(err)
	}
	o := &projection.Options{Timeout: 200 * time.Millisecond}
	r, _ := f.start(quiet, f.store, projection.NewSubscription("a", o, projection.Effect(counting, func(ctx context.Context, e eventstore.Event[counted]) error {
		return pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
			first, err := projection.Once(ctx, tx, "mail")
			if err != nil || !first {
				return err
			}
			_, err = tx.Exec(ctx, `insert into model values ('a', $1, $2)`, e.Position, e.Data.N)
			return err
		})
	})))
	f.until("the status says what it waits for", func() bool {
		p := f.statusOf(r, "a").Partitions[0]
		who := fmt.Sprintf("process %d of Postgres", frozen.Conn().PgConn().PID())
		return strings.Contains(p.Error, "another process") && strings.Contains(p.Error, who) && time.Since(p.FailingSince) > 5*o.Timeout
	})
	if err := frozen.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(r, position)
	f.noLetters()
	f.checkModel("a")
}

// TestOnceEnds: when a process hangs after it has noted an effect, Postgres ends its transaction. Then another process
// can note the effect.
func TestOnceEnds(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var limit, lock string
	o := &projection.Options{Timeout: 3 * time.Second}
	r, _ := f.start(quiet, f.store, projection.NewSubscription("a", o, projection.Effect(counting, func(ctx context.Context, _ eventstore.Event[counted]) error {
		return pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
			if _, err := projection.Once(ctx, tx, "mail"); err != nil {
				return err
			}
			return tx.QueryRow(ctx, `select current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout')`).Scan(&limit, &lock)
		})
	})))
	f.wait(r, f.put("a", 1))
	if limit != "4s" || lock != "0" {
		t.Errorf("the transaction can be idle for %s, and wait for locks for %s; want 4s and 0", limit, lock)
	}
}

// TestHeldIsAProblem: while a transaction holds the tidemark back for long, Health returns an error that says so.
func TestHeldIsAProblem(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, record("a", nil))
	f.wait(r, f.put("a", 1))
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	draft, err := counting.Encode(counted{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.WithTx(tx).Append(t.Context(), eventstore.StreamID{Category: "open", Key: "1"}, eventstore.Any, draft); err != nil {
		t.Fatal(err)
	}
	f.put("a", 2)
	if err := r.Health(t.Context()); err != nil {
		t.Errorf("Health after the tidemark was held back for a moment: %v", err)
	}
	f.until("unhealthy", func() bool {
		err := r.Health(t.Context())
		return err != nil && strings.Contains(err.Error(), "tidemark is held back")
	})
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.until("healthy", func() bool { return r.Health(t.Context()) == nil })
}

// TestSwitchWaitsForReaders: while a reader has a lock on the view, Switch tries until its context is done.
func TestSwitchWaitsForReaders(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, seats("a", "m", 1), seats("a", "m", 2))
	f.wait(r, f.put("a", 1))
	f.untilLive(r, 2)
	reader, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(context.Background())
	if _, err := reader.Exec(t.Context(), `select from m`); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begun := time.Now()
	if err := r.Operator().Switch(short, projection.Ref{Name: "a", Version: 1}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) < 900*time.Millisecond {
		t.Errorf("after %s: %v, want it to wait for its deadline", time.Since(begun), err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Operator().Switch(t.Context(), projection.Ref{Name: "a", Version: 1}) }()
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
