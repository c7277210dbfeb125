package codec

import (
	"errors"
	"fmt"

	"github.com/tidemark-es/tidemark/eventstore"
)

// The sentinels that the typed errors of this package unwrap to.
var (
	ErrUnknownType = errors.New("unknown event type")
	ErrDecode      = errors.New("event does not decode")
)

// UnknownTypeError says that a codec has no type for a stored event. Another release wrote the event, or
// the codec is not the one for this stream.
type UnknownTypeError struct {
	Type     string
	Schema   int
	Stream   eventstore.StreamID
	Position eventstore.Position
}

// Error names the event, its type and schema.
func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("event at position %d of stream %s: unknown type %q at schema %d: add it to the codec",
		e.Position, e.Stream, e.Type, e.Schema)
}

// Unwrap returns [ErrUnknownType].
func (e *UnknownTypeError) Unwrap() error { return ErrUnknownType }

// DecodeError says that the payload of a stored event does not fit the Go type that its event type is
// registered with, or that an upcaster refused the payload.
type DecodeError struct {
	Type     string
	Schema   int
	Stream   eventstore.StreamID
	Position eventstore.Position
	Err      error // from encoding/json, the application's JSON or the upcaster
}

// Error names the event, its type and schema, and says why the payload does not decode.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("event at position %d of stream %s: payload of type %q at schema %d: %v",
		e.Position, e.Stream, e.Type, e.Schema, e.Err)
}

// Unwrap returns [ErrDecode] and the error of encoding/json, the application's JSON or the upcaster.
func (e *DecodeError) Unwrap() []error { return []error{ErrDecode, e.Err} }
