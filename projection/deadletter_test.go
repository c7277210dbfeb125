package projection_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// picky returns a projection of each kind, named after the kind. They cannot handle numbers below the floor.
func picky(f *fixture, floor *atomic.Int64) (projections []*projection.Projection) {
	for _, k := range kinds {
		projections = append(projections, k.make(f, k.name, projection.Options{MaxAttempts: 1}, func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
			if int64(e.Data.N) < floor.Load() {
				return fmt.Errorf("number %d is too low\nreally", e.Data.N)
			}
			return nil
		}))
	}
	return projections
}

// letters returns dead letters as text.
func (f *fixture) letters(r *projection.Runner, name, key string, after eventstore.Position, limit int) (found []string) {
	f.Helper()
	letters, err := r.Operator().DeadLetters(f.Context(), projection.Ref{Name: name, Version: projection.Live}, key, after, limit)
	if err != nil {
		f.Fatal(err)
	}
	for _, l := range letters {
		reason, _, _ := strings.Cut(l.Error, "\n")
		found = append(found, fmt.Sprintf("%s %d: %d tries, %d wait, %s", l.Key, l.Position, l.Attempts, l.Waiting, reason))
	}
	return found
}

func (f *fixture) equal(what string, want, got any) {
	f.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, picky(f, new(atomic.Int64))...)
	f.put("a", -1, 0)         // 1, 2
	f.put("b", -2, 0)         // 3, 4
	f.put("a", -1)            // 5
	f.wait(r, f.put("c", -1)) // 6
	for _, k := range kinds {
		a, b, c := "counter-a 1: 1 tries, 2 wait, number -1 is too low", "counter-b 3: 1 tries, 1 wait, number -2 is too low", "counter-c 6: 1 tries, 0 wait, number -1 is too low"
		f.equal(k.name+": heads", []string{a, b, c}, f.letters(r, k.name, "", 0, 10))
		f.equal(k.name+": first page", []string{a, b}, f.letters(r, k.name, "", 0, 2))
		f.equal(k.name+": second page", []string{c}, f.letters(r, k.name, "", 3, 2))
		f.equal(k.name+": a key", []string{a, "counter-a 2: 0 tries, 1 wait, ", "counter-a 5: 0 tries, 0 wait, "}, f.letters(r, k.name, "counter-a", 0, 10))
		f.equal(k.name+": more of a key", []string{"counter-a 2: 0 tries, 1 wait, "}, f.letters(r, k.name, "counter-a", 1, 1))
		groups, err := r.Operator().DeadLetterGroups(t.Context(), projection.Ref{Name: k.name, Version: projection.Live})
		if err != nil || len(groups) != 1 || groups[0].Since.IsZero() {
			t.Fatalf("%s: groups %+v, %v", k.name, groups, err)
		}
		f.equal(k.name+": groups", []projection.DeadLetterGroup{
			{Error: "number … is too low", Count: 3, Waiting: 3, First: 1, Last: 6, Since: groups[0].Since},
		}, groups)
	}
	if _, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "nobody", Version: projection.Live}, "", 0, 10); !errors.Is(err, projection.ErrUnknownProjection) {
		t.Errorf("dead letters of an unknown projection: %v", err)
	}
}

// TestRetry: Retry handles one key or all keys, each until an event fails. An event that was handled is not handled
// again.
func TestRetry(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var floor atomic.Int64
	r, _ := f.start(quiet, f.store, picky(f, &floor)...)
	f.put("a", -1, 0, -600, 0) // 1 to 4
	f.put("b", -1, 0)          // 5, 6
	f.wait(r, f.put("c", -1))  // 7
	for _, k := range kinds {
		floor.Store(0)
		f.retry(r, 0, k.name, "counter-none")
		if n, err := r.Operator().Retry(t.Context(), projection.Ref{Name: k.name, Version: projection.Live}, "counter-b"); n != 0 || err == nil || !strings.Contains(err.Error(), "too low") {
			t.Errorf("%s: %d handled, %v; want the reason again", k.name, n, err)
		}
		f.equal(k.name+": b failed again", []string{"counter-b 5: 2 tries, 1 wait, number -1 is too low"}, f.letters(r, k.name, "counter-b", 0, 1))
		f.checkFold(k, r, k.name)

		floor.Store(-500)
		n, err := r.Operator().Retry(t.Context(), projection.Ref{Name: k.name, Version: projection.Live}) // stops key a at position 3
		var h *projection.HandlerError
		if n != 5 || !errors.As(err, &h) || h.Position != 3 {
			t.Errorf("%s: %d handled, %v; want 5, and the error of the event at 3", k.name, n, err)
		}
		f.equal(k.name+": a is left", []string{"counter-a 3: 1 tries, 1 wait, number -600 is too low", "counter-a 4: 0 tries, 0 wait, "}, f.letters(r, k.name, "counter-a", 0, 10))
		f.equal(k.name+": only a is left", 1, len(f.letters(r, k.name, "", 0, 10)))
		f.checkFold(k, r, k.name)

		floor.Store(-1000)
		f.retry(r, 2, k.name)
		f.checkFold(k, r, k.name)
	}
	f.wait(r, f.put("a", 0))
	for _, k := range kinds {
		f.checkFold(k, r, k.name)
		f.equal(k.name+": parked", 0, f.statusOf(r, k.name).Parked)
	}
}

// audit returns the action, actor and details of each audit entry, the oldest first.
func (f *fixture) audit(r *projection.Runner, name string) (found []string) {
	f.Helper()
	entries, err := r.Operator().Audit(f.Context(), name, 100)
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		details, _ := json.Marshal(e.Details)
		found = append(found, fmt.Sprintf("%s by %s: %s", e.Action, e.Actor, details))
	}
	slices.Reverse(found)
	return found
}

// TestEditAndSkip: Edit replaces the payload for the projection, and the event in the log does not change. Skip gives
// up an event for a reason. Both are in the audit with their actor.
func TestEditAndSkip(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, picky(f, new(atomic.Int64))...)
	f.wait(r, f.put("a", -1, 0, -2, 0)) // 1 to 4
	ctx := eventstore.WithMetadata(t.Context(), eventstore.Metadata{Actor: "alice"})
	for _, k := range kinds {
		refusedWith := func(why error, what string, n int, err error) {
			t.Helper()
			if n != 0 || !errors.Is(err, why) {
				t.Errorf("%s: %s: %d, %v; want %v", k.name, what, n, err, why)
			}
		}
		refused := func(what string, n int, err error) { t.Helper(); refusedWith(projection.ErrRefused, what, n, err) }
		invalid := func(what string, n int, err error) { t.Helper(); refusedWith(eventstore.ErrInvalid, what, n, err) }
		n, err := r.Operator().Edit(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", 1, json.RawMessage(`{"N":`))
		invalid("edit to invalid JSON", n, err)
		n, err = r.Operator().Edit(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", 1, json.RawMessage(`"`+strings.Repeat("x", 20<<20)+`"`))
		invalid("edit to a payload that is too long", n, err)
		_, err = r.Operator().DeadLetters(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "", 0, 1<<30)
		invalid("a list without a bound", 0, err)
		n, err = r.Operator().Edit(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-b", 1, json.RawMessage(`{}`))
		refused("edit of another key", n, err)
		n, err = r.Operator().Skip(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", 1, "")
		invalid("skip for no reason", n, err)
		n, err = r.Operator().Skip(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", 2, "in a hurry")
		refused("skip of an event that only waits", n, err)
		n, err = r.Operator().Skip(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-b", 1, "no such key")
		refused("skip of another key", n, err)
		f.equal(k.name+": all is as it was", 4, len(f.letters(r, k.name, "counter-a", 0, 10)))

		if n, err := r.Operator().Edit(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", 1, json.RawMessage(`{"N":-7}`)); n != 0 || err == nil {
			t.Errorf("%s: an edit that does not help: %d, %v", k.name, n, err)
		}
		if n, err := r.Operator().Edit(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", 1, json.RawMessage(`{"N":77}`)); n != 2 || err == nil {
			t.Errorf("%s: edit: %d handled, %v; want 2, and the error of the event at 3", k.name, n, err)
		}
		f.checkFold(k, r, k.name)
		if n, err := r.Operator().Skip(ctx, projection.Ref{Name: k.name, Version: projection.Live}, "counter-a", 3, "a test"); n != 1 || err != nil {
			t.Errorf("%s: skip: %d handled, %v; want 1", k.name, n, err)
		}
		f.equal(k.name+": parked", 0, f.statusOf(r, k.name).Parked)
		numbers := f.streams(`select e.stream, m.n || ' ' from model m join tidemark.events e using (position) where m.name = $1 order by m.written`, k.name)
		if k.name == "table" {
			numbers = f.streams(`select stream, numbers from "table"`)
		}
		f.equal(k.name+": numbers", map[string]string{"counter-a": "77 0 0 "}, numbers)
		var audit []string // without the retries that found nothing more
		for _, line := range f.audit(r, k.name) {
			if strings.Contains(line, " by alice: ") && !strings.Contains(line, `"events":0`) {
				audit = append(audit, line)
			}
		}
		f.equal(k.name+": audit", []string{
			`edit by alice: {"data":{"N":-7},"key":"counter-a","position":1}`,
			`edit by alice: {"data":{"N":77},"key":"counter-a","position":1}`,
			`retry by alice: {"events":2,"key":"counter-a"}`,
			`skip by alice: {"key":"counter-a","position":3,"reason":"a test"}`,
			`retry by alice: {"events":1,"key":"counter-a"}`,
		}, merged(audit))
	}
	f.equal("the log", map[string]string{"counter-a": `{"N":-1}{"N":0}{"N":-2}{"N":0}`}, f.streams(`select stream, data::text from tidemark.events order by position`))
}

// merged joins the audit entries of one retry. Effects have an entry per event, because each is in its own transaction.
func merged(audit []string) (lines []string) {
	for _, line := range audit {
		if n := len(lines); n > 0 && strings.HasPrefix(line, "retry ") && strings.HasPrefix(lines[n-1], "retry ") {
			lines[n-1] = strings.Replace(line, `"events":1`, `"events":2`, 1)
			continue
		}
		lines = append(lines, line)
	}
	return lines
}

// onceEffect returns a subscription with an effect in the same database. The effect happens once, even when a batch is
// done again because an operator has changed something.
func onceEffect(f *fixture, name string, hook hook) *projection.Projection {
	return projection.NewSubscription(name, nil, projection.Effect(counting, func(ctx context.Context, e eventstore.Event[counted]) error {
		if err := hook(ctx, nil, e); err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, f.pool, func(tx pgx.Tx) error {
			if first, err := projection.Once(ctx, tx, ""); err != nil || !first {
				return err
			}
			_, err := tx.Exec(ctx, `insert into model values ($1, $2, $3)`, name, e.Position, e.Data.N)
			return err
		})
	}))
}

// TestRetryWhileAppending calls Retry in the process that handles the events and in another one, while events are
// appended that fail at the first attempt. Each event is handled once, in order.
func TestRetryWhileAppending(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.BatchSize = 3
	fickle := func() hook { // both processes have the same hook
		var tried sync.Map
		return func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
			if _, again := tried.LoadOrStore(e.Position, true); e.Data.N == bad && !again {
				panic("bad")
			}
			return nil
		}
	}
	hooks := []hook{fickle(), fickle(), fickle()}
	all := func() (projections []*projection.Projection) {
		for n, k := range kinds[:2] {
			projections = append(projections, k.make(f, k.name, projection.Options{}, hooks[n]))
		}
		return append(projections, onceEffect(f, kinds[2].name, hooks[2]))
	}
	owner, _ := f.start(&config, f.store, all()...)
	second, err := projection.NewRunner(f.pool, f.store, &config, all()...) // it does not run, but can retry
	if err != nil {
		t.Fatal(err)
	}
	f.wait(owner, f.put("a", bad, 0, 0))
	var retrying, appending sync.WaitGroup
	var retried [3]atomic.Int64
	done := make(chan struct{})
	for n, k := range kinds {
		for _, r := range []*projection.Runner{owner, second} {
			retrying.Go(func() {
				for {
					handled, err := r.Operator().Retry(t.Context(), projection.Ref{Name: k.name, Version: projection.Live})
					var failed *projection.HandlerError
					if err != nil && !errors.As(err, &failed) {
						t.Errorf("%s: %v", k.name, err)
						return
					}
					retried[n].Add(int64(handled))
					select {
					case <-done:
						return
					default:
					}
				}
			})
		}
	}
	for _, key := range []string{"a", "b"} {
		appending.Go(func() {
			for range 10 {
				f.put(key, 0, bad, 0)
			}
		})
	}
	appending.Wait()
	f.wait(owner, f.put("a", 0))
	close(done)
	retrying.Wait()
	for n, k := range kinds {
		f.until(k.name+" has handled all", func() bool {
			handled, err := second.Operator().Retry(t.Context(), projection.Ref{Name: k.name, Version: projection.Live})
			retried[n].Add(int64(handled))
			return err == nil
		})
		f.checkFold(k, owner, k.name)
		f.equal(k.name+": parked", 0, f.statusOf(owner, k.name).Parked)
		if retried[n].Load() < 3 {
			t.Errorf("%s: %d events were retried, want 3 at least for this test to mean something", k.name, retried[n].Load())
		}
	}
}
