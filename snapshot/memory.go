package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Memory keeps snapshots in memory, without a bound. It is for tests, and for programs that must not write snapshots to
// Postgres.
type Memory struct {
	retention Retention

	mu      sync.Mutex
	streams map[eventstore.StreamID][]Snapshot // by version
}

// NewMemory returns an empty store. The error is an [ErrInvalid].
func NewMemory(retention Retention) (*Memory, error) {
	retention, err := retention.normalize()
	if err != nil {
		return nil, err
	}
	return &Memory{retention: retention, streams: make(map[eventstore.StreamID][]Snapshot)}, nil
}

// Load is [Store].Load.
func (m *Memory) Load(ctx context.Context, stream eventstore.StreamID, kind Kind, to eventstore.Version) (found Snapshot, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return Snapshot{}, false, fmt.Errorf("snapshot: load %s: %w", stream, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slices.Backward(m.streams[stream]) {
		switch {
		case s.Version > to:
		case s.Kind == kind:
			s.Data = slices.Clone(s.Data)
			return s, true, nil
		case !ok:
			s.Data = nil
			found, ok = s, true
		}
	}
	return found, ok, nil
}

// Save is [Store].Save.
func (m *Memory) Save(ctx context.Context, snapshots ...Snapshot) error {
	if err := validate(snapshots); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("snapshot: save: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range snapshots {
		all := m.streams[s.Stream]
		if !slices.ContainsFunc(all, func(old Snapshot) bool { return old.prevents(s) }) {
			all = slices.DeleteFunc(all, func(old Snapshot) bool { return old.Version == s.Version })
			s.Data = slices.Clone(s.Data)
			s.RecordedAt = time.UnixMicro(s.RecordedAt.UnixMicro()).UTC() // microseconds, as in Postgres
			all = append(all, s)
			slices.SortFunc(all, func(a, b Snapshot) int { return cmp.Compare(a.Version, b.Version) })
		}
		m.streams[s.Stream] = m.retention.keep(all, s.Kind)
	}
	return nil
}

// prevents reports whether the stored snapshot s prevents saving other: s has the same kind, and the same or a later
// version.
func (s Snapshot) prevents(other Snapshot) bool {
	return s.Kind == other.Kind && s.Version >= other.Version
}

// keep returns the snapshots of a stream that are kept after a snapshot of kind was saved. all and kept are in the
// order of versions.
func (r Retention) keep(all []Snapshot, kind Kind) (kept []Snapshot) {
	latest := 0
	var newer *Snapshot // the next later snapshot of the kind
	for _, s := range slices.Backward(all) {
		keep := s.Kind.Type == kind.Type && latest < 2
		if s.Kind == kind {
			latest++
			keep = latest <= r.Latest || r.Period > 0 && s.period(r) != newer.period(r)
			newer = &s
		}
		if keep {
			kept = append(kept, s)
		}
	}
	slices.Reverse(kept)
	return kept
}

func (s *Snapshot) period(r Retention) int64 {
	return floorDiv(s.RecordedAt.UnixMicro(), r.Period.Microseconds())
}

func floorDiv(a, b int64) int64 {
	if a%b < 0 {
		return a/b - 1
	}
	return a / b
}

// Delete is [Store].Delete.
func (m *Memory) Delete(ctx context.Context, stream eventstore.StreamID, version eventstore.Version) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("snapshot: delete %s at version %d: %w", stream, version, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams[stream] = slices.DeleteFunc(m.streams[stream], func(s Snapshot) bool { return s.Version == version })
	return nil
}

// DeleteOutdated is [Store].DeleteOutdated.
func (m *Memory) DeleteOutdated(ctx context.Context, category string, kind Kind, limit int) (deleted int, err error) {
	if err := validOutdated(category, kind, limit); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("snapshot: delete outdated of %s: %w", category, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for stream, all := range m.streams {
		if stream.Category != category {
			continue
		}
		m.streams[stream] = slices.DeleteFunc(all, func(s Snapshot) bool {
			outdated := deleted < limit && s.Kind != kind && !s.Kind.isNewer(kind)
			if outdated {
				deleted++
			}
			return outdated
		})
	}
	return deleted, nil
}

func validate(snapshots []Snapshot) error {
	seen := make(map[eventstore.StreamID]bool, len(snapshots))
	bytes := 0
	for _, s := range snapshots {
		if err := s.Validate(); err != nil {
			return err
		}
		if seen[s.Stream] {
			return fmt.Errorf("snapshot: %w: stream %s is saved twice at once", ErrInvalid, s.Stream)
		}
		seen[s.Stream] = true
		if bytes += len(s.Data); bytes > maxSaveBytes {
			return fmt.Errorf("snapshot: %w: more than %d bytes are saved at once: save them one by one", ErrInvalid, maxSaveBytes)
		}
	}
	return nil
}

func validOutdated(category string, kind Kind, limit int) error {
	err := eventstore.StreamID{Category: category, Key: "x"}.Validate()
	if err == nil {
		err = kind.validate()
	}
	if err == nil && limit < 1 {
		err = fmt.Errorf("limit %d: want at least 1", limit)
	}
	if err != nil {
		return fmt.Errorf("snapshot: delete outdated: %w: %w", ErrInvalid, err)
	}
	return nil
}
