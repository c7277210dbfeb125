package query_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/query"
)

// waiter stands for a runner that has reached a position.
type waiter struct {
	reached eventstore.Position
	asked   []string
}

func (w *waiter) Wait(ctx context.Context, position eventstore.Position, projections ...string) error {
	w.asked = projections
	if position <= w.reached {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestAfter(t *testing.T) {
	t.Parallel()
	runner := &waiter{reached: 10}
	called := 0
	handler := query.WaitFor(func(_ context.Context, q string) (int, error) { called++; return len(q), nil }, runner, "a", "b")

	if n, err := handler(t.Context(), "four"); n != 4 || err != nil || runner.asked != nil {
		t.Errorf("without a position: %d, %v, waited for %v", n, err, runner.asked)
	}
	if n, err := handler(query.AtLeast(t.Context(), 10), "four"); n != 4 || err != nil || len(runner.asked) != 2 {
		t.Errorf("at 10: %d, %v, waited for %v", n, err, runner.asked)
	}
	ctx, cancel := context.WithTimeout(query.AtLeast(t.Context(), 11), time.Millisecond)
	defer cancel()
	if _, err := handler(ctx, "four"); !errors.Is(err, query.ErrBehind) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("at 11: %v, want ErrBehind and the deadline", err)
	}
	if called != 2 {
		t.Errorf("the handler was called %d times, want 2", called)
	}
}

func Example() {
	balances := map[string]int{"ada": 7}
	balanceOf := func(_ context.Context, owner string) (int, error) { return balances[owner], nil }

	runner := &waiter{reached: 42} // a projection.Runner
	handler := query.WaitFor(balanceOf, runner, "balances")

	receipt := eventstore.Receipt{Version: 3, Position: 42} // of the command before
	fmt.Println(handler(query.AtLeast(context.Background(), receipt.Position), "ada"))
	// Output: 7 <nil>
}
