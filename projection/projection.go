package projection

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Handler writes what one event means into the read model, through tx. The runner commits the
// transaction together with the checkpoint, after a batch of events; the handler must neither
// commit nor roll it back, and have no effect outside it, since it may be called again.
type Handler[E any] func(ctx context.Context, tx pgx.Tx, event eventstore.Event[E]) error

// Projection is a named read model and the handler that keeps it.
type Projection struct {
	name   string
	types  []string
	handle func(context.Context, pgx.Tx, eventstore.Raw) error
}

// New returns a projection that handles the events whose types are in the codec. One that is fed
// by several aggregates takes a codec of its own, with the types of all of them and an E that
// they share. The tables it writes to are the application's to create, before the runner starts.
//
// The name is what its checkpoint is stored under. Another name, and other tables, start from the
// beginning of the log; so does an empty table after its row in the table projections was deleted
// while no runner was running. New panics when the name is empty or a part is nil.
func New[E any](name string, codec *eventstore.Codec[E], handler Handler[E]) *Projection {
	if name == "" || codec == nil || handler == nil {
		panic(fmt.Sprintf("projection %q: name, codec and handler must be given", name))
	}
	return &Projection{
		name:  name,
		types: codec.Types(),
		handle: func(ctx context.Context, tx pgx.Tx, raw eventstore.Raw) error {
			event, err := codec.Decode(raw)
			if err != nil {
				return err
			}
			return handler(ctx, tx, event)
		},
	}
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
	return p.handle(ctx, tx, event)
}

// matching returns the events of the projection's types.
func (p *Projection) matching(events []eventstore.Raw) []eventstore.Raw {
	return slices.DeleteFunc(slices.Clone(events), func(event eventstore.Raw) bool {
		_, handled := slices.BinarySearch(p.types, event.Type)
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
