package projection_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// otherLog is a log whose events have other ids than in the runner's database. The log of another copy of the same
// server is such a log.
type otherLog struct {
	*eventstore.Store
	refuse bool // Next says that the log has diverged from the events that were read
	asked  atomic.Int64
}

func (l *otherLog) Next(ctx context.Context, after eventstore.Mark, filter eventstore.Filter, limit int) (eventstore.Page, error) {
	l.asked.Add(1)
	if l.refuse {
		return eventstore.Page{}, &eventstore.DivergedError{Position: after.Position}
	}
	after.ID = uuid.Nil
	p, err := l.Store.Next(ctx, after, filter, limit)
	for n := range p.Events {
		p.Events[n].ID = uuid.New()
	}
	p.ID = uuid.New()
	return p, err
}

// TestOtherCopy: when the log is not that of the runner's database, the log is read with growing pauses, and the status
// says that the log went back.
func TestOtherCopy(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			lines := &lines{}
			log := &otherLog{Store: f.store}
			f.put("a", 1)
			r, _ := f.start(&projection.Config{Logger: slog.New(lines)}, log, k.make(f, "a", projection.Options{}, noHook))
			f.until("the status says that the log went back", func() bool {
				return strings.Contains(f.statusOf(r, "a").Partitions[0].Error, "went back")
			})
			asked, logged := log.asked.Load(), lines.n.Load()
			time.Sleep(time.Second)
			if n, m := log.asked.Load()-asked, lines.n.Load()-logged; n > 20 || m > 20 {
				t.Errorf("within a second the log was read %d times, and %d lines were logged", n, m)
			}
			f.noLetters()
			if at := f.statusOf(r, "a").Checkpoint; at != 0 {
				t.Errorf("the checkpoint is %d, want 0: the database does not have the events", at)
			}
		})
	}
}

// TestSubscriptionOfOtherCopy: a subscription of one process reads such a log with growing pauses too.
func TestSubscriptionOfOtherCopy(t *testing.T) {
	t.Parallel()
	f := setup(t)
	lines := &lines{}
	log := &otherLog{Store: f.store, refuse: true}
	f.put("a", 1)
	r, err := projection.NewRunner(f.pool, log, &projection.Config{Logger: slog.New(lines)})
	if err != nil {
		t.Fatal(err)
	}
	unsubscribe, err := r.Subscribe(t.Context(), projection.Effect(counting, func(context.Context, eventstore.Event[counted]) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer unsubscribe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	f.until("the log is read", func() bool { return log.asked.Load() > 0 })
	time.Sleep(time.Second)
	if n, m := log.asked.Load(), lines.n.Load(); n > 20 || m > 20 {
		t.Errorf("within a second the log was read %d times, and %d lines were logged", n, m)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
