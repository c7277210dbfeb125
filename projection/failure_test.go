package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// hook is called for each event that a projection handles. tx is nil unless the kind of projection has a transaction.
type hook = func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error

// kind is a way to write a projection. The projection records the positions of the events that it has handled.
type kind struct {
	name string
	make func(f *fixture, name string, o projection.Options, hook hook) *projection.Projection
}

var kinds = []kind{{"handler", newHandler}, {"table", newPositions}, {"subscription", newEffect}}

// batched are the kinds that handle several events in one call.
var batched = []kind{{"handler of batches", newBatches}, {"subscription of batches", newEffectBatches}}

func isBatched(k kind) bool {
	return slices.ContainsFunc(batched, func(b kind) bool { return b.name == k.name })
}

// whole gives the whole event to a batch as the item's value.
func whole(e eventstore.Event[counted]) (any, error) { return e, nil }

// newBatches returns a projection that writes the events of a batch into the model. It writes an event before it calls
// the hook.
func newBatches(_ *fixture, name string, o projection.Options, hook hook) *projection.Projection {
	return projection.New(name, &o, projection.OnBatch(func(ctx context.Context, tx pgx.Tx, b projection.Batch) error {
		for n, item := range b.Items {
			e := item.Value.(eventstore.Event[counted])
			if _, err := tx.Exec(ctx, `insert into model values ($1, $2, $3)`, name, e.Position, e.Data.N); err != nil {
				return err
			}
			if err := hook(ctx, tx, e); err != nil {
				return &projection.BatchItemError{Item: n, Err: err}
			}
		}
		return nil
	}, projection.Each(counting, nil, whole)))
}

// newEffectBatches returns a subscription that writes the events of a batch into the model, up to the event for which
// the hook fails.
func newEffectBatches(f *fixture, name string, o projection.Options, hook hook) *projection.Projection {
	return projection.NewSubscription(name, &o, projection.EffectBatch(func(ctx context.Context, b projection.Batch) error {
		for n, item := range b.Items {
			e := item.Value.(eventstore.Event[counted])
			err := hook(ctx, nil, e)
			if err == nil {
				_, err = f.pool.Exec(ctx, `insert into model values ($1, $2, $3)`, name, e.Position, e.Data.N)
			}
			if err != nil {
				return &projection.BatchItemError{Item: n, Err: err}
			}
		}
		return nil
	}, projection.Each(counting, nil, whole)))
}

// newHandler returns a projection that writes each event into the model before it calls the hook. If the hook fails and
// the write is not rolled back, the model shows it.
func newHandler(_ *fixture, name string, o projection.Options, hook hook) *projection.Projection {
	return projection.New(name, &o, projection.On(counting, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		if _, err := tx.Exec(ctx, `insert into model values ($1, $2, $3)`, name, e.Position, e.Data.N); err != nil {
			return err
		}
		return hook(ctx, tx, e)
	}))
}

// newEffect returns a subscription that writes each event into the model after the hook has succeeded. The model has a
// repeated effect twice.
func newEffect(f *fixture, name string, o projection.Options, hook hook) *projection.Projection {
	return projection.NewSubscription(name, &o, projection.Effect(counting, func(ctx context.Context, e eventstore.Event[counted]) error {
		if err := hook(ctx, nil, e); err != nil {
			return err
		}
		_, err := f.pool.Exec(ctx, `insert into model values ($1, $2, $3)`, name, e.Position, e.Data.N)
		return err
	}))
}

type positionsRow struct {
	Stream    string `db:"stream,key"`
	Positions string
	Numbers   string
}

func newPositions(_ *fixture, name string, o projection.Options, hook hook) *projection.Projection {
	o.DDL = fmt.Sprintf(`create table {%s} (stream text primary key, positions text not null, numbers text not null)`, name)
	return projection.NewTable[positionsRow](name, &o, projection.Fold(counting,
		func(e eventstore.Event[counted]) string { return e.Stream.String() },
		func(row *positionsRow, e eventstore.Event[counted]) projection.Op {
			row.Positions += fmt.Sprint(e.Position, " ")
			row.Numbers += fmt.Sprint(e.Data.N, " ")
			if err := hook(context.Background(), nil, e); err != nil {
				return projection.Fail(err)
			}
			return projection.Put
		}))
}

// put stores events with the given numbers in the stream of a key.
func (f *fixture) put(key string, numbers ...int) eventstore.Position {
	f.Helper()
	var drafts []eventstore.Draft
	for _, n := range numbers {
		draft, err := counting.Encode(counted{n})
		if err != nil {
			f.Fatal(err)
		}
		drafts = append(drafts, draft)
	}
	return f.putDrafts(key, drafts...)
}

func (f *fixture) putDrafts(key string, drafts ...eventstore.Draft) eventstore.Position {
	f.Helper()
	receipt, err := f.store.Append(f.Context(), eventstore.StreamID{Category: "counter", Key: key}, eventstore.Any, drafts...)
	if err != nil {
		f.Fatal(err)
	}
	return receipt.Position
}

// streams returns the rows of a query as a list of positions for each stream.
func (f *fixture) streams(sql string, args ...any) map[string]string {
	f.Helper()
	found := make(map[string]string)
	rows, _ := f.pool.Query(f.Context(), sql, args...)
	var stream, positions string
	if _, err := pgx.ForEachRow(rows, []any{&stream, &positions}, func() error {
		found[stream] += positions
		return nil
	}); err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
	return found
}

// checkFold compares a read model with the events of the log that are not parked. It also compares the counts in the
// status with the log and the dead letters.
func (f *fixture) checkFold(k kind, r *projection.Runner, name string) {
	f.Helper()
	want := f.streams(`
		select stream, position || ' '
		  from tidemark.events e
		 where type = 'counted'
		   and not exists (select from tidemark.dead_letters l where l.projection = $1 and l.position = e.position)
		 order by position`, name)
	sql := `select e.stream, e.position || ' ' from model m join tidemark.events e using (position) where m.name = $1 order by m.written`
	args := []any{name}
	if k.name == "table" {
		sql, args = `select stream, positions from `+pgx.Identifier{name}.Sanitize(), nil
	}
	if diff := cmp.Diff(want, f.streams(sql, args...)); diff != "" {
		f.Errorf("%s: the read model differs from the log (-log +model):\n%s", name, diff)
	}
	var parked, handled int
	for _, positions := range want {
		handled += strings.Count(positions, " ")
	}
	if err := f.pool.QueryRow(f.Context(), `select count(*) from tidemark.dead_letters where projection = $1`, name).Scan(&parked); err != nil {
		f.Fatal(err)
	}
	if s := f.statusOf(r, name); s.Parked != parked || s.Handled != int64(handled) {
		f.Errorf("%s: the status says %d handled and %d parked, want %d and %d", name, s.Handled, s.Parked, handled, parked)
	}
}

// statusOf returns the status of a projection. It waits until the projection is registered.
func (f *fixture) statusOf(r *projection.Runner, name string) (found projection.ProjectionStatus) {
	f.Helper()
	f.until(name+" registered", func() bool {
		status, err := r.Status(f.Context())
		if err != nil {
			f.Fatal(err)
		}
		for _, s := range status.Projections {
			if s.Name == name {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

// until polls until a condition holds, for a minute at most.
func (f *fixture) until(what string, so func() bool) {
	f.Helper()
	pgtest.Until(f, time.Minute, what, so)
}

// isBlocked reports whether a session for which a condition on pg_stat_activity holds waits for a lock.
func (f *fixture) isBlocked(condition string) bool {
	f.Helper()
	return f.rollNumber(`
		select count(*)
		  from pg_stat_activity
		 where datname = current_database()
		   and wait_event_type = 'Lock'
		   and `+condition) > 0
}

func (f *fixture) stopped(r *projection.Runner, name, reason string) {
	f.Helper()
	f.until(name+" stopped", func() bool { return f.statusOf(r, name).State == "stopped" })
	s := f.statusOf(r, name)
	if !strings.Contains(s.Reason, reason) {
		f.Errorf("%s: stopped with reason %q, want %q in it", name, s.Reason, reason)
	}
	if err := r.Health(f.Context()); err == nil || !strings.Contains(err.Error(), reason) {
		f.Errorf("health: %v, want the reason %q why %s has stopped", err, reason, name)
	}
}

func (f *fixture) retry(r *projection.Runner, want int, name string, keys ...string) {
	f.Helper()
	if n, err := r.Operator().Retry(f.Context(), projection.Ref{Name: name, Version: projection.Live}, keys...); err != nil || n != want {
		f.Errorf("%s: retry handled %d, %v; want %d", name, n, err, want)
	}
}

const bad = -1

// way is a way to fail at an event.
type way struct {
	name     string
	fail     hook
	text     string // in the dead letter's error
	attempts int    // attempts of handlers and effects; a fold is pure, so it is tried once
	calls    int    // not 0 if the number of calls is not attempts, and is not checked
	named    bool   // the hook returns the error
	handlers bool   // the hook needs a transaction
	options  projection.Options
}

func execute(sql string) hook {
	return func(ctx context.Context, tx pgx.Tx, _ eventstore.Event[counted]) error {
		_, err := tx.Exec(ctx, sql)
		return err
	}
}

// swallow hides the error of a hook from the runner.
func swallow(fail hook) hook {
	return func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		_ = fail(ctx, tx, e)
		return nil
	}
}

func ways(t *testing.T) []way {
	// It is the timeout of good events too, and they can be slow on a busy machine.
	const patience = time.Second
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	say := func(text string) hook {
		return func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return errors.New(text) }
	}
	return []way{
		{name: "panic", text: "panic: ouch", attempts: 1, fail: func(context.Context, pgx.Tx, eventstore.Event[counted]) error { panic("ouch") }},
		{name: "error", named: true, text: "no good", attempts: 3, fail: say("no good")},
		{name: "two attempts", named: true, text: "no good", attempts: 2, fail: say("no good"), options: projection.Options{MaxAttempts: 2}},
		{name: "strange text", named: true, text: "nul � and � here", attempts: 3, fail: say("nul \x00 and \xff here")},
		{name: "constraint", named: true, text: "23502", attempts: 1, handlers: true, fail: execute(`insert into strict values (null, 0)`)},
		{name: "unfit argument", named: true, text: "unable to encode", attempts: 3, handlers: true, fail: func(ctx context.Context, tx pgx.Tx, _ eventstore.Event[counted]) error {
			var b pgx.Batch
			b.Queue(`select 1`) // pgx closes the connection if the statement before is fit
			b.Queue(`insert into strict values ($1, $2)`, 1, struct{}{})
			return tx.SendBatch(ctx, &b).Close()
		}},
		{name: "deferred constraint", text: "strict_once", attempts: 1, calls: -1, handlers: true, fail: execute(`insert into strict values (1, 1), (1, 2)`)},
		{name: "aborted", text: "continued after a failed statement", attempts: 1, handlers: true, fail: swallow(execute(`select 1 / 0`))},
		{name: "commit", text: "leave that to the runner", attempts: 1, handlers: true, fail: func(ctx context.Context, tx pgx.Tx, _ eventstore.Event[counted]) error { return tx.Commit(ctx) }},
		{name: "rollback", text: "leave that to the runner", attempts: 1, handlers: true, fail: func(ctx context.Context, tx pgx.Tx, _ eventstore.Event[counted]) error { return tx.Rollback(ctx) }},
		{name: "SQL commit", text: "TM007", attempts: 1, handlers: true, fail: execute(`commit`)},
		{name: "SQL commit, hidden", text: "leave that to the runner", attempts: 1, handlers: true, fail: swallow(execute(`commit`))},
		{name: "SQL commit and begin", text: "", attempts: 1, calls: -1, handlers: true, fail: func(ctx context.Context, tx pgx.Tx, _ eventstore.Event[counted]) error {
			_, _ = tx.Exec(ctx, `commit`)
			_, err := tx.Exec(ctx, `begin`)
			return err
		}},
		{name: "SQL rollback", text: "leave that to the runner", attempts: 1, handlers: true, fail: execute(`rollback`)},
		{name: "SQL rollback and chain", text: "", attempts: 1, calls: -1, handlers: true, fail: execute(`rollback and chain`)},
		{name: "SQL rollback and begin", text: "", attempts: 1, calls: -1, handlers: true, fail: execute(`rollback; begin`)},
		{name: "hangs, listens", text: "longer than", attempts: 2, handlers: true, options: projection.Options{Timeout: patience, MaxAttempts: 2},
			fail: func(ctx context.Context, _ pgx.Tx, _ eventstore.Event[counted]) error { <-ctx.Done(); return ctx.Err() }},
		{name: "hangs in SQL", text: "longer than", attempts: 2, handlers: true, options: projection.Options{Timeout: patience, MaxAttempts: 2},
			fail: execute(`select pg_sleep(600)`)},
		{name: "hangs, deaf", text: "does not return", attempts: 1, handlers: true, options: projection.Options{Timeout: patience, MaxAttempts: 1},
			fail: func(context.Context, pgx.Tx, eventstore.Event[counted]) error { <-forever; return nil }},
	}
}

// TestFailures lets projections fail in all ways at one event of key b. The event becomes a dead letter, and later
// events of key b wait behind it. Other keys are not held up. Once the event can be handled, Retry handles it and the
// events behind it.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 3, 1000} {
		t.Run(fmt.Sprint("batches of ", size), func(t *testing.T) {
			t.Parallel()
			testFailures(t, size)
		})
	}
}

// attempt is a kind of projection that fails in one way.
type attempt struct {
	kind
	way
	name  string
	fixed atomic.Bool
	calls atomic.Int64 // how often the failing event was tried
}

func (a *attempt) hook(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
	if e.Data.N != bad {
		return nil
	}
	a.calls.Add(1)
	if a.fixed.Load() {
		return nil
	}
	return a.fail(ctx, tx, e)
}

func testFailures(t *testing.T, size int) {
	f := setup(t)
	f.exec(`create table strict (n int not null, m int, constraint strict_once unique (n) deferrable initially deferred)`)
	var attempts []*attempt
	var projections []*projection.Projection
	for _, w := range ways(t) {
		for _, k := range append(slices.Clone(kinds), batched...) {
			hangs := strings.HasPrefix(w.name, "hangs, ")
			if k.name == "subscription of batches" && w.name == "panic" {
				continue // the effects of items before the panic are repeated
			}
			if w.handlers && !strings.HasPrefix(k.name, "handler") && !(hangs && k.name == "subscription") {
				continue
			}
			a := &attempt{kind: k, way: w, name: k.name + ": " + w.name}
			attempts = append(attempts, a)
			projections = append(projections, k.make(f, a.name, w.options, a.hook))
		}
	}
	config := *quiet
	config.BatchSize = size
	f.put("a", 0, 0)
	f.put("b", 0, bad, 0, 0)
	f.put("c", 0, 0)
	last := f.put("b", 0)
	r, _ := f.start(&config, f.store, projections...)
	f.wait(r, last)
	f.put("c", 0)
	f.wait(r, f.put("b", 0))
	for _, a := range attempts {
		f.checkParked(r, a)
		a.fixed.Store(true)
		f.retry(r, 5, a.name)
		f.checkFold(a.kind, r, a.name)
	}
	f.wait(r, f.put("b", 0)) // the key is free again
	for _, a := range attempts {
		f.checkFold(a.kind, r, a.name)
		if s := f.statusOf(r, a.name); s.Parked != 0 || s.Problem() != "" {
			t.Errorf("%s: %d parked, %s", a.name, s.Parked, s.Problem())
		}
	}
}

func (f *fixture) checkParked(r *projection.Runner, a *attempt) {
	f.Helper()
	f.checkFold(a.kind, r, a.name)
	letters, err := r.Operator().DeadLetters(f.Context(), projection.Ref{Name: a.name, Version: projection.Live}, "counter-b", 0, 100)
	if err != nil {
		f.Fatal(err)
	}
	attempts := a.attempts
	if a.kind.name == "table" {
		attempts = 1
	}
	want := []projection.DeadLetter{{Attempts: attempts, Waiting: 4}, {Waiting: 3}, {Waiting: 2}, {Waiting: 1}, {}}
	seen := cmpopts.IgnoreFields(projection.DeadLetter{}, "Key", "Position", "Stream", "Type", "Data", "Edited", "RecordedAt", "Error")
	if diff := cmp.Diff(want, letters, seen); diff != "" {
		f.Errorf("%s: dead letters (-want +got):\n%s", a.name, diff)
		return
	}
	if text := letters[0].Error; text == "" || !strings.Contains(text, a.text) {
		f.Errorf("%s: dead letter with error %q, want %q in it", a.name, text, a.text)
	}
	for _, l := range letters[1:] {
		if l.Error != "" {
			f.Errorf("%s: an event that only waits has error %q", a.name, l.Error)
		}
	}
	// A handler of batches that does not say which item has failed is called again with smaller batches.
	if calls := a.calls.Load(); a.way.calls == 0 && (a.named || !isBatched(a.kind)) && calls != int64(attempts) {
		f.Errorf("%s: the event was tried %d times, want %d", a.name, calls, attempts)
	}
}

// TestTransient: after a transient error the event is tried again until it succeeds, and is never given up.
func TestTransient(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const failures = 8 // more than the default of MaxAttempts
	var projections []*projection.Projection
	for _, k := range kinds {
		var mu sync.Mutex
		tries := 0
		projections = append(projections, k.make(f, k.name, projection.Options{}, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
			mu.Lock()
			defer mu.Unlock()
			if e.Data.N != bad || tries == failures {
				return nil
			}
			tries++
			return projection.Transient(errors.New("not now"))
		}))
	}
	r, _ := f.start(quiet, f.store, projections...)
	f.wait(r, f.put("a", 0, bad, 0))
	for _, k := range kinds {
		f.checkFold(k, r, k.name)
		if s := f.statusOf(r, k.name); s.Parked != 0 || s.Problem() != "" {
			t.Errorf("%s: %d parked, problem %q, want none", k.name, s.Parked, s.Problem())
		}
	}
}

// TestFatal: a fatal error stops the projection, and the status has the reason. After Resume the projection continues
// where it was.
func TestFatal(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var fixed atomic.Bool
	var projections []*projection.Projection
	for _, k := range kinds {
		projections = append(projections, k.make(f, k.name, projection.Options{}, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
			if e.Data.N == bad && !fixed.Load() {
				return projection.Fatal(errors.New("out of stamps"))
			}
			return nil
		}))
	}
	r, _ := f.start(quiet, f.store, projections...)
	f.put("b", 0)
	last := f.put("a", 0, bad, 0)
	for _, k := range kinds {
		f.stopped(r, k.name, "out of stamps")
		if at := f.statusOf(r, k.name).Checkpoint; at >= last-1 {
			t.Errorf("%s: stopped with checkpoint %d, which is not before the event at %d", k.name, at, last-1)
		}
		if err := r.Operator().Resume(t.Context(), projection.Ref{Name: k.name, Version: projection.AllVersions}); err != nil { // too early: it stops again
			t.Fatal(err)
		}
	}
	for _, k := range kinds {
		f.stopped(r, k.name, "out of stamps")
	}
	fixed.Store(true)
	for _, k := range kinds {
		if err := r.Operator().Resume(t.Context(), projection.Ref{Name: k.name, Version: projection.AllVersions}); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range kinds {
		audit := strings.Join(f.audit(r, k.name), "\n")
		if !strings.Contains(audit, "stop by the projection itself: ") || !strings.Contains(audit, "out of stamps") {
			t.Errorf("%s: the audit does not say why it has stopped:\n%s", k.name, audit)
		}
	}
	f.wait(r, last)
	for _, k := range kinds {
		f.checkFold(k, r, k.name)
	}
}
