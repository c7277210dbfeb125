package query

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Handler answers a query.
type Handler[Q, R any] func(ctx context.Context, query Q) (R, error)

// Waiter waits until all the named projections have reached a position. It is a
// projection.Runner.
type Waiter interface {
	Wait(ctx context.Context, position eventstore.Position, projections ...string) error
}

// ErrBehind means that a projection did not reach the position in time. The event is stored;
// asking again later is safe.
var ErrBehind = errors.New("read model has not reached the position yet")

// After returns a handler that waits for the position in its context, see [AtLeast], to be
// reached by the named projections before it calls handler. When ctx is done first it returns
// [ErrBehind] and the context's error.
func After[Q, R any](handler Handler[Q, R], waiter Waiter, projections ...string) Handler[Q, R] {
	return func(ctx context.Context, query Q) (R, error) {
		if position, ok := ctx.Value(positionKey{}).(eventstore.Position); ok {
			if err := waiter.Wait(ctx, position, projections...); err != nil {
				var none R
				if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
					err = fmt.Errorf("query: position %d: %w: %w", position, ErrBehind, err)
				}
				return none, err
			}
		}
		return handler(ctx, query)
	}
}

type positionKey struct{}

// AtLeast returns a context in which queries made by [After] see every event up to position.
func AtLeast(ctx context.Context, position eventstore.Position) context.Context {
	return context.WithValue(ctx, positionKey{}, position)
}
