package query

import (
	"context"
	"errors"
	"fmt"
	"reflect"

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
// [ErrBehind] and the waiter's error, such as a projection.WaitError. It panics when handler or waiter is nil.
func After[Q, R any](handler Handler[Q, R], waiter Waiter, projections ...string) Handler[Q, R] {
	if handler == nil || isNil(waiter) {
		panic(fmt.Sprintf("query: After %v: handler and waiter must not be nil", projections))
	}
	return func(ctx context.Context, query Q) (R, error) {
		if position, ok := ctx.Value(positionKey{}).(eventstore.Position); ok {
			if err := waiter.Wait(ctx, position, projections...); err != nil {
				var none R
				if ctx.Err() != nil {
					err = fmt.Errorf("query: position %d: %w: %w", position, ErrBehind, err)
				}
				return none, err
			}
		}
		return handler(ctx, query)
	}
}

// isNil reports whether there is no waiter, also if it has the type of one.
func isNil(waiter Waiter) bool {
	v := reflect.ValueOf(waiter)
	return waiter == nil || v.Kind() == reflect.Pointer && v.IsNil()
}

type positionKey struct{}

// AtLeast returns a context in which queries made by [After] see every event up to position.
func AtLeast(ctx context.Context, position eventstore.Position) context.Context {
	return context.WithValue(ctx, positionKey{}, position)
}
