//go:build unix

package projection_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

// TestSilentNetwork: packets are dropped, of all connections for a while or of the established ones for good. A
// handler, and an effect that reads from the store, reach the end of the log within seconds after the network works
// again. No event is blamed.
func TestSilentNetwork(t *testing.T) {
	t.Parallel()
	node := pgtest.NewNode(t, nil)
	direct, err := pgxpool.New(context.Background(), node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(direct.Close)
	for _, conns := range []int32{0, 2} {
		for _, silent := range []bool{false, true} {
			t.Run(fmt.Sprintf("silent %v, %d connections", silent, conns), func(t *testing.T) {
				t.Parallel()
				testSilentNetwork(t, node, direct, conns, silent)
			})
		}
	}
}

func testSilentNetwork(t *testing.T, node *pgtest.Node, direct *pgxpool.Pool, conns int32, silent bool) {
	schema := fmt.Sprintf("s%d_%v", conns, silent)
	if err := migrations.Up(t.Context(), direct, &migrations.Config{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	gate := pgtest.NewGate(t, node.Socket)
	pool := gate.Pool(t, conns)
	quietly := slog.New(slog.DiscardHandler)
	store, err := eventstore.New(pool, &eventstore.Config{Schema: schema, Logger: quietly})
	if err != nil {
		t.Fatal(err)
	}
	past, err := eventstore.New(direct, &eventstore.Config{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	add := func(n int) (last eventstore.Position) {
		for i := range n {
			receipt, err := past.Append(t.Context(), eventstore.StreamID{Category: "counter", Key: fmt.Sprint(i)}, eventstore.Any,
				eventstore.Draft{Type: "counted", Data: []byte(`{"N":1}`)})
			if err != nil {
				t.Fatal(err)
			}
			last = receipt.Position
		}
		return last
	}
	handler := projection.New("handler", nil, projection.On(counting, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		_, err := tx.Exec(ctx, "select 1")
		return err
	}))
	effect := projection.NewSubscription("effect", nil, projection.Effect(counting, func(ctx context.Context, e eventstore.Event[counted]) error {
		_, err := store.Stat(ctx, e.Stream)
		return err
	}))
	runner, err := projection.NewRunner(pool, store, &projection.Config{Schema: schema, Logger: quietly, Lease: 2 * time.Second, MaxBackoff: time.Second}, handler, effect)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := runner.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer stop()
	wait := func(position eventstore.Position, within time.Duration) {
		t.Helper()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		for _, name := range []string{"handler", "effect"} {
			if err := runner.Wait(ctx, position, name); err != nil {
				t.Fatalf("after %s: %v", time.Since(start), err)
			}
		}
		t.Logf("reached after %s", time.Since(start).Round(time.Millisecond))
	}
	wait(add(20), time.Minute)
	if silent {
		gate.Silence()
		add(20)
		if _, err := store.Tidemark(t.Context()); err == nil {
			t.Error("Tidemark returned no error while packets were dropped")
		}
		gate.Open()
	} else {
		gate.Forget()
	}
	wait(add(20), 3*time.Minute) // usually seconds, but more on a busy machine
	status, err := runner.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range status.Projections {
		if p.Parked > 0 || p.State != "running" {
			t.Errorf("%s: %d events are parked, %s %s", p.Name, p.Parked, p.State, p.Reason)
		}
	}
}
