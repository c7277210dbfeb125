package aggregate

import (
	"github.com/tidemark-es/tidemark/eventstore"
)

// State is what an aggregate's state must be: a pointer to S with a method Apply that changes
// the state by one event. Apply must be pure: no I/O, no clock, no randomness. It must accept
// every event ever stored, since what has happened cannot be refused.
type State[S, E any] interface {
	*S
	Apply(E)
}

// Definition says how an aggregate is made of events.
type Definition[S, E any] struct {
	category string
	codec    *eventstore.Codec[E]
	apply    func(*S, E)
}

// Define defines an aggregate: the category of its streams, the codec of its events and, as the
// type argument, its state. It panics when the category cannot be one, see
// [eventstore.StreamID.Validate].
func Define[S any, P State[S, E], E any](category string, codec *eventstore.Codec[E]) *Definition[S, E] {
	if err := (eventstore.StreamID{Category: category, Key: "x"}).Validate(); err != nil {
		panic("aggregate: " + err.Error())
	}
	if codec == nil {
		panic("aggregate: the codec of " + category + " is nil")
	}
	return &Definition[S, E]{
		category: category,
		codec:    codec,
		apply:    func(state *S, event E) { P(state).Apply(event) },
	}
}

// Fold returns the state after the events. Without events it is the zero value of S.
func (d *Definition[S, E]) Fold(events ...E) *S {
	state := new(S)
	for _, event := range events {
		d.apply(state, event)
	}
	return state
}

// Stream returns the id of the stream of the aggregate with the given key.
func (d *Definition[S, E]) Stream(key string) eventstore.StreamID {
	return eventstore.StreamID{Category: d.category, Key: key}
}

// Codec returns the codec of the aggregate's events.
func (d *Definition[S, E]) Codec() *eventstore.Codec[E] { return d.codec }
