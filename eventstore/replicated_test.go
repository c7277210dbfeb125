//go:build unix

package eventstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

// TestRepeatIsReplicated: an append whose session ended while it waited for the synchronous standby is stored on the
// primary only. A repeat of the append, or a call of Receipts for its key, returns only when the standby has it too.
func TestRepeatIsReplicated(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"key", "ids"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node := pgtest.NewNode(t, nil)
			pool := connect(t, node.URL())
			if err := migrations.Up(t.Context(), pool, nil); err != nil {
				t.Fatal(err)
			}
			store, err := eventstore.New(pool, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			release := node.AwaitStandby(t)
			defer release()
			ctx := t.Context()
			if name == "key" {
				ctx = eventstore.WithKey(ctx, "k", nil)
			}
			answered := make(chan error, 1)
			go func() {
				_, err := store.Append(ctx, stream("a"), eventstore.NoStream, draft(1))
				answered <- err
			}()
			terminated := 0
			for deadline := time.Now().Add(20 * time.Second); terminated == 0 && time.Now().Before(deadline); pauseFor(ctx, 10*time.Millisecond) {
				if err := pool.QueryRow(ctx, `
					select count(pg_terminate_backend(pid))
					  from pg_stat_activity
					 where wait_event = 'SyncRep'
					   and query like '%append%'`).Scan(&terminated); err != nil {
					t.Fatal(err)
				}
			}
			if terminated != 1 {
				t.Fatalf("%d appends were waiting for the standby, want one", terminated)
			}
			select {
			case err := <-answered:
				t.Fatalf("the append was answered: %v", err)
			case <-time.After(2 * time.Second):
			}
			if name == "key" {
				short, cancel := context.WithTimeout(eventstore.WithKey(t.Context(), "k", nil), time.Second)
				defer cancel()
				if _, _, err := store.Receipts(short); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("stored: %v, want that it waits", err)
				}
				for range 10 {
					brief, cancel := context.WithTimeout(eventstore.WithKey(t.Context(), "k", nil), 20*time.Millisecond)
					_, _, _ = store.Receipts(brief)
					cancel()
				}
				var waiting int
				if err := pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`).Scan(&waiting); err != nil || waiting > 3 {
					t.Errorf("%d sessions wait for the standby, %v", waiting, err)
				}
			}
			release()
			if err := <-answered; err != nil {
				t.Errorf("once the standby is not waited for: %v", err)
			}
			if _, ok, err := store.Receipts(ctx); name == "key" && (!ok || err != nil) {
				t.Errorf("stored: %t, %v", ok, err)
			}
		})
	}
}

// TestNoPileOfWaitingSessions: callers give up their appends while a synchronous standby is away. The sessions of these
// appends go on waiting, so there must be few, however many appends were given up. No append is cut: it would show to
// readers before the standby has it.
func TestNoPileOfWaitingSessions(t *testing.T) {
	t.Parallel()
	node := pgtest.NewNode(t, nil)
	pool := connect(t, node.URL())
	if err := migrations.Up(t.Context(), pool, nil); err != nil {
		t.Fatal(err)
	}
	lone, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lone.Close()
	for _, key := range []string{"first", "second"} { // the store knows of no standby
		if _, err := lone.Append(t.Context(), stream(key), eventstore.Any, draft(1)); err != nil {
			t.Fatal(err)
		}
	}
	release := node.AwaitStandby(t)
	defer release()
	brief := func(store *eventstore.Store, key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := store.Append(ctx, stream(key), eventstore.Any, draft(1))
		return err
	}
	answered := make(chan error, 1)
	go func() { answered <- brief(lone, "third") }()
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		if err := brief(store, key); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("append to %s: %v, want that it was given up", key, err)
		}
	}
	select {
	case err := <-answered:
		t.Errorf("an append that waits for the standby was given up: %v", err)
	default:
	}
	var waiting int
	if err := pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where wait_event = 'SyncRep'`).Scan(&waiting); err != nil || waiting != 3 {
		t.Errorf("%d sessions wait for the standby, %v; want one of the first store and two of the second", waiting, err)
	}
	release()
	if err := <-answered; err != nil {
		t.Errorf("once the standby is not waited for: %v", err)
	}
}
