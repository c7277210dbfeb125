package eventstore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The bounds of one commit. Postgres takes no message of a gigabyte, and its lock table has room for some thousands
// of streams. A larger commit also takes long, and holds readers back for that time.
const (
	MaxCommitBytes   = 64 << 20 // of payloads, metadata as JSON, and types
	MaxCommitEvents  = 50_000
	MaxCommitStreams = 2_000
)

// Prepare checks changes as [Store.Commit] does, and returns them with ids, schema 1, and metadata from ctx filled
// in. It is for implementations of another store, such as the one in memory. The error is an [InvalidError]. The
// given changes are not modified.
func Prepare(ctx context.Context, changes []Change, maxEventBytes int) ([]Change, error) {
	if len(changes) == 0 {
		return nil, invalid("commit: no changes")
	}
	if key, ok := KeyFrom(ctx); ok {
		if err := key.Validate(); err != nil {
			return nil, err
		}
	}
	if err := validSize(changes); err != nil {
		return nil, err
	}
	seen := make(map[StreamID]bool, len(changes))
	prepared := make([]Change, len(changes))
	bytes := 0
	for i, change := range changes {
		if err := change.validate(); err != nil {
			return nil, err
		}
		if seen[change.Stream] {
			return nil, invalid("commit: stream %s is changed twice: put its events into one change", change.Stream)
		}
		seen[change.Stream] = true

		change.Events = slices.Clone(change.Events)
		for j := range change.Events {
			size, err := change.Events[j].prepare(ctx, maxEventBytes)
			if err != nil {
				return nil, fmt.Errorf("append to stream %s: event %d of %d: %w", change.Stream, j+1, len(change.Events), err)
			}
			if bytes += size; bytes > MaxCommitBytes { // including the metadata from ctx
				return nil, tooLarge("more than %d bytes", MaxCommitBytes)
			}
		}
		prepared[i] = change
	}
	return prepared, nil
}

// validSize checks sizes only, before anything is copied.
func validSize(changes []Change) error {
	if len(changes) > MaxCommitStreams {
		return tooLarge("%d streams, at most %d are allowed", len(changes), MaxCommitStreams)
	}
	events, bytes := 0, 0
	for _, change := range changes {
		events += len(change.Events)
		if events > MaxCommitEvents {
			return tooLarge("more than %d events", MaxCommitEvents)
		}
		for _, draft := range change.Events {
			if bytes += len(draft.Data) + len(draft.Type) + draft.Metadata.size(); bytes > MaxCommitBytes {
				return tooLarge("more than %d bytes", MaxCommitBytes)
			}
		}
	}
	return nil
}

func tooLarge(format string, args ...any) error {
	return invalid("commit: too large, "+format+": split it into several commits", args...)
}

func (c Change) validate() error {
	if err := c.Stream.Validate(); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	if err := c.Expected.validate(); err != nil {
		return fmt.Errorf("append to stream %s: %w", c.Stream, err)
	}
	if len(c.Events) == 0 {
		return fmt.Errorf("append to stream %s: %w", c.Stream, invalid("no events"))
	}
	return nil
}

// prepare checks and completes a draft, and returns how many bytes it has.
func (d *Draft) prepare(ctx context.Context, maxBytes int) (int, error) {
	if err := validName("event type", d.Type); err != nil {
		return 0, err
	}
	if d.Schema == 0 {
		d.Schema = 1
	}
	if d.Schema < 1 || d.Schema > math.MaxInt16 {
		return 0, invalid("event type %q: schema %d is not between 1 and %d", d.Type, d.Schema, math.MaxInt16)
	}
	if err := validJSON(d.Data, maxBytes); err != nil {
		return 0, fmt.Errorf("payload of event type %q: %w", d.Type, err)
	}
	d.Metadata = d.Metadata.or(MetadataFrom(ctx)).arrived()
	metaBytes, err := d.Metadata.validate(maxBytes)
	if err != nil {
		return 0, fmt.Errorf("metadata of event type %q: %w", d.Type, err)
	}
	if d.ID == uuid.Nil {
		id, err := uuid.NewV7()
		if err != nil {
			return 0, fmt.Errorf("event id: %w", err)
		}
		d.ID = id
	}
	return len(d.Data) + len(d.Type) + metaBytes, nil
}

// validate returns how many bytes the metadata has as JSON.
func (m Metadata) validate(maxBytes int) (int, error) {
	if m.isZero() {
		return 0, nil
	}
	if m.size() > maxBytes { // as JSON it is longer
		return 0, tooManyBytes(m.size(), maxBytes)
	}
	if m.CorrelationID != "" {
		if err := validCorrelation(m.CorrelationID); err != nil {
			return 0, err
		}
	}
	if m.Depth < 0 || len(m.Hops) > maxHops {
		return 0, invalid("its depth is %d and it has %d hops: want a depth from 0 on, and up to %d hops", m.Depth, len(m.Hops), maxHops)
	}
	texts := append([]string{m.CorrelationID, m.CausationID, m.Actor, m.TraceParent, m.Source}, m.Hops...)
	for name, value := range m.Headers {
		texts = append(texts, name, value)
	}
	for _, text := range texts { // encoding as JSON would hide bytes that are not UTF-8
		if !utf8.ValidString(text) {
			return 0, invalid("%q is not UTF-8", text)
		}
	}
	encoded := m.encode()
	return len(encoded), validJSON(encoded, maxBytes)
}

// validCorrelation checks a correlation id like a name, because it is indexed.
func validCorrelation(id string) error { return validName("correlation id", id) }

// text returns the metadata as JSON, nil when there is none.
func (m Metadata) text() *string {
	if m.isZero() {
		return nil
	}
	text := string(m.encode())
	return &text
}

func (m Metadata) encode() []byte {
	data, err := json.Marshal(m)
	if err != nil {
		panic("eventstore: metadata is strings and a number: " + err.Error())
	}
	return data
}

func validJSON(data []byte, maxBytes int) error {
	switch {
	case len(data) == 0:
		return invalid("it is empty: want JSON")
	case len(data) > maxBytes:
		return tooManyBytes(len(data), maxBytes)
	case !utf8.Valid(data):
		return invalid("it is not UTF-8")
	case !json.Valid(data):
		return invalid("it is not JSON")
	}
	if escape := badEscape(data); escape != "" {
		return invalid("it holds %s, which Postgres cannot turn into text", escape)
	}
	return nil
}

func tooManyBytes(n, most int) error {
	return invalid("it has %d bytes, at most %d are allowed: keep large things elsewhere and store a reference, or raise Config.MaxEventBytes", n, most)
}

// badEscape returns the first escape in valid JSON that stands for no text: \u0000, or one half
// of a surrogate pair without the other. It returns "" if there is none.
func badEscape(data []byte) string {
	for {
		i := bytes.IndexByte(data, '\\')
		if i < 0 {
			return ""
		}
		data = data[i:]
		unit, ok := escapedUnit(data)
		switch {
		case !ok: // such as \n or \\: two bytes
			data = data[2:]
			continue
		case utf16.IsSurrogate(unit):
			low, _ := escapedUnit(data[6:])
			if utf16.DecodeRune(unit, low) == unicode.ReplacementChar {
				return string(data[:6])
			}
			data = data[12:]
			continue
		case unit == 0:
			return string(data[:6])
		}
		data = data[6:]
	}
}

// escapedUnit reads the UTF-16 unit that data starts with, if it starts with \uXXXX.
func escapedUnit(data []byte) (rune, bool) {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	return rune(n), err == nil
}
