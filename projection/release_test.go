package projection_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestPausedSubscription: no effect begins after Pause has returned. This holds even when the runner waits for the next
// event and gets no notification of the pause.
func TestPausedSubscription(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var effects atomic.Int64
	config := *quiet
	config.PollOnly = true
	mail := projection.NewSubscription("mail", nil, projection.Effect(counting, func(context.Context, eventstore.Event[counted]) error {
		effects.Add(1)
		return nil
	}))
	r, _ := f.start(&config, f.store, by(1, "b", 1, nil), mail)
	f.wait(r, f.append(counting, 1))
	operator, err := projection.NewRunner(f.pool, f.store, &config, mail)
	if err != nil {
		t.Fatal(err)
	}
	if err := operator.Operator().Pause(t.Context(), projection.Ref{Name: "mail", Version: projection.AllVersions}, "a test"); err != nil {
		t.Fatal(err)
	}
	last := f.append(counting, 1)
	f.wait(r, last, "b")
	// Both projections get the same page. A wrong effect would happen now, or while a few more events are handled.
	for range 10 {
		last = f.append(counting, 1)
		f.wait(r, last, "b")
	}
	if n := effects.Load(); n != 1 {
		t.Errorf("%d effects after the subscription was paused", n-1)
	}
	if err := r.Operator().Resume(t.Context(), projection.Ref{Name: "mail", Version: projection.AllVersions}); err != nil {
		t.Fatal(err)
	}
	f.wait(r, last)
	if n := effects.Load(); n != 12 {
		t.Errorf("%d effects of 12 events after Resume, want 12", n)
	}
}

// extra is an event type that a newer release has added, and that a still newer one has retired.
type extra struct{ N int }

func countedType() codec.Type[any] {
	return codec.Of("counted", func(e counted) any { return e })
}

func extraType() codec.Type[any] {
	return codec.Of("extra", func(e extra) any { return e })
}

// release returns the projection a of a release that knows the given types.
func release(types ...codec.Type[any]) *projection.Projection {
	return projection.New("a", &projection.Options{Partitions: 4}, projection.On(codec.New(types...),
		func(ctx context.Context, tx pgx.Tx, event eventstore.Event[any]) error {
			_, err := tx.Exec(ctx, `insert into model values ('a', $1, 0)`, event.Position)
			return err
		}))
}

// appendExtra stores events of the new type in streams of all partitions.
func (f *fixture) appendExtra(n int) (last eventstore.Position) {
	f.Helper()
	for i := range n {
		receipt, err := f.store.Append(f.Context(), eventstore.StreamID{Category: "counter", Key: fmt.Sprint(i)}, eventstore.Any,
			eventstore.Draft{Type: "extra", Data: []byte(`{"N":1}`)})
		if err != nil {
			f.Fatal(err)
		}
		last = receipt.Position
	}
	return last
}

// waitWithin waits for a position for a limited time. Give it less than the leases of the test, so the test fails if
// the runner waits for a lease to expire.
func (f *fixture) waitWithin(d time.Duration, r *projection.Runner, position eventstore.Position) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), d)
	defer cancel()
	if err := r.Wait(ctx, position); err != nil {
		f.Errorf("not within %s: %v", d, err)
	}
}

func talking() (*projection.Config, *logged) {
	config, said := *quiet, &logged{}
	config.Logger, config.Lease = slog.New(slog.NewTextHandler(said, nil)), 30*time.Second
	return &config, said
}

// logged collects the text that a logger writes.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// TestOldRelease: an old release does not know an event type, and a newer release that knows it runs beside it. The old
// release does not pass over events of this type, and leaves the projection to the newer release at once.
func TestOldRelease(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config, said := talking()
	old, stopOld := f.start(config, f.store, release(countedType()))
	f.wait(old, f.appendKeys(10))
	f.appendKeys(10)
	newer, stopNewer := f.start(config, f.store, release(countedType(), extraType()))
	f.until("the newer release is known", func() bool {
		return f.rollNumber(`select count(*) from tidemark.projections where 'extra' = any (types)`) > 0
	})
	f.appendExtra(10)
	last := f.appendKeys(10)
	f.waitWithin(10*time.Second, newer, last)
	f.wait(newer, last)
	f.checkSet("a", "counted", "extra")
	f.until("the old release says that it leaves the projection", func() bool { return said.has("is not run by this process") })

	// An old release that is started again handles no events, and does not hold up the newer release.
	stopOld()
	stopNewer()
	f.start(config, f.store, release(countedType()))
	newer, _ = f.start(config, f.store, release(countedType(), extraType()))
	f.appendExtra(10)
	f.waitWithin(10*time.Second, newer, f.appendKeys(10))
	f.checkSet("a", "counted", "extra")
}

// TestRetiredType: a release that has retired an event type in its codec runs the projection. A release that has only
// removed the type does not run it, until an operator calls AcceptTypes.
func TestRetiredType(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config, said := talking()
	r, stop := f.start(config, f.store, release(countedType(), extraType()))
	f.appendExtra(5)
	f.wait(r, f.appendKeys(10))
	stop()
	r, stop = f.start(config, f.store, release(countedType(), codec.Retired[any]("extra")))
	f.waitWithin(10*time.Second, r, f.appendKeys(10))
	stop()
	f.checkSet("a", "counted", "extra")
	if said.has("is not run by this process") {
		t.Error("a release that has retired a type does not run the projection")
	}

	r, _ = f.start(config, f.store, release(countedType()))
	last := f.appendKeys(10)
	f.until("the projection is left to other processes", func() bool { return said.has("is not run by this process") })
	if n := len(f.model("a")); n != 25 {
		t.Errorf("a release that does not know a type has handled %d events", n-25)
	}
	if err := r.Operator().AcceptTypes(t.Context(), projection.Ref{Name: "a", Version: projection.Live}); err != nil {
		t.Fatal(err)
	}
	f.waitWithin(10*time.Second, r, last)
	f.checkSet("a", "counted", "extra")
}

// stopper calls stop at the n-th statement.
type stopper struct {
	left atomic.Int64
	stop context.CancelFunc
}

func (s *stopper) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if s.left.Add(-1) == 0 {
		s.stop()
	}
	return ctx
}

func (s *stopper) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestStopAtEveryStatement: a runner is stopped at any of its statements, and the next runner continues at the same
// place. Above all, a checkpoint never goes back.
func TestStopAtEveryStatement(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for n := range int64(16) {
		f.append(counting, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // ends Run if there are fewer than n+1 statements
		s := &stopper{stop: cancel}
		s.left.Store(n + 1)
		config := f.pool.Config()
		config.ConnConfig.Tracer = s
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		r, err := projection.NewRunner(pool, f.store, quiet, by(1, "a", 1, nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(ctx); err != nil {
			t.Errorf("stopped at statement %d: %v", n+1, err)
		}
		cancel()
		pool.Close()
		r, stop := f.start(quiet, f.store, by(1, "a", 1, nil))
		f.wait(r, f.append(counting, 1))
		stop()
		if f.checkModel("a"); t.Failed() {
			t.Fatalf("stopped at statement %d", n+1)
		}
	}
}
