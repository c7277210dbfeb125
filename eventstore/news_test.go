package eventstore_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// looks counts how often readers look for events.
type looks struct{ n atomic.Int64 }

func (l *looks) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "tidemark()") {
		l.n.Add(1)
	}
	return ctx
}

func (*looks) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// in returns how often readers look in a period.
func (l *looks) in(ctx context.Context, period time.Duration) int64 {
	before := l.n.Load()
	pauseFor(ctx, period)
	return l.n.Load() - before
}

// TestIdleReaders: readers look seldom while nothing is appended, if they can be notified. News makes them look often
// again: an append in another store's transaction, before its commit, and events from SQL.
func TestIdleReaders(t *testing.T) {
	t.Parallel()
	const interval = 20 * time.Millisecond
	for _, pollOnly := range []bool{false, true} {
		url := pgtest.URL(t)
		var l looks
		pool := pgtest.Connect(t, url, func(c *pgxpool.Config) { c.ConnConfig.Tracer = &l })
		store, err := eventstore.New(pool, &eventstore.Config{PollInterval: interval, PollOnly: pollOnly})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(store.Close)
		other := pgtest.Connect(t, url, nil)
		writer, err := eventstore.New(other, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(writer.Close)
		seen := make(chan eventstore.Raw)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for event, err := range store.Follow(ctx, 0, eventstore.Filter{}) {
				if err != nil {
					return
				}
				seen <- event
			}
		}()
		if pollOnly {
			pauseFor(ctx, 3*time.Second)
			if n := l.in(ctx, time.Second); n < 15 {
				t.Errorf("a reader that cannot be notified looked %d times in a second, want about 50", n)
			}
		} else {
			idle := func() {
				t.Helper()
				pgtest.Until(t, 20*time.Second, "the reader looks seldom", func() bool { return l.in(ctx, time.Second) <= 8 })
			}
			idle()
			tx := begin(t, other)
			if _, err := writer.WithTx(tx).Append(ctx, stream("a"), eventstore.Any, draft(1)); err != nil {
				t.Fatal(err)
			}
			if n := l.in(ctx, time.Second); n < 15 {
				t.Errorf("beside an open append the reader looked %d times in a second, want about 50", n)
			}
			if err := tx.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			<-seen
			idle()
			mustExec(t, other, `select tidemark.append('{thing-b}', '{-1}', '{1}', array[gen_random_uuid()], '{t}', '{1}', array['{}'::json], array[null::json])`)
			<-seen
			if n := l.in(ctx, time.Second); n < 15 {
				t.Errorf("after an event from SQL the reader looked %d times in a second, want about 50", n)
			}
		}
		cancel()
		<-ended
	}
}
