package projection

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Handler writes what one event means into the read model, through tx. The runner commits the
// transaction together with the checkpoint, after a batch of events; the handler must neither
// commit nor roll it back, and have no effect outside it, since it may be called again.
type Handler[E any] func(ctx context.Context, tx pgx.Tx, event eventstore.Event[E]) error

// Projection is a named read model and the handlers that keep it.
type Projection struct {
	name     string
	types    []string // of all sources, sorted
	handlers map[string]rawHandler
}

type rawHandler func(context.Context, pgx.Tx, eventstore.Raw) error

// Source is a kind of events that a projection handles, and how. See [On].
type Source struct {
	types  []string
	handle rawHandler
}

// On says that a projection gives the events whose types are in the codec to handler. It panics
// when one of them is nil.
func On[E any](codec *eventstore.Codec[E], handler Handler[E]) Source {
	if codec == nil || handler == nil {
		panic("projection: codec and handler must be given")
	}
	return Source{
		types: codec.Types(),
		handle: func(ctx context.Context, tx pgx.Tx, raw eventstore.Raw) error {
			events, err := codec.Decode(raw)
			if err != nil {
				return err
			}
			for _, event := range events {
				if err := handler(ctx, tx, event); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// New returns a projection of the events of one or more sources, usually one for each kind of
// aggregate that feeds it:
//
//	projection.New("shop.items", projection.On(stock.Codec, handleStock), projection.On(order.Codec, handleOrder))
//
// All its handlers run in one goroutine and get the events in the order of positions. They may
// read what the same projection has written, but not the tables of others, which are ahead or
// behind. The tables are the application's to create, before the runner starts.
//
// A source or an event type that is added to a projection later gets events from its checkpoint
// on, not those before: to have all of them, start from the beginning.
//
// The name is what its checkpoint is stored under. Another name, and other tables, start from the
// beginning of the log; so does an empty table after its row in the table projections was deleted
// while no runner was running. New panics when the name is empty, there is no source, or an event
// type has two.
func New(name string, sources ...Source) *Projection {
	if name == "" || len(sources) == 0 {
		panic(fmt.Sprintf("projection %q: a name and a source must be given", name))
	}
	p := &Projection{name: name, handlers: make(map[string]rawHandler)}
	for _, source := range sources {
		for _, eventType := range source.types {
			if _, taken := p.handlers[eventType]; taken {
				panic(fmt.Sprintf("projection %q: two sources have the event type %q", name, eventType))
			}
			p.handlers[eventType] = source.handle
		}
	}
	p.types = slices.Sorted(maps.Keys(p.handlers))
	return p
}

// Name returns the projection's name.
func (p *Projection) Name() string { return p.name }

// apply handles those of the events that the projection is for.
func (p *Projection) apply(ctx context.Context, tx pgx.Tx, events []eventstore.Raw) error {
	for _, event := range events {
		if err := p.applyOne(ctx, tx, event); err != nil {
			return &HandlerError{Projection: p.name, Stream: event.Stream, Position: event.Position, Type: event.Type, Err: err}
		}
	}
	return nil
}

func (p *Projection) applyOne(ctx context.Context, tx pgx.Tx, event eventstore.Raw) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	// What the handler appends was caused by this event.
	return p.handlers[event.Type](eventstore.WithCause(ctx, event), tx, event)
}

// matching returns the events of the projection's types.
func (p *Projection) matching(events []eventstore.Raw) []eventstore.Raw {
	return slices.DeleteFunc(slices.Clone(events), func(event eventstore.Raw) bool {
		_, handled := p.handlers[event.Type]
		return !handled
	})
}

// HandlerError says which event a projection's handler failed on.
type HandlerError struct {
	Projection string
	Stream     eventstore.StreamID
	Position   eventstore.Position
	Type       string
	Err        error
}

func (e *HandlerError) Error() string {
	return fmt.Sprintf("projection %s: event %q at position %d of stream %s: %v", e.Projection, e.Type, e.Position, e.Stream, e.Err)
}

// Unwrap returns the handler's error.
func (e *HandlerError) Unwrap() error { return e.Err }
