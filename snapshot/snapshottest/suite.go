package snapshottest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// NewStore returns a store with a retention and frees it with t.Cleanup. Each test must get fresh, empty stores. The
// stores of one test can share their data, because no two of them use the same stream.
type NewStore func(t *testing.T, retention snapshot.Retention) snapshot.Store

// Run tests that a store keeps the contract of [snapshot.Store].
func Run(t *testing.T, newStore NewStore) {
	if newStore == nil {
		t.Fatal("snapshottest.Run: newStore is nil: pass a function that returns an empty store")
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, NewStore)
	}{
		{"RoundTrip", testRoundTrip},
		{"DataIsCopied", testDataIsCopied},
		{"LoadLatest", testLoadLatest},
		{"LoadOtherKind", testLoadOtherKind},
		{"OnlyNewer", testOnlyNewer},
		{"SameVersion", testSameVersion},
		{"Batch", testBatch},
		{"LargeBatch", testLargeBatch},
		{"Invalid", testInvalid},
		{"Delete", testDelete},
		{"DeleteOutdated", testDeleteOutdated},
		{"DeleteOutdatedCategory", testDeleteOutdatedCategory},
		{"DeleteOutdatedLimit", testDeleteOutdatedLimit},
		{"Cancelled", testCancelled},
		{"RetentionLatest", testRetentionLatest},
		{"RetentionPeriod", testRetentionPeriod},
		{"RetentionPeriodAndLatest", testRetentionPeriodAndLatest},
		{"RetentionAfterDelete", testRetentionAfterDelete},
		{"RetentionOfKinds", testRetentionOfKinds},
		{"NeverBack", testNeverBack},
		{"OneWinner", testOneWinner},
		{"Model", testModel},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newStore)
		})
	}
}

const latest = eventstore.Version(math.MaxInt64)

var (
	kind     = snapshot.Kind{Type: "thing", Shape: "it", Schema: 2}
	older    = snapshot.Kind{Type: "thing", Shape: "it", Schema: 1}
	newer    = snapshot.Kind{Type: "thing", Shape: "it", Schema: 3}
	reshaped = snapshot.Kind{Type: "thing", Shape: "other", Schema: 2}
	another  = snapshot.Kind{Type: "another", Shape: "it", Schema: 2}
	nobodys  = snapshot.Kind{Type: "nobody's", Schema: 1}
	noon     = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	keepMany = snapshot.Retention{Latest: 1000}
)

func stream(key string) eventstore.StreamID {
	return eventstore.StreamID{Category: "thing", Key: key}
}

// made returns a snapshot whose data differs from that of every other version or kind of the stream.
func made(key string, version eventstore.Version, of snapshot.Kind) snapshot.Snapshot {
	s := snapshot.Snapshot{
		Stream:     stream(key),
		Version:    version,
		RecordedAt: noon.Add(time.Duration(version) * time.Minute),
		Kind:       of,
		Data:       fmt.Appendf(nil, "%s-%d-%v", key, version, of),
	}
	copy(s.EventID[:], key)
	binary.BigEndian.PutUint64(s.EventID[8:], uint64(version))
	return s
}

func at(s snapshot.Snapshot, when time.Time) snapshot.Snapshot {
	s.RecordedAt = when
	return s
}

func mustSave(t testing.TB, store snapshot.Store, snapshots ...snapshot.Snapshot) {
	t.Helper()
	if err := store.Save(t.Context(), snapshots...); err != nil {
		t.Fatalf("save %d: %v", len(snapshots), err)
	}
}

// check compares all stored snapshots of a stream with want.
func check(t *testing.T, store snapshot.Store, key string, want ...snapshot.Snapshot) {
	t.Helper()
	got, err := all(t.Context(), store, stream(key))
	if err != nil {
		t.Fatal(err)
	}
	if diff := compare(want, got); diff != "" {
		t.Errorf("stored of %s (-want +got):\n%s", stream(key), diff)
	}
}

// checkLoad compares the result of Load with want.
func checkLoad(t *testing.T, store snapshot.Store, key string, of snapshot.Kind, to eventstore.Version, want snapshot.Snapshot, wantOK bool) {
	t.Helper()
	got, ok, err := store.Load(t.Context(), stream(key), of, to)
	if err != nil {
		t.Fatal(err)
	}
	if ok != wantOK {
		t.Errorf("load %s to %d: %v, want %v", stream(key), int64(to), ok, wantOK)
	}
	if diff := compare(want, got); diff != "" {
		t.Errorf("loaded of %s to %d (-want +got):\n%s", stream(key), int64(to), diff)
	}
}

func compare(want, got any) string {
	return cmp.Diff(want, got, cmp.Comparer(bytes.Equal))
}

// all returns all stored snapshots of a stream, by version. It finds them by asking for a kind that no snapshot has:
// Load then returns the latest snapshot of another kind.
func all(ctx context.Context, store snapshot.Store, stream eventstore.StreamID) (found []snapshot.Snapshot, err error) {
	for to := latest; ; {
		seen, ok, err := store.Load(ctx, stream, nobodys, to)
		if err != nil || !ok {
			return found, err
		}
		if len(seen.Data) > 0 || seen.Version > to {
			return nil, fmt.Errorf("load of another kind to %d: version %d with %d bytes of data", int64(to), int64(seen.Version), len(seen.Data))
		}
		whole, ok, err := store.Load(ctx, stream, seen.Kind, seen.Version)
		if err != nil || !ok {
			return nil, fmt.Errorf("load of version %d again: %v, %w", int64(seen.Version), ok, err)
		}
		if whole.EventID == uuid.Nil || whole.EventID != seen.EventID || !whole.RecordedAt.Equal(seen.RecordedAt) || whole.Kind != seen.Kind {
			return nil, fmt.Errorf("with its data it is %+v, without %+v", whole, seen)
		}
		found = append([]snapshot.Snapshot{whole}, found...)
		to = seen.Version - 1
	}
}
