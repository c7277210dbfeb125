package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
)

// ErrInvalid is [eventstore.ErrInvalid]: an argument is not acceptable, and nothing was stored.
var ErrInvalid = eventstore.ErrInvalid

// Kind says what the data of a snapshot means. Two releases with different kinds do not use each other's snapshots.
type Kind struct {
	Type   string // the aggregate's category, not empty
	Shape  string // of the state; package aggregate uses a fingerprint of the state's fields
	Schema int    // version of the state's meaning, from 1; it is raised by hand
}

// Snapshot is the state of a stream at a version.
type Snapshot struct {
	Stream     eventstore.StreamID
	Version    eventstore.Version // of the last event in the state, from 1
	EventID    uuid.UUID          // of that event; it proves that the snapshot belongs to the stream
	RecordedAt time.Time          // about when that event was recorded; retention by period uses it
	Kind       Kind
	Data       []byte
}

// MaxBytes bounds the data of one snapshot, maxSaveBytes the data of all snapshots that are saved at once.
const (
	MaxBytes     = 64 << 20
	maxSaveBytes = 256 << 20
)

// Validate returns an error that is [ErrInvalid] if the snapshot cannot be stored.
func (s Snapshot) Validate() error {
	err := s.Stream.Validate()
	switch {
	case err != nil:
	case s.Version < 1:
		err = fmt.Errorf("version %d: want at least 1", int64(s.Version))
	case s.EventID == uuid.Nil:
		err = errors.New("there is no event id")
	case s.RecordedAt.IsZero():
		err = errors.New("there is no time")
	case len(s.Data) > MaxBytes:
		err = fmt.Errorf("its data has %d bytes, at most %d are allowed: make the state of the aggregate smaller", len(s.Data), MaxBytes)
	default:
		err = s.Kind.validate()
	}
	if err != nil {
		return fmt.Errorf("snapshot: stream %s: %w: %w", s.Stream, ErrInvalid, err)
	}
	return nil
}

func (k Kind) validate() error {
	for _, text := range []string{k.Type, k.Shape} {
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			return fmt.Errorf("type or shape %q: want UTF-8 without a zero byte", text)
		}
	}
	if k.Type == "" || k.Schema < 1 || k.Schema > math.MaxInt32 {
		return fmt.Errorf("type %q at schema %d: want a name, and a schema from 1 to %d", k.Type, k.Schema, math.MaxInt32)
	}
	return nil
}

// isNewer reports whether k is the kind of a later release: the same type with a higher schema.
func (k Kind) isNewer(than Kind) bool { return k.Type == than.Type && k.Schema > than.Schema }

// Store keeps snapshots. Its methods are safe for concurrent use.
type Store interface {
	// Load returns the latest snapshot of the kind in the stream, up to version to. If there is none of the kind, it
	// returns the latest snapshot of another kind up to that version, without its data. It returns false if there is
	// none at all.
	Load(ctx context.Context, stream eventstore.StreamID, kind Kind, to eventstore.Version) (Snapshot, bool, error)

	// Save stores snapshots of different streams. A snapshot is not stored if the store has one of the same kind at the
	// same or a later version. It replaces a snapshot of another kind at the same version. Save then deletes from the
	// same streams: snapshots of this kind that the retention does not keep; snapshots of another type; and snapshots
	// of another shape or schema that are older than the second-latest of this kind. (A release that still uses them
	// would have saved a newer one by then.) The error is [ErrInvalid] if one of the snapshots cannot be stored. After
	// an error none is stored.
	Save(ctx context.Context, snapshots ...Snapshot) error

	// Delete deletes the snapshot of a stream at a version, if there is one.
	Delete(ctx context.Context, stream eventstore.StreamID, version eventstore.Version) error

	// DeleteOutdated deletes at most limit snapshots of the category that are not of the kind, and returns how many it
	// deleted. It keeps snapshots of the same type with a newer schema. The error is [ErrInvalid] if an argument is not
	// acceptable.
	DeleteOutdated(ctx context.Context, category string, kind Kind, limit int) (int, error)
}

// Retention says which snapshots of a stream are kept. The zero value keeps the latest.
type Retention struct {
	// Latest is how many of the latest snapshots of a kind are kept; 0 means 1.
	Latest int
	// Period keeps, in addition, the last snapshot of each period, so that an aggregate as it was in the past loads
	// fast. 0 means none; otherwise a period is at least one second. Periods are counted from 1970-01-01 in UTC, and a
	// snapshot belongs to the period of its RecordedAt.
	Period time.Duration
}

func (r Retention) normalize() (Retention, error) {
	if r.Latest == 0 {
		r.Latest = 1
	}
	if r.Latest < 0 {
		return r, fmt.Errorf("snapshot: %w: Retention.Latest is %d: want a number of snapshots, or 0 for 1", ErrInvalid, r.Latest)
	}
	if r.Period < 0 || r.Period > 0 && r.Period < time.Second {
		return r, fmt.Errorf("snapshot: %w: Retention.Period is %s: want a second at least, or 0 for none", ErrInvalid, r.Period)
	}
	return r, nil
}
