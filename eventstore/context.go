package eventstore

import (
	"context"
)

type metadataKey struct{}

// WithMetadata returns a context whose metadata completes appended events: m fills the fields that are empty in a
// draft. Metadata already in ctx fills the fields that are empty in m.
func WithMetadata(ctx context.Context, m Metadata) context.Context {
	return context.WithValue(ctx, metadataKey{}, m.or(MetadataFrom(ctx)))
}

// MetadataFrom returns the metadata that [WithMetadata] or [WithCause] put into ctx.
func MetadataFrom(ctx context.Context) Metadata {
	m, _ := ctx.Value(metadataKey{}).(Metadata)
	return m
}

// WithCause returns a context for appends that event has caused. The appended events get the id of event as causation
// id; its correlation id, actor and trace context; its depth plus one; and its hops followed by its source. The
// projection engine does this for each event that it hands to a handler. Call WithCause wherever else an event makes
// code append.
//
// An event without a correlation id begins a correlation: the events that it causes get its id as correlation id.
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
	merged.Hops = m.Hops // the hops in ctx belong to another cause
	return context.WithValue(ctx, metadataKey{}, merged)
}
