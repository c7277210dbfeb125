//go:build unix

package eventstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

// TestOlderCopy: an older copy of the files is restored under running processes, and then other events are stored.
// Readers notice that the log went back, whether it is now shorter than before, as long, or longer.
func TestOlderCopy(t *testing.T) {
	t.Parallel()
	node := pgtest.NewNode(t, nil)
	pool := connect(t, node.URL())
	if err := migrations.Up(t.Context(), pool, nil); err != nil {
		t.Fatal(err)
	}
	store := another(t, pool, eventstore.Config{PollInterval: 5 * time.Millisecond})
	add := func(n int) {
		t.Helper()
		if _, err := store.Append(t.Context(), stream("a"), eventstore.Any, draft(n)); err != nil {
			t.Fatal(err)
		}
	}
	add(1)
	pool.Reset()
	if err := node.Stop(); err != nil {
		t.Fatal(err)
	}
	saved := node.Save(t)
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		add(1)
	}

	// Two filters select all events, and one selects none.
	filters := []eventstore.Filter{{}, {Types: []string{"other"}}, {Streams: []eventstore.StreamID{stream("a")}}}
	var marks []eventstore.Mark
	ended := make(chan error, len(filters))
	ctx, cancel := context.WithCancel(t.Context())
	var followers sync.WaitGroup
	defer followers.Wait()
	defer cancel()
	for _, filter := range filters {
		page, err := store.Next(t.Context(), eventstore.After(0), filter, 100)
		if err != nil {
			t.Fatal(err)
		}
		marks = append(marks, page.Mark())
		begun := make(chan struct{})
		followers.Go(func() {
			for event, err := range store.Follow(ctx, page.Through-1, eventstore.Filter{}) {
				if err != nil {
					ended <- err
					return
				}
				if event.Position == page.Through {
					close(begun)
				}
			}
		})
		<-begun
	}

	if err := node.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := node.Restore(saved); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	diverged := func(when string) {
		t.Helper()
		for n, filter := range filters {
			page, err := store.Next(t.Context(), marks[n], filter, 100)
			var d *eventstore.DivergedError
			if !errors.As(err, &d) || d.Position != marks[n].Position || d.Seen != marks[n].ID {
				t.Errorf("%s, filter %v: %+v, %v; want a DivergedError at %v", when, filter, page, err, marks[n])
			}
		}
	}
	diverged("shorter")
	for range filters {
		if err := <-ended; !errors.Is(err, eventstore.ErrDiverged) {
			t.Errorf("a follower ended with %v, want ErrDiverged", err)
		}
	}
	for range 4 { // as many as were lost
		add(100)
	}
	diverged("after others took their place")
	add(100)
	diverged("longer")
}
