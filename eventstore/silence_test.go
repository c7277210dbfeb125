//go:build unix

package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

const (
	// callBound is how long a call without a deadline may take while Postgres cannot be reached.
	callBound = 45 * time.Second
	// recoveredWithin is how long it may take until everything works, once Postgres can be reached. It takes some ten
	// seconds, and more on a busy machine. Without the store's own timeouts it takes a quarter of an hour.
	recoveredWithin = time.Minute
)

// TestSilence: packets are dropped, and neither side is told that a connection has ended. No call takes longer than
// callBound. Everything works again within recoveredWithin after the network does, for every size of the pool.
func TestSilence(t *testing.T) {
	t.Parallel()
	node := pgtest.NewNode(t, map[string]string{"fsync": "off"})
	direct := connect(t, node.URL())
	if err := migrations.Up(t.Context(), direct, nil); err != nil {
		t.Fatal(err)
	}
	for _, conns := range []int32{0, 1, 2} {
		for _, mode := range []string{"forgotten", "silent"} {
			if once := conns == 0 && mode == "forgotten" || conns == 2 && mode == "silent"; !once && *chaosFor < time.Minute {
				continue // only a soak test runs all of them, because together they need a whole machine
			}
			t.Run(fmt.Sprintf("%s/%d connections", mode, conns), func(t *testing.T) {
				t.Parallel()
				testSilence(t, node, conns, mode == "silent")
			})
		}
	}
}

func testSilence(t *testing.T, node *pgtest.Node, conns int32, silent bool) {
	gate := pgtest.NewGate(t, node.Socket)
	pool := gate.Pool(t, conns)
	var logged logBuffer
	store, err := eventstore.New(pool, &eventstore.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	w := &silenceWork{t: t, store: store, slowest: make(map[string]time.Duration)}
	ctx, stop := context.WithCancel(t.Context())
	w.follow(ctx)
	for n := range 3 {
		w.appendTo(ctx, fmt.Sprintf("%s-%d-%d", strings.ReplaceAll(t.Name(), "/", "."), conns, n))
	}
	w.read(ctx)
	w.progress(recoveredWithin) // everything works
	if silent {
		gate.Silence()
		pgtest.Until(w.t, callBound, "a call and the follower fail", func() bool {
			return w.failed.Load() > 0 && strings.Contains(logged.String(), "cannot follow the log")
		})
		gate.Open()
	} else {
		gate.Forget()
	}
	w.progress(recoveredWithin)
	stop()
	closed := time.Now()
	store.Close()
	if took := time.Since(closed); took > recoveredWithin {
		t.Errorf("Close took %s", took)
	}
	w.running.Wait()
	for call, took := range w.slowest {
		if took > callBound {
			t.Errorf("%s took %s", call, took)
		}
	}
	t.Logf("slowest calls: %v", w.slowest)
}

// silenceWork uses a store while the network fails.
type silenceWork struct {
	t       *testing.T
	store   *eventstore.Store
	running sync.WaitGroup
	failed  atomic.Int64

	stored, reads, followed atomic.Int64 // successes

	mu      sync.Mutex
	slowest map[string]time.Duration
}

// call calls do, and notes how long it took. It reports whether do succeeded.
func (w *silenceWork) call(ctx context.Context, name string, do func() error) bool {
	start := time.Now()
	err := do()
	w.mu.Lock()
	w.slowest[name] = max(w.slowest[name], time.Since(start))
	w.mu.Unlock()
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		w.failed.Add(1)
		if !errors.Is(err, eventstore.ErrNoAnswer) && !errors.Is(err, eventstore.ErrUnknownOutcome) {
			w.t.Logf("%s: %v", name, err)
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			w.t.Errorf("%s: %v, though its context is not done", name, err)
		}
	}
	return false
}

func (w *silenceWork) appendTo(ctx context.Context, key string) {
	w.running.Go(func() {
		for ctx.Err() == nil {
			if w.call(ctx, "Append", func() error {
				_, err := w.store.Append(ctx, stream(key), eventstore.Any, draft(1))
				return err
			}) {
				w.stored.Add(1)
			}
			pauseFor(ctx, 10*time.Millisecond)
		}
	})
}

func (w *silenceWork) follow(ctx context.Context) {
	w.running.Go(func() {
		for _, err := range w.store.Follow(ctx, 0, eventstore.Filter{}) {
			if err != nil {
				if ctx.Err() == nil {
					w.t.Errorf("Follow ended: %v", err)
				}
				return
			}
			w.followed.Add(1)
		}
	})
}

func (w *silenceWork) read(ctx context.Context) {
	w.running.Go(func() {
		for ctx.Err() == nil {
			var end eventstore.Position
			ok := w.call(ctx, "Tidemark", func() (err error) { end, err = w.store.Tidemark(ctx); return err }) &&
				w.call(ctx, "Stat", func() error { _, err := w.store.Stat(ctx, stream("x")); return err }) &&
				w.call(ctx, "ReadAll", func() error {
					for _, err := range w.store.ReadAll(ctx, max(0, end-100), eventstore.Filter{}) {
						if err != nil {
							return err
						}
					}
					return nil
				})
			if ok {
				w.reads.Add(1)
			}
			pauseFor(ctx, 10*time.Millisecond)
		}
	})
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// progress waits until appends, reads and the follower have succeeded again.
func (w *silenceWork) progress(within time.Duration) {
	w.t.Helper()
	stored, read, followed := w.stored.Load(), w.reads.Load(), w.followed.Load()
	start := time.Now()
	pgtest.Until(w.t, within, "an append", func() bool { return w.stored.Load() > stored+10 })
	pgtest.Until(w.t, within-time.Since(start), "a read", func() bool { return w.reads.Load() > read+1 })
	pgtest.Until(w.t, within-time.Since(start), "the follower", func() bool { return w.followed.Load() > followed+10 })
	w.t.Logf("works after %s", time.Since(start).Round(time.Millisecond))
}

// logBuffer keeps the text that is logged.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

var _ io.Writer = (*logBuffer)(nil)

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
