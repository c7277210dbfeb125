package eventstore

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
)

// Type tells a [Codec] how one Go type is stored. See [TypeOf].
type Type[E any] struct {
	name    string
	schema  int
	goType  reflect.Type
	isEvent bool // the Go type is itself one of E and can be encoded
	decode  func(json.RawMessage) (E, error)
}

// TypeOf says that payloads of the stored type name decode into a T and that into makes an event
// of E from it. E is usually an interface that only the events of one aggregate implement.
//
// For a current type into returns its argument, which proves that T is an E:
//
//	eventstore.TypeOf("account.opened", func(e Opened) Event { return e })
//
// For a payload of an older shape, T is that shape and into is the upcaster. Raise the schema
// of the current one with [Type.WithSchema]:
//
//	eventstore.TypeOf("account.opened", func(e openedV1) Event { return Opened{e.Owner, "CZK"} }),
//	eventstore.TypeOf("account.opened", func(e Opened) Event { return e }).WithSchema(2),
//
// into must be pure: it runs each time an event is read.
func TypeOf[T, E any](name string, into func(T) E) Type[E] {
	var zero T
	_, isEvent := any(zero).(E)
	return Type[E]{
		name:    name,
		schema:  1,
		goType:  reflect.TypeFor[T](),
		isEvent: isEvent,
		decode: func(data json.RawMessage) (E, error) {
			var payload T
			if err := json.Unmarshal(data, &payload); err != nil {
				var none E
				return none, err
			}
			return into(payload), nil
		},
	}
}

// WithSchema returns the type at another schema version of the payload, from 1 to 32767.
func (t Type[E]) WithSchema(schema int) Type[E] {
	t.schema = schema
	return t
}

// Codec turns the events of one domain type E into drafts and stored events back. It is
// immutable and safe for concurrent use.
type Codec[E any] struct {
	decoders map[typeKey]Type[E]
	encoders map[reflect.Type]Type[E]
}

type typeKey struct {
	name   string
	schema int
}

// NewCodec makes a codec of the given types. It panics when two of them claim the same name and
// schema, when one Go type is stored under two names, or when a name or schema is out of bounds:
// a mistake of the programmer, found when the program starts.
func NewCodec[E any](types ...Type[E]) *Codec[E] {
	c := &Codec[E]{
		decoders: make(map[typeKey]Type[E], len(types)),
		encoders: make(map[reflect.Type]Type[E], len(types)),
	}
	for _, t := range types {
		if err := validName("event type", t.name); err != nil {
			panic("eventstore: " + err.Error())
		}
		if t.schema < 1 || t.schema > math.MaxInt16 {
			panic(fmt.Sprintf("eventstore: event type %q: schema %d is not between 1 and %d", t.name, t.schema, math.MaxInt16))
		}
		key := typeKey{t.name, t.schema}
		if _, taken := c.decoders[key]; taken {
			panic(fmt.Sprintf("eventstore: event type %q at schema %d is registered twice", t.name, t.schema))
		}
		c.decoders[key] = t
		if !t.isEvent {
			continue
		}
		other, taken := c.encoders[t.goType]
		if taken && other.name != t.name {
			panic(fmt.Sprintf("eventstore: %v is registered as %q and as %q", t.goType, other.name, t.name))
		}
		if !taken || other.schema < t.schema {
			c.encoders[t.goType] = t
		}
	}
	return c
}

// Types returns the stored names the codec knows, sorted.
func (c *Codec[E]) Types() []string {
	names := make(map[string]bool)
	for key := range c.decoders {
		names[key.name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Encode returns the event as a draft without id and metadata. It returns [ErrUnknownType] for a
// Go type that is not registered.
func (c *Codec[E]) Encode(event E) (Draft, error) {
	t, ok := c.encoders[reflect.TypeOf(event)]
	if !ok {
		return Draft{}, fmt.Errorf("encode: %w: %T is not in the codec", ErrUnknownType, event)
	}
	data, err := json.Marshal(event)
	if err != nil {
		return Draft{}, fmt.Errorf("encode event type %q: %w", t.name, err)
	}
	return Draft{Type: t.name, Schema: t.schema, Data: data}, nil
}

// Decode returns a stored event with its payload decoded and, where it has an older shape,
// upcast. It returns an [UnknownTypeError] or a [DecodeError].
func (c *Codec[E]) Decode(raw Raw) (Event[E], error) {
	t, ok := c.decoders[typeKey{raw.Type, raw.Schema}]
	if !ok {
		return Event[E]{}, &UnknownTypeError{Type: raw.Type, Schema: raw.Schema, Stream: raw.Stream, Position: raw.Position}
	}
	payload, err := t.decode(raw.Data)
	if err != nil {
		return Event[E]{}, &DecodeError{Type: raw.Type, Schema: raw.Schema, Stream: raw.Stream, Position: raw.Position, Err: err}
	}
	return Event[E]{
		ID: raw.ID, Type: raw.Type, Schema: raw.Schema,
		Stream: raw.Stream, Version: raw.Version, Position: raw.Position,
		RecordedAt: raw.RecordedAt, Metadata: raw.Metadata,
		Data: payload,
	}, nil
}
