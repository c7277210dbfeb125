package codec

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/naming"
)

// Codec turns the events of one domain type E into drafts and stored events back. It is
// immutable and safe for concurrent use.
type Codec[E any] struct {
	types    map[typeKey]Type[E]
	renamed  map[string]string // old names
	retired  map[string]bool
	encoders map[reflect.Type]Type[E]

	json         JSON
	strictFields bool // unknown fields are errors
	skipUnknown  bool // unknown types are skipped
}

type typeKey struct {
	name   string
	schema int
}

// New returns a codec of the given types. A mistake in the types is a programming error, and is found when the program
// starts: New panics when
//
//   - there is no type;
//   - two types claim the same name and schema, or one Go type is stored under two names;
//   - a name is empty, longer than 250 bytes, not UTF-8 or has a control character;
//   - a schema is not between 1 and 32767;
//   - an upcaster or a new name leads to a type that is not registered.
//
// A codec returns an error for an event of a type that it does not know, and ignores fields of a
// payload that the Go type does not have. [Codec.Strict] and [Codec.Tolerant] change that.
func New[E any](types ...Type[E]) *Codec[E] {
	c := &Codec[E]{
		types:    make(map[typeKey]Type[E], len(types)),
		renamed:  make(map[string]string),
		retired:  make(map[string]bool),
		encoders: make(map[reflect.Type]Type[E], len(types)),
	}
	if len(types) == 0 {
		panic(fmt.Sprintf("codec: New: the codec of %v has no event type: pass the types that codec.Of returns", reflect.TypeFor[E]()))
	}
	for _, t := range types {
		if err := naming.Validate("event type", t.name); err != nil {
			panic("codec: New: " + err.Error())
		}
		switch {
		case t.retired && c.retired[t.name]:
			panic(fmt.Sprintf("codec: event type %q is retired twice", t.name))
		case t.retired:
			c.retired[t.name] = true
		case t.newName != "":
			if c.renamed[t.name] != "" {
				panic(fmt.Sprintf("codec: event type %q is renamed twice", t.name))
			}
			c.renamed[t.name] = t.newName
		default:
			c.add(t)
		}
	}
	c.check()
	return c
}

func (c *Codec[E]) add(t Type[E]) {
	if t.schema < 1 || t.schema > math.MaxInt16 {
		panic(fmt.Sprintf("codec: event type %q: schema %d is not between 1 and %d", t.name, t.schema, math.MaxInt16))
	}
	key := typeKey{t.name, t.schema}
	if _, taken := c.types[key]; taken {
		panic(fmt.Sprintf("codec: event type %q at schema %d is registered twice", t.name, t.schema))
	}
	c.types[key] = t
	if !t.isEvent {
		return
	}
	other, taken := c.encoders[t.goType]
	if taken && other.name != t.name {
		panic(fmt.Sprintf("codec: %v is registered as %q and as %q", t.goType, other.name, t.name))
	}
	if !taken || other.schema < t.schema {
		c.encoders[t.goType] = t
	}
}

// check panics unless every new name and every upcaster leads to a registered type.
func (c *Codec[E]) check() {
	names := make(map[string]bool)
	for key, t := range c.types {
		names[key.name] = true
		if !t.isUpcaster() {
			continue
		}
		next, ok := c.types[typeKey{key.name, key.schema + 1}]
		switch {
		case !ok:
			panic(fmt.Sprintf("codec: event type %q: the upcaster of schema %d leads to schema %d, which is not registered", key.name, key.schema, key.schema+1))
		case t.upTo != nil && t.upTo != next.goType:
			panic(fmt.Sprintf("codec: event type %q: the upcaster of schema %d makes a %v, but schema %d is a %v", key.name, key.schema, t.upTo, key.schema+1, next.goType))
		}
	}
	for old, name := range c.renamed {
		if names[old] || c.retired[old] {
			panic(fmt.Sprintf("codec: event type %q is renamed and registered", old))
		}
		if !names[name] {
			panic(fmt.Sprintf("codec: event type %q is renamed to %q, which is not registered", old, name))
		}
	}
	for name := range c.retired {
		if names[name] {
			panic(fmt.Sprintf("codec: event type %q is retired and registered", name))
		}
	}
}

// Strict returns a codec that returns a [DecodeError] for a payload with a field that the Go type does not have. It is
// for tests, and for services that must stop rather than lose a field that another release has written. Upcasters over
// raw JSON see every field. Strict panics if the codec has an Unmarshal of the application without an UnmarshalStrict, see
// [JSON].
func (c *Codec[E]) Strict() *Codec[E] {
	strict := *c
	strict.strictFields, strict.skipUnknown = true, false
	strict.checkJSON("Strict")
	return &strict
}

// Tolerant returns a codec that decodes events of unknown types into no events, as if these types were retired. It is
// for readers that keep running while newer releases write. It is not for aggregates: an aggregate that misses a part
// of its history decides wrongly.
func (c *Codec[E]) Tolerant() *Codec[E] {
	tolerant := *c
	tolerant.strictFields, tolerant.skipUnknown = false, true
	return &tolerant
}

// Types returns the stored names that the codec decodes, sorted. They include the old names of renamed types, but not
// the names of retired types.
func (c *Codec[E]) Types() []string {
	names := make(map[string]bool)
	for key := range c.types {
		names[key.name] = true
	}
	for old := range c.renamed {
		names[old] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Retired returns the stored names of retired types, sorted. Their events decode into no events.
func (c *Codec[E]) Retired() []string { return slices.Sorted(maps.Keys(c.retired)) }

// Encodes returns the Go types of the events that the codec encodes, sorted by their stored names. An aggregate or a
// handler must expect these types. They do not include shapes that are only read, such as those of earlier releases.
func (c *Codec[E]) Encodes() []reflect.Type {
	return slices.SortedFunc(maps.Keys(c.encoders), func(a, b reflect.Type) int {
		x, y := c.encoders[a], c.encoders[b]
		return cmp.Or(cmp.Compare(x.name, y.name), cmp.Compare(x.schema, y.schema))
	})
}

// Schemas returns the schema versions of a stored type that the codec decodes, sorted.
func (c *Codec[E]) Schemas(name string) []int {
	if newName, ok := c.renamed[name]; ok {
		name = newName
	}
	var schemas []int
	for key := range c.types {
		if key.name == name {
			schemas = append(schemas, key.schema)
		}
	}
	slices.Sort(schemas)
	return schemas
}

// Encode returns the event as a draft without id and metadata. It returns [ErrUnknownType] for a
// Go type that is not registered.
func (c *Codec[E]) Encode(event E) (eventstore.Draft, error) {
	t, ok := c.encoders[reflect.TypeOf(event)]
	if !ok {
		return eventstore.Draft{}, fmt.Errorf("encode: %w: %T is not in the codec", ErrUnknownType, event)
	}
	data, err := c.json.marshal(event)
	if err != nil {
		return eventstore.Draft{}, fmt.Errorf("encode event type %q: %w", t.name, err)
	}
	return eventstore.Draft{Type: t.name, Schema: t.schema, Data: data}, nil
}

// Decode returns the events that a stored event means. Usually it is one event, with its payload decoded and, if it has
// an older shape, upcast. A retired type gives none, and a type that was split gives any number. All of them carry the
// stored event's type, schema, version and position. Decode returns an [UnknownTypeError] or a [DecodeError].
func (c *Codec[E]) Decode(raw eventstore.Raw) ([]eventstore.Event[E], error) {
	name := raw.Type
	if newName, ok := c.renamed[name]; ok {
		name = newName
	}
	t, ok := c.types[typeKey{name, raw.Schema}]
	switch {
	case ok:
	case c.retired[name] || c.skipUnknown:
		return nil, nil
	default:
		return nil, &UnknownTypeError{Type: raw.Type, Schema: raw.Schema, Stream: raw.Stream, Position: raw.Position}
	}
	if t.decode != nil { // the usual case
		payload, err := t.decode(raw.Data, c.json, c.strictFields)
		if err != nil {
			return nil, decodeError(raw, err)
		}
		return []eventstore.Event[E]{withData(raw, payload)}, nil
	}
	payloads, err := c.upcast(t, raw.Data)
	if err != nil {
		return nil, decodeError(raw, err)
	}
	var events []eventstore.Event[E]
	for _, payload := range payloads {
		events = append(events, withData(raw, payload))
	}
	return events, nil
}

// upcast decodes a payload of an older shape, from one schema to the next.
func (c *Codec[E]) upcast(t Type[E], data json.RawMessage) ([]E, error) {
	for t.upJSON != nil {
		newer, err := t.upJSON(data)
		if err != nil {
			return nil, fmt.Errorf("upcast from schema %d: %w", t.schema, err)
		}
		data, t = newer, c.types[typeKey{t.name, t.schema + 1}]
	}
	value, err := t.read(data, c.json, c.strictFields)
	if err != nil {
		return nil, err
	}
	for t.up != nil {
		value, t = t.up(value), c.types[typeKey{t.name, t.schema + 1}]
	}
	return t.into(value), nil
}

func decodeError(raw eventstore.Raw, err error) error {
	return &DecodeError{Type: raw.Type, Schema: raw.Schema, Stream: raw.Stream, Position: raw.Position, Err: err}
}

func withData[E any](raw eventstore.Raw, data E) eventstore.Event[E] {
	return eventstore.Event[E]{
		ID: raw.ID, Type: raw.Type, Schema: raw.Schema,
		Stream: raw.Stream, Version: raw.Version, Position: raw.Position,
		RecordedAt: raw.RecordedAt, Metadata: raw.Metadata,
		Data: data,
	}
}
