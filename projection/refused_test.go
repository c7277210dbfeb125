package projection_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

func TestNewPanics(t *testing.T) {
	t.Parallel()
	handler := func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil }
	for name, make := range map[string]func(){
		"no name":    func() { projection.New("", nil, projection.On(counting, handler)) },
		"no source":  func() { projection.New("a", nil) },
		"no codec":   func() { projection.On(nil, handler) },
		"no handler": func() { projection.On(counting, nil) },
		"two of one": func() { projection.New("a", nil, projection.On(counting, handler), projection.On(counting, handler)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			make()
		}()
	}
}

func TestNotMigrated(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), pgtest.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store, _ := eventstore.New(pool, nil)
	r, err := projection.NewRunner(pool, store, quiet, record("a", nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); !errors.Is(err, eventstore.ErrNotMigrated) {
		t.Errorf("Run: %v, want ErrNotMigrated", err)
	}
	if err := r.Run(t.Context()); err == nil || errors.Is(err, eventstore.ErrNotMigrated) {
		t.Errorf("second Run: %v, want it refused", err)
	}
}

func TestNewRunnerRefuses(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a := record("a", nil)
	for name, make := range map[string]func() (*projection.Runner, error){
		"no pool":  func() (*projection.Runner, error) { return projection.NewRunner(nil, f.store, nil, a) },
		"no log":   func() (*projection.Runner, error) { return projection.NewRunner(f.pool, nil, nil, a) },
		"two of a": func() (*projection.Runner, error) { return projection.NewRunner(f.pool, f.store, nil, a, a) },
		"batch": func() (*projection.Runner, error) {
			return projection.NewRunner(f.pool, f.store, &projection.Config{BatchSize: -1}, a)
		},
	} {
		if _, err := make(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	r, _ := projection.NewRunner(f.pool, f.store, nil, a)
	if err := r.Wait(t.Context(), 0, "b"); !errors.Is(err, projection.ErrUnknownProjection) {
		t.Errorf("wait for b: %v, want ErrUnknownProjection", err)
	}
}

// TestCause: an event that a handler appends in its transaction has the handled event as its cause, and the handled
// event's correlation id and actor.
func TestCause(t *testing.T) {
	t.Parallel()
	f := setup(t)
	follow := projection.New("follow", nil, projection.On(counting, func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
		draft, err := other.Encode(event.Data)
		if err != nil {
			return err
		}
		_, err = f.store.WithTx(tx).Append(ctx, eventstore.StreamID{Category: "follower", Key: "a"}, eventstore.Any, draft)
		return err
	}))
	runner, err := projection.NewRunner(f.pool, f.store, quiet, follow)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(eventstore.WithMetadata(t.Context(), eventstore.Metadata{Actor: "the runner"}))
	done := make(chan error)
	go func() { done <- runner.Run(ctx) }()
	draft, err := counting.Encode(counted{1})
	if err != nil {
		t.Fatal(err)
	}
	draft.Metadata = eventstore.Metadata{CorrelationID: "request-1", Actor: "alice"}
	receipt, err := f.store.Append(t.Context(), eventstore.StreamID{Category: "counter", Key: "a"}, eventstore.NoStream, draft)
	if err != nil {
		t.Fatal(err)
	}
	if err := runner.Wait(t.Context(), receipt.Position); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var chain []eventstore.Raw
	for event, err := range f.store.Correlated(t.Context(), "request-1") {
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, event)
	}
	if len(chain) != 2 {
		t.Fatalf("%d events in the correlation, want 2", len(chain))
	}
	want := eventstore.Metadata{CorrelationID: "request-1", CausationID: chain[0].ID.String(), Actor: "alice", Depth: 1}
	if diff := cmp.Diff(want, chain[1].Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}
