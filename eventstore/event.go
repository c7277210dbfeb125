package eventstore

import (
	"encoding/json"
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
	// ID identifies the event. The store fills in a random one (UUIDv7) when it is zero, and does
	// not check that no other event has it: it is how a repeat is recognised, see [Store.Commit].
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

// Metadata says where an event comes from. All of it is optional.
type Metadata struct {
	CorrelationID string            `json:"correlation_id,omitempty"` // the same for everything one request led to; at most 250 bytes
	CausationID   string            `json:"causation_id,omitempty"`   // the command or event that led to this one
	Actor         string            `json:"actor,omitempty"`          // who did it
	TraceParent   string            `json:"traceparent,omitempty"`    // W3C trace context
	Headers       map[string]string `json:"headers,omitempty"`        // anything else
}

// isZero reports whether there is nothing to store.
func (m Metadata) isZero() bool {
	return m.CorrelationID == "" && m.CausationID == "" && m.Actor == "" && m.TraceParent == "" && len(m.Headers) == 0
}

// size returns about how many bytes there are to store.
func (m Metadata) size() int {
	n := len(m.CorrelationID) + len(m.CausationID) + len(m.Actor) + len(m.TraceParent)
	for name, value := range m.Headers {
		n += len(name) + len(value)
	}
	return n
}

// or returns m with its empty fields taken from other.
func (m Metadata) or(other Metadata) Metadata {
	first := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	merged := Metadata{
		CorrelationID: first(m.CorrelationID, other.CorrelationID),
		CausationID:   first(m.CausationID, other.CausationID),
		Actor:         first(m.Actor, other.Actor),
		TraceParent:   first(m.TraceParent, other.TraceParent),
		Headers:       m.Headers,
	}
	if len(merged.Headers) == 0 {
		merged.Headers = other.Headers
	}
	return merged
}

// Change is what one append does to one stream.
type Change struct {
	Stream   StreamID
	Expected Version
	// ExpectedID is the id of the event at Expected that the caller has decided on, zero if it does not know
	// that: when another event is there, since the log went back, the change is a [ConflictError].
	ExpectedID uuid.UUID
	Events     []Draft // at least one
}

// Receipt tells where an append ended in one stream: the version and the position of the last
// event it stored there.
type Receipt struct {
	Version  Version
	Position Position
}
