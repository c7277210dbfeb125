package eventstore

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Event is an event as stored. D is the payload: a domain's sealed interface after decoding,
// [json.RawMessage] before.
type Event[D any] struct {
	ID         uuid.UUID
	Type       string // the stored name, such as "account.opened"
	Schema     int    // the schema version of the payload, 1 for the first
	Stream     StreamID
	Version    Version
	Position   Position
	RecordedAt time.Time // by the clock of Postgres, in UTC; not necessarily in the order of positions
	Metadata   Metadata
	Data       D
}

// Raw is an event whose payload has not been decoded.
type Raw = Event[json.RawMessage]

// Draft is an event before it is stored. Package codec makes drafts of the events of a domain.
type Draft struct {
	// ID identifies the event. If it is zero, the store makes a random one (UUIDv7). The store does not check that
	// ids are unique. It recognises a repeated append by the ids of its events, see [Store.Commit].
	ID uuid.UUID
	// Type is the stored name: not empty, at most 250 bytes.
	Type string
	// Schema is the schema version of the payload, from 1 to 32767; 0 means 1.
	Schema int
	// Data is the payload: JSON in UTF-8 of at most Config.MaxEventBytes, without \u0000 and
	// without one half of a surrogate pair.
	Data json.RawMessage
	// Metadata is completed from the context, see [WithMetadata].
	Metadata Metadata
}

// Metadata says where an event comes from. All fields are optional.
type Metadata struct {
	CorrelationID string            `json:"correlation_id,omitempty"` // the same in all events that one request led to; at most 250 bytes
	CausationID   string            `json:"causation_id,omitempty"`   // the command or event that led to this one
	Actor         string            `json:"actor,omitempty"`          // the person or program that acted
	TraceParent   string            `json:"traceparent,omitempty"`    // W3C trace context
	Source        string            `json:"source,omitempty"`         // the service that appended it; Config.Service if empty
	Depth         int               `json:"depth,omitempty"`          // how many events, one after another, led to this one
	Hops          []string          `json:"hops,omitempty"`           // the other services that the chain of causes came through, at most 32, the latest last
	Headers       map[string]string `json:"headers,omitempty"`        // anything else
}

// isZero reports whether there is nothing to store.
func (m Metadata) isZero() bool {
	return m.CorrelationID == "" && m.CausationID == "" && m.Actor == "" && m.TraceParent == "" && m.Source == "" && m.Depth == 0 &&
		len(m.Hops) == 0 && len(m.Headers) == 0
}

// size returns about how many bytes there are to store.
func (m Metadata) size() int {
	n := len(m.CorrelationID) + len(m.CausationID) + len(m.Actor) + len(m.TraceParent) + len(m.Source)
	for _, hop := range m.Hops {
		n += len(hop)
	}
	for name, value := range m.Headers {
		n += len(name) + len(value)
	}
	return n
}

// or returns m with its empty fields taken from other.
func (m Metadata) or(other Metadata) Metadata {
	merged := Metadata{
		CorrelationID: cmp.Or(m.CorrelationID, other.CorrelationID),
		CausationID:   cmp.Or(m.CausationID, other.CausationID),
		Actor:         cmp.Or(m.Actor, other.Actor),
		TraceParent:   cmp.Or(m.TraceParent, other.TraceParent),
		Source:        cmp.Or(m.Source, other.Source),
		Depth:         cmp.Or(m.Depth, other.Depth),
		Hops:          m.Hops,
		Headers:       m.Headers,
	}
	if len(merged.Hops) == 0 {
		merged.Hops = other.Hops
	}
	if len(merged.Headers) == 0 {
		merged.Headers = other.Headers
	}
	return merged
}

// maxHops bounds Metadata.Hops.
const maxHops = 32

// hopsBehind returns the hops of the events that an event leads to. When the event's own service appends them,
// arrived removes the last hop again.
func (m Metadata) hopsBehind() []string {
	if m.Source == "" {
		return m.Hops
	}
	hops := append(slices.Clone(m.Hops), m.Source)
	return hops[max(0, len(hops)-maxHops):]
}

// arrived returns the metadata without its last hop if that hop is the service itself.
func (m Metadata) arrived() Metadata {
	if n := len(m.Hops); n > 0 && m.Hops[n-1] == m.Source {
		m.Hops = m.Hops[:n-1]
	}
	return m
}

// Change is what one append does to one stream.
type Change struct {
	Stream   StreamID
	Expected Version
	// ExpectedID is the id of the event at Expected that the caller has decided on; zero if the caller does not know
	// the id. If another event is stored there, because the log went back, the append returns a [ConflictError].
	ExpectedID uuid.UUID
	Events     []Draft // at least one
}

// Receipt tells where an append ended in one stream: the version and the position of the last
// event it stored there.
type Receipt struct {
	Version  Version
	Position Position
}
