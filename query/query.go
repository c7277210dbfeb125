package query

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/isnil"
)

// Handler answers a query.
type Handler[Q, R any] func(ctx context.Context, query Q) (R, error)

// Waiter waits until all the named projections have reached a position. It is a
// projection.Runner.
type Waiter interface {
	Wait(ctx context.Context, position eventstore.Position, projections ...string) error
}

// ErrBehind means that a projection did not reach the position before ctx was done. The event is stored. It is safe to
// ask again later.
var ErrBehind = errors.New("read model has not reached the position yet")

// WaitFor returns a handler that waits until the named projections have reached the position in its context, see
// [AtLeast], and then calls handler. When ctx is done first, the returned handler returns [ErrBehind] together with the
// waiter's error, such as a projection.WaitError. WaitFor panics when the handler or the waiter is nil, or a name is
// empty.
func WaitFor[Q, R any](handler Handler[Q, R], waiter Waiter, projections ...string) Handler[Q, R] {
	switch {
	case handler == nil:
		panic(fmt.Sprintf("query: WaitFor: %v: the handler is nil: pass a function", reflect.TypeFor[Q]()))
	case isnil.Any(waiter):
		panic(fmt.Sprintf("query: WaitFor: %v: the waiter is nil: pass the projection.Runner", reflect.TypeFor[Q]()))
	case slices.Contains(projections, ""):
		panic(fmt.Sprintf("query: WaitFor: %v: the name of a projection is empty in %q", reflect.TypeFor[Q](), projections))
	}
	projections = slices.Clone(projections)
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

type positionKey struct{}

// AtLeast returns a context in which queries made by [WaitFor] see every event up to position.
func AtLeast(ctx context.Context, position eventstore.Position) context.Context {
	return context.WithValue(ctx, positionKey{}, position)
}
