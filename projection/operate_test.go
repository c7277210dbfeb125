package projection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestRetryPassing: an error in a retry that is not about the event, such as a transient one, does not become the error
// of a dead letter. Events before a transient error are handled.
func TestRetryPassing(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]func(f *fixture, cancel func()) error{
		"transient": func(*fixture, func()) error { return projection.Transient(errors.New("not now")) },
		"fatal":     func(*fixture, func()) error { return projection.Fatal(errors.New("not at all")) },
		"canceled":  func(_ *fixture, cancel func()) error { cancel(); return nil },
		"connection lost": func(f *fixture, _ func()) error {
			_, err := f.pool.Exec(f.Context(), `
				select pg_terminate_backend(pid)
				  from pg_stat_activity
				 where datname = current_database()
				   and state = 'idle in transaction'`)
			return err
		},
	} {
		for _, k := range kinds[:2] {
			t.Run(name+" "+k.name, func(t *testing.T) {
				t.Parallel()
				f := setup(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var retrying atomic.Bool
				hook := func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
					switch {
					case !retrying.Load():
						panic("bad")
					case e.Data.N == 2:
						return trouble(f, cancel)
					}
					return nil
				}
				r, _ := f.start(quiet, f.store, k.make(f, k.name, projection.Options{}, hook))
				f.wait(r, f.put("a", 1, 2))
				retrying.Store(true)
				if n, err := r.Operator().Retry(ctx, projection.Ref{Name: k.name, Version: projection.Live}); err == nil || name == "transient" && n != 1 {
					t.Errorf("retry: %d, %v", n, err)
				}
				for _, l := range f.letters(r, k.name, "counter-a", 0, 2) {
					if !strings.HasPrefix(l, "counter-a 1: 1 tries") && !strings.HasPrefix(l, "counter-a 2: 0 tries") {
						t.Errorf("after the retry: %s", l)
					}
				}
			})
		}
	}
}

// TestRetryRefusedCommit: the commit of a retry fails because of one event, and the error does not say which. Retry
// finds the event and handles those before it.
func TestRetryRefusedCommit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`alter table model add unique (name, n) deferrable initially deferred`)
	var fixed atomic.Bool
	hook := func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
		if !fixed.Load() {
			panic("bad")
		}
		return nil
	}
	r, _ := f.start(quiet, f.store, newHandler(f, "handler", projection.Options{}, hook))
	f.wait(r, f.put("a", 1, 2, 3, 4, 2, 5))
	fixed.Store(true)
	if n, err := r.Operator().Retry(t.Context(), projection.Ref{Name: "handler", Version: projection.Live}); n != 4 || err == nil || !strings.Contains(err.Error(), "unique") {
		t.Errorf("retry: %d, %v; want 4, and the error of the fifth event", n, err)
	}
	f.equal("model", fmt.Sprint(f.log("counted")[:4]), fmt.Sprint(f.model("handler")))
	letters, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "handler", Version: projection.Live}, "counter-a", 0, 10)
	if err != nil || len(letters) != 2 || !strings.Contains(letters[0].Error, "unique") {
		t.Errorf("dead letters %+v, %v; want the fifth event with its error, and one behind it", letters, err)
	}
}

// TestRetryLeavesOthersAlone: when a retry runs, a batch of another partition is under way. That batch is not done
// again.
func TestRetryLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var fixed atomic.Bool
	var calls atomic.Int64
	g := f.gate()
	hook := func(_ context.Context, _ pgx.Tx, e eventstore.Event[counted]) error {
		switch {
		case e.Stream.Key == "b":
			calls.Add(1)
			g.pass()
		case !fixed.Load():
			panic("bad")
		}
		return nil
	}
	r, _ := f.start(quiet, f.store, newHandler(f, "handler", projection.Options{Partitions: 16}, hook))
	f.wait(r, f.put("a", 1))
	fixed.Store(true)
	last := f.put("b", 1)
	f.await("the batch of b", g.reached)
	f.retry(r, 1, "handler", "counter-a")
	close(g.open)
	f.wait(r, last)
	f.equal("calls for b", int64(1), calls.Load())
}

// TestRetryStopped: a process hangs in the middle of a retry. An operator can still pause the projection, and the retry
// then fails.
func TestRetryStopped(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.Lease = 200 * time.Millisecond
	var stopped atomic.Bool
	g := f.gate()
	hook := func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
		if !stopped.Load() {
			panic("bad")
		}
		g.pass()
		return nil
	}
	options := projection.Options{Timeout: 100 * time.Millisecond}
	r, _ := f.start(&config, f.store, newHandler(f, "handler", options, hook))
	f.wait(r, f.put("a", 1))
	stopped.Store(true)
	failed := make(chan error)
	go func() {
		_, err := r.Operator().Retry(f.Context(), projection.Ref{Name: "handler", Version: projection.Live})
		failed <- err
	}()
	f.await("the retry", g.reached)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.Operator().Pause(ctx, projection.Ref{Name: "handler", Version: projection.AllVersions}, "a look at it"); err != nil {
		t.Errorf("pause: %v", err)
	}
	close(g.open)
	if err := <-failed; err == nil {
		t.Error("the retry returned no error, although the projection was paused")
	}
	f.equal("parked", 1, f.statusOf(r, "handler").Parked)
}

// TestRetryTakesTurns: a retry of slow events is done in several transactions, so it does not hold the partition all
// the time.
func TestRetryTakesTurns(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var slow atomic.Bool
	hook := func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
		if !slow.Load() {
			panic("bad")
		}
		time.Sleep(400 * time.Millisecond) // a slow handler
		return nil
	}
	r, _ := f.start(quiet, f.store, newHandler(f, "handler", projection.Options{}, hook))
	f.wait(r, f.put("a", 1, 2, 3, 4, 5))
	slow.Store(true)
	f.retry(r, 5, "handler")
	turns := 0
	for _, line := range f.audit(r, "handler") {
		if strings.HasPrefix(line, "retry ") {
			turns++
		}
	}
	if turns < 2 {
		t.Errorf("%d transactions, want 2 at least", turns)
	}
	f.equal("model", fmt.Sprint(f.log("counted")), fmt.Sprint(f.model("handler")))
}

// handling returns the projection a of a release that knows the given codecs.
func handling(handler projection.Handler[counted], codecs ...*codec.Codec[counted]) *projection.Projection {
	var sources []projection.HandlerSource
	for _, c := range codecs {
		sources = append(sources, projection.On(c, handler))
	}
	return projection.New("a", nil, sources...)
}

// TestResetForgetsAdded: after a reset to 0 the status does not list added types any more, because none of their events
// is missing.
func TestResetForgetsAdded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, handling(nothing, counting))
	f.append(other, 1)
	f.wait(r, f.append(counting, 1))
	stop()
	last := f.append(counting, 1)
	r, _ = f.start(quiet, f.store, handling(nothing, counting, other))
	f.wait(r, last)
	f.equal("added", map[string]eventstore.Position{"other": 2}, f.statusOf(r, "a").Added)
	for _, to := range []eventstore.Position{1, 0} {
		if err := r.Operator().Reset(t.Context(), projection.Ref{Name: "a", Version: projection.Live}, to); err != nil {
			t.Fatal(err)
		}
		f.equal(fmt.Sprint("added, after a reset to ", to), int(min(to, 1)), len(f.statusOf(r, "a").Added))
	}
}

// TestDeadLettersOfOnePosition: the parts of an event that the codec splits are returned on the same page.
func TestDeadLettersOfOnePosition(t *testing.T) {
	t.Parallel()
	f := setup(t)
	split := codec.New(codec.Split("counted", func(e counted) []counted {
		return []counted{{e.N}, {e.N + 1}, {e.N + 2}}
	}))
	key := func(e eventstore.Event[counted]) string { return fmt.Sprint("key ", e.Data.N) }
	r, _ := f.start(quiet, f.store, projection.New("a", nil, projection.OnKeyed(split, key,
		func(context.Context, pgx.Tx, eventstore.Event[counted]) error { panic("bad") })))
	f.wait(r, f.put("a", 10, 20))
	for limit := 1; limit <= 6; limit++ {
		var found []string
		for after := eventstore.Position(0); ; {
			page, err := r.Operator().DeadLetters(t.Context(), projection.Ref{Name: "a", Version: projection.Live}, "", after, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, l := range page {
				found = append(found, l.Key)
				after = l.Position
			}
		}
		want := []string{"key 10", "key 11", "key 12", "key 20", "key 21", "key 22"}
		f.equal(fmt.Sprint("keys, ", limit, " on a page"), want, found)
	}
}
