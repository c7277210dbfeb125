package codec

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Type tells a [Codec] how one Go type is stored, or what became of an earlier stored type. See [Of], [Upcast],
// [UpcastJSON], [Split], [Renamed] and [Retired].
type Type[E any] struct {
	name    string
	schema  int
	goType  reflect.Type // the type that payloads decode into; nil for an upcaster over JSON
	isEvent bool         // the Go type is itself one of E and can be encoded

	decode reader[E]     // payload to event, without the steps below
	read   reader[any]   // payload to a value of goType
	into   func(any) []E // value of goType to events

	up     func(any) any // value of goType to one of the next schema
	upTo   reflect.Type
	upJSON func(json.RawMessage) (json.RawMessage, error)

	newName string // set only if name is an old name
	retired bool
}

func (t Type[E]) isUpcaster() bool { return t.up != nil || t.upJSON != nil }

// Of says that payloads of the stored type name decode into a T and that into makes an event
// of E from it. E is usually an interface that only the events of one aggregate implement.
//
// For a current type into returns its argument, which proves that T is an E:
//
//	codec.Of("account.opened", func(e Opened) Event { return e })
//
// For a payload of an older shape, T is that shape and into is the upcaster. Raise the schema of the current shape with
// [Type.WithSchema]:
//
//	codec.Of("account.opened", func(e openedV1) Event { return Opened{e.Owner, "CZK"} }),
//	codec.Of("account.opened", func(e Opened) Event { return e }).WithSchema(2),
//
// When there are more than two shapes, [Upcast] leads from each to the next. into must be pure: it runs each time an
// event is read. Of panics when into is nil, or when T is an interface, because JSON does not decode into an interface.
func Of[T, E any](name string, into func(T) E) Type[E] {
	mustBe[T]("Of", name, "into", into == nil)
	var zero T
	_, isEvent := any(zero).(E)
	t, read := readable[T, E](name)
	t.isEvent = isEvent
	t.decode = func(data json.RawMessage, j JSON, strict bool) (event E, err error) {
		payload, err := read(data, j, strict)
		if err != nil {
			return event, err
		}
		return into(payload), nil
	}
	t.into = func(value any) []E { return []E{into(value.(T))} }
	return t
}

// Split says that payloads of the stored type name decode into a T and mean any number of events, or none. It is for a
// type that turned out to mean several events at once. into must be pure. Split panics like [Of].
func Split[T, E any](name string, into func(T) []E) Type[E] {
	mustBe[T]("Split", name, "into", into == nil)
	t, _ := readable[T, E](name)
	t.into = func(value any) []E { return into(value.(T)) }
	return t
}

// Upcast says that payloads of the stored type name at a schema decode into an Old, and that up makes a New from it.
// New is the shape of the next schema, which must also be registered. Upcasters form a chain, so a new shape needs only
// one step, from the shape before it:
//
//	codec.Upcast[Event]("account.opened", 1, func(e openedV1) openedV2 { … }),
//	codec.Upcast[Event]("account.opened", 2, func(e openedV2) Opened { … }),
//	codec.Of("account.opened", func(e Opened) Event { return e }).WithSchema(3),
//
// up must be pure. Upcast panics when up is nil, or Old is an interface.
func Upcast[E, Old, New any](name string, schema int, up func(Old) New) Type[E] {
	mustBe[Old]("Upcast", name, "up", up == nil)
	t, _ := readable[Old, E](name)
	t.schema = schema
	t.up = func(old any) any { return up(old.(Old)) }
	t.upTo = reflect.TypeFor[New]()
	return t
}

// UpcastJSON is [Upcast] over the payload itself: up makes the payload of the next schema from it. It needs no Go type
// for the older shape. An error of up becomes a [DecodeError]. up must be pure, and must not change its argument.
// UpcastJSON panics when up is nil.
func UpcastJSON[E any](name string, schema int, up func(json.RawMessage) (json.RawMessage, error)) Type[E] {
	mustBe[json.RawMessage]("UpcastJSON", name, "up", up == nil)
	return Type[E]{name: name, schema: schema, upJSON: up}
}

// Renamed says that events stored under the name old, of any schema, have the type that is now registered as name. New
// events get the new name.
func Renamed[E any](old, name string) Type[E] { return Type[E]{name: old, newName: name} }

// Retired says that events of a type, of any schema, mean nothing any more. They decode into no events, and projections
// do not read them.
func Retired[E any](name string) Type[E] { return Type[E]{name: name, retired: true} }

// WithSchema returns the type at another schema version of the payload, from 1 to 32767.
func (t Type[E]) WithSchema(schema int) Type[E] {
	t.schema = schema
	return t
}

// mustBe panics if the function of a type is nil, or if JSON cannot decode into its Go type.
func mustBe[T any](function, name, option string, isNil bool) {
	if isNil {
		panic(fmt.Sprintf("codec: %s: event type %q: %s is nil: pass a function", function, name, option))
	}
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Interface {
		panic(fmt.Sprintf("codec: %s: event type %q: the payload's Go type %v is an interface: the function must take the type of one event", function, name, t))
	}
}

// readable returns a type at schema 1 whose payloads decode into a T, and the function that decodes them.
func readable[T, E any](name string) (Type[E], reader[T]) {
	read := newReader[T]()
	return Type[E]{
		name:   name,
		schema: 1,
		goType: reflect.TypeFor[T](),
		read:   func(data json.RawMessage, j JSON, strict bool) (any, error) { return read(data, j, strict) },
	}, read
}
