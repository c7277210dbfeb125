package command

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Handler does the work of a command, and returns the receipt of the events that it appended to the command's stream.
type Handler[C any] func(ctx context.Context, command C) (eventstore.Receipt, error)

// Next is the rest of the way to a handler: the middleware after the present one, and the handler itself.
type Next func(ctx context.Context, command any) (eventstore.Receipt, error)

// Middleware wraps the way to all handlers.
type Middleware func(Next) Next

// ErrUnknown means that no handler was registered for a type of command.
var ErrUnknown = errors.New("no handler for this command")

// Bus dispatches commands to their handlers.
type Bus struct {
	handlers map[reflect.Type]Next
	next     Next
}

// NewBus returns a bus without handlers. The first middleware is the outermost. NewBus panics when a middleware is nil,
// or returns nil.
func NewBus(middleware ...Middleware) *Bus {
	b := &Bus{handlers: make(map[reflect.Type]Next)}
	b.next = b.handle
	for i := len(middleware) - 1; i >= 0; i-- {
		if middleware[i] == nil {
			panic(fmt.Sprintf("command: NewBus: middleware %d of %d is nil: pass a function", i+1, len(middleware)))
		}
		if b.next = middleware[i](b.next); b.next == nil {
			panic(fmt.Sprintf("command: NewBus: middleware %d of %d returns nil: return a function that calls the next one", i+1, len(middleware)))
		}
	}
	return b
}

// Register sets the handler for commands of type C. It panics when C has a handler already, when the bus or the handler
// is nil, or when C is an interface, because no command has an interface as its type.
func Register[C any](b *Bus, handler Handler[C]) {
	t := reflect.TypeFor[C]()
	switch {
	case b == nil:
		panic(fmt.Sprintf("command: Register: %v: the bus is nil: pass one that command.NewBus returned", t))
	case handler == nil:
		panic(fmt.Sprintf("command: Register: %v: the handler is nil: pass a function", t))
	case t.Kind() == reflect.Interface:
		panic(fmt.Sprintf("command: Register: %v is an interface, and no command has it as its type: register a handler for each type of command", t))
	}
	if _, taken := b.handlers[t]; taken {
		panic(fmt.Sprintf("command: Register: %v has a handler already: register one handler for each type of command", t))
	}
	b.handlers[t] = func(ctx context.Context, command any) (eventstore.Receipt, error) {
		return handler(ctx, command.(C))
	}
}

// Dispatch sends a command to its handler and returns the handler's result. If the command has a method Validate()
// error, Dispatch calls it first, inside the middleware, and returns its error unchanged. Without a handler it returns
// [ErrUnknown].
func (b *Bus) Dispatch(ctx context.Context, command any) (eventstore.Receipt, error) {
	return b.next(ctx, command)
}

func (b *Bus) handle(ctx context.Context, command any) (eventstore.Receipt, error) {
	handler, ok := b.handlers[reflect.TypeOf(command)]
	if !ok {
		return eventstore.Receipt{}, fmt.Errorf("command %T: %w: register one with command.Register", command, ErrUnknown)
	}
	if v, ok := command.(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return eventstore.Receipt{}, err
		}
	}
	return handler(ctx, command)
}
