package eventstore

import (
	"context"
)

type metadataKey struct{}

// WithMetadata returns a context under which appended events get m, field by field where the
// draft itself says nothing. Metadata already in ctx fills what m leaves empty.
func WithMetadata(ctx context.Context, m Metadata) context.Context {
	return context.WithValue(ctx, metadataKey{}, m.or(MetadataFrom(ctx)))
}

// MetadataFrom returns what [WithMetadata] put into ctx.
func MetadataFrom(ctx context.Context) Metadata {
	m, _ := ctx.Value(metadataKey{}).(Metadata)
	return m
}

// WithCause returns a context under which appended events say that event led to them: they get its id as causation id, its
// correlation id, actor and trace context, one more as depth, and its hops with its source. The projection engine does it
// for each event that it hands to a handler; use it wherever else an event makes code append more.
//
// An event without a correlation id begins a correlation: what it leads to gets its id as one.
func WithCause[D any](ctx context.Context, event Event[D]) context.Context {
	m := Metadata{
		CorrelationID: event.Metadata.CorrelationID,
		CausationID:   event.ID.String(),
		Actor:         event.Metadata.Actor,
		TraceParent:   event.Metadata.TraceParent,
		Depth:         event.Metadata.Depth + 1,
		Hops:          event.Metadata.hopsBehind(),
	}
	if m.CorrelationID == "" {
		m.CorrelationID = m.CausationID
	}
	merged := m.or(MetadataFrom(ctx))
	merged.Hops = m.Hops // those of another cause are of another path
	return context.WithValue(ctx, metadataKey{}, merged)
}
