package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// observed keeps the calls of an observer.
type observed struct {
	mu      sync.Mutex
	appends []string
	commits int // in groups
	events  int
}

func (o *observed) observer() eventstore.Observer {
	return eventstore.Observer{
		Append: func(_ context.Context, done eventstore.AppendDone) {
			o.mu.Lock()
			defer o.mu.Unlock()
			what := fmt.Sprintf("%s: %d events, %d receipts", done.Changes[0].Stream, len(done.Changes[0].Events), len(done.Receipts))
			switch {
			case errors.Is(done.Err, eventstore.ErrConflict):
				what += ", conflict"
			case errors.Is(done.Err, eventstore.ErrInvalid):
				what += ", invalid"
			case done.Err != nil || done.Took <= 0:
				what += fmt.Sprintf(", %v after %s", done.Err, done.Took)
			}
			o.appends = append(o.appends, what)
		},
		Group: func(done eventstore.GroupDone) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.commits, o.events = o.commits+done.Commits, o.events+done.Events
			if done.Took <= 0 || done.Bytes < 5*done.Events || done.Err != nil {
				o.appends = append(o.appends, fmt.Sprintf("group %+v", done))
			}
		},
	}
}

// TestObserver: the observer is told how every commit has ended, even in a caller's transaction. It is also told of
// every group.
func TestObserver(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	var o observed
	store, err := eventstore.New(pool, &eventstore.Config{Observer: o.observer()})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = store.Append(t.Context(), stream("a"), eventstore.NoStream, draft(1), draft(2))
	_, _ = store.Append(t.Context(), stream("a"), eventstore.NoStream, draft(1))
	_, _ = store.Append(t.Context(), stream(""), eventstore.NoStream, draft(1))
	tx := begin(t, pool)
	_, _ = store.WithTx(tx).Append(t.Context(), stream("b"), eventstore.Any, draft(1))
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"thing-a: 2 events, 1 receipts", "thing-a: 1 events, 0 receipts, conflict", "thing-: 1 events, 0 receipts, invalid",
		"thing-b: 1 events, 1 receipts",
	}
	if fmt.Sprint(o.appends) != fmt.Sprint(want) {
		t.Errorf("appends:\n%q, want\n%q", o.appends, want)
	}
	if o.commits != 2 || o.events != 3 {
		t.Errorf("%d commits with %d events in groups, want 2 and 3", o.commits, o.events)
	}
}
