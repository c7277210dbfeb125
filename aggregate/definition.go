package aggregate

import (
	"fmt"
	"math"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// State is the constraint for an aggregate's state: a pointer to S with a method Apply that changes the state by one
// event. Apply must be pure: no I/O, no clock, no randomness. It must accept every event that was ever stored, because
// a stored event cannot be refused.
type State[S, E any] interface {
	*S
	Apply(E)
}

// Definition says how an aggregate is made of events.
type Definition[S, E any] struct {
	category string
	codec    *codec.Codec[E]
	apply    func(*S, E)
	state    stateCodec[S] // for snapshots
}

// Define defines an aggregate: the category of its streams, the codec of its events and, as the type argument, its
// state. It panics when the category is not valid (see [eventstore.StreamID.Validate]), when the codec is nil, or when
// the codec decodes no type.
func Define[S any, P State[S, E], E any](category string, c *codec.Codec[E]) *Definition[S, E] {
	if err := (eventstore.StreamID{Category: category, Key: "x"}).Validate(); err != nil {
		panic(fmt.Sprintf("aggregate: Define: category %q: %v", category, err))
	}
	if c == nil {
		panic(fmt.Sprintf("aggregate: Define: category %q: the codec is nil: pass one that codec.New returned, and declare the codec's variable in the same package or before", category))
	}
	if len(c.Types()) == 0 {
		panic(fmt.Sprintf("aggregate: Define: category %q: the codec has no event type that is not retired: add one with codec.Of", category))
	}
	return &Definition[S, E]{
		category: category,
		codec:    c,
		apply:    func(state *S, event E) { P(state).Apply(event) },
		state:    jsonState[S](category),
	}
}

// WithSchema returns the definition with another schema version of its snapshots. Define sets version 1, the lowest.
// Raise it when Apply or the codec makes another state from the same events: snapshots of another schema are not used.
// A change of the fields of S needs no new schema, because it gives snapshots another shape, unless
// [Definition.WithEncoding] encodes them. WithSchema panics when the schema is below 1 or above math.MaxInt32.
func (d *Definition[S, E]) WithSchema(schema int) *Definition[S, E] {
	if schema < 1 || schema > math.MaxInt32 {
		panic(fmt.Sprintf("aggregate: Definition.WithSchema: %s: schema %d of snapshots is not between 1 and %d", d.category, schema, math.MaxInt32))
	}
	changed := *d
	changed.state.kind.Schema = schema
	return &changed
}

// WithEncoding returns the definition with snapshots encoded by encode and decoded by decode, instead of as JSON. It is
// for a state with unexported fields, or a large state. Raise the schema, with [Definition.WithSchema], whenever decode
// could misread older data. Both functions must be pure and safe for concurrent use. decode must not keep its argument.
// WithEncoding panics when one of them is nil.
func (d *Definition[S, E]) WithEncoding(encode func(*S) ([]byte, error), decode func([]byte) (*S, error)) *Definition[S, E] {
	if encode == nil || decode == nil {
		panic(fmt.Sprintf("aggregate: Definition.WithEncoding: %s: encode or decode is nil: pass both functions", d.category))
	}
	changed := *d
	changed.state = ownState(d.category, d.state.kind.Schema, encode, decode)
	return &changed
}

// SnapshotKind returns the kind of the aggregate's snapshots. Another state has another kind, see
// [Definition.WithSchema].
func (d *Definition[S, E]) SnapshotKind() snapshot.Kind { return d.state.kind }

// EncodeState returns the data of a snapshot of the state. The error is that of the encoding, or names the part of the
// state that JSON, the default encoding, would lose.
func (d *Definition[S, E]) EncodeState(state *S) ([]byte, error) {
	if d.state.problem != nil {
		return nil, d.unfit()
	}
	return d.state.save(state)
}

// DecodeState returns the state that a snapshot's data encodes.
func (d *Definition[S, E]) DecodeState(data []byte) (*S, error) { return d.state.restore(data) }

func (d *Definition[S, E]) unfit() error {
	return fmt.Errorf("aggregate: snapshots of %s: %w: export it, or give the definition an encoding of its own (Definition.WithEncoding)",
		d.category, d.state.problem)
}

// Fold returns the state after the events. Without events it is the zero value of S.
func (d *Definition[S, E]) Fold(events ...E) *S {
	state := new(S)
	d.FoldOnto(state, events...)
	return state
}

// FoldOnto adds the events to a state.
func (d *Definition[S, E]) FoldOnto(state *S, events ...E) {
	for _, event := range events {
		d.apply(state, event)
	}
}

// step applies a stored event to a state, and returns the events that it decodes into.
func (d *Definition[S, E]) step(state *S, raw eventstore.Raw) ([]eventstore.Event[E], error) {
	events, err := d.codec.Decode(raw)
	for _, event := range events {
		d.apply(state, event.Data)
	}
	return events, err
}

// Stream returns the id of the stream of the aggregate with the given key.
func (d *Definition[S, E]) Stream(key string) eventstore.StreamID {
	return eventstore.StreamID{Category: d.category, Key: key}
}

// Codec returns the codec of the aggregate's events.
func (d *Definition[S, E]) Codec() *codec.Codec[E] { return d.codec }
