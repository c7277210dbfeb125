package snapshottest

import (
	"bytes"
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

func testRoundTrip(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	east := time.FixedZone("east", 5*60*60+30*60)
	for key, test := range map[string]snapshot.Snapshot{
		"binary":    {Version: 1, RecordedAt: noon, Kind: kind, Data: binary},
		"large":     {Version: 1, RecordedAt: noon, Kind: kind, Data: bytes.Repeat(binary, 1<<12)},
		"quotes":    {Version: 1, RecordedAt: noon, Kind: snapshot.Kind{Type: `it's "{a,b}" \ $1 ě`, Shape: `\',"}`, Schema: 1}, Data: []byte(`'";\{}NULL`)},
		"empty":     {Version: 1, RecordedAt: noon, Kind: kind, Data: []byte{}},
		"nil":       {Version: 1, RecordedAt: noon, Kind: kind},
		"last":      {Version: math.MaxInt64, RecordedAt: noon, Kind: snapshot.Kind{Type: "x", Schema: math.MaxInt32}},
		"zone":      {Version: 1, RecordedAt: noon.In(east), Kind: kind},
		"micro":     {Version: 1, RecordedAt: noon.Add(time.Microsecond), Kind: kind},
		"nano":      {Version: 1, RecordedAt: noon.Add(1999 * time.Nanosecond), Kind: kind},
		"1969":      {Version: 1, RecordedAt: time.Unix(-1, 1999), Kind: kind},
		"now":       {Version: 1, RecordedAt: time.Now(), Kind: kind},
		`'"\,{}-ě `: {Version: 1, RecordedAt: noon, Kind: kind, Data: []byte("x")},
	} {
		test.Stream = stream(key)
		test.EventID = uuid.New()
		mustSave(t, store, test)
		got, ok, err := store.Load(t.Context(), test.Stream, test.Kind, test.Version)
		if err != nil || !ok {
			t.Errorf("%s: %v, %v", key, ok, err)
			continue
		}
		if got.RecordedAt.Location() != time.UTC {
			t.Errorf("%s: the time is in %s, want UTC", key, got.RecordedAt.Location())
		}
		want := test
		want.RecordedAt = time.UnixMicro(test.RecordedAt.UnixMicro())
		if diff := compare(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
}

// testDataIsCopied: a store shares no memory with the callers of Save and Load.
func testDataIsCopied(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	want := made("a", 1, kind)
	saved := want
	saved.Data = bytes.Clone(want.Data)
	mustSave(t, store, saved)
	saved.Data[0] = '!'
	loaded, _, err := store.Load(t.Context(), stream("a"), kind, latest)
	if err != nil || len(loaded.Data) == 0 {
		t.Fatalf("%+v, %v", loaded, err)
	}
	loaded.Data[1] = '!'
	checkLoad(t, store, "a", kind, latest, want, true)
}

func testLoadLatest(t *testing.T, newStore NewStore) {
	store := newStore(t, keepMany)
	mustSave(t, store, made("a", 10, kind), made("b", 12, kind), made("a2", 13, kind))
	mustSave(t, store, made("a", 20, kind))
	mustSave(t, store, made("a", 30, kind))
	for to, want := range map[eventstore.Version]eventstore.Version{
		-1: 0, 0: 0, 1: 0, 9: 0, 10: 10, 11: 10, 19: 10, 20: 20, 29: 20, 30: 30, 31: 30, latest: 30,
	} {
		if want == 0 {
			checkLoad(t, store, "a", kind, to, snapshot.Snapshot{}, false)
		} else {
			checkLoad(t, store, "a", kind, to, made("a", want, kind), true)
		}
	}
	for _, key := range []string{"", "c", "A", "a ", "aa"} {
		checkLoad(t, store, key, kind, latest, snapshot.Snapshot{}, false)
	}
}

// testLoadOtherKind: a snapshot of another kind is returned only if there is none of the kind, and without its data.
func testLoadOtherKind(t *testing.T, newStore NewStore) {
	store := newStore(t, keepMany)
	mustSave(t, store, made("a", 30, another), made("b", 30, older), made("d", 30, reshaped))
	checkOther := func(key string, to eventstore.Version, of snapshot.Snapshot) {
		t.Helper()
		of.Data = nil
		checkLoad(t, store, key, kind, to, of, true)
	}
	checkOther("a", latest, made("a", 30, another))
	checkOther("b", 30, made("b", 30, older))
	checkOther("d", 31, made("d", 30, reshaped))
	checkLoad(t, store, "a", kind, 29, snapshot.Snapshot{}, false)

	for version := eventstore.Version(10); version <= 30; version += 10 {
		mustSave(t, store, made("c", version, newer))
	}
	checkOther("c", latest, made("c", 30, newer))
	checkOther("c", 29, made("c", 20, newer))
	mustSave(t, store, made("c", 5, kind)) // the newer ones stay
	checkLoad(t, store, "c", kind, latest, made("c", 5, kind), true)
	checkLoad(t, store, "c", kind, 4, snapshot.Snapshot{}, false)
}

func testOnlyNewer(t *testing.T, newStore NewStore) {
	store := newStore(t, keepMany)
	first := made("a", 20, kind)
	mustSave(t, store, first)

	again := first
	again.Data, again.EventID, again.RecordedAt = []byte("other"), uuid.New(), noon
	mustSave(t, store, again)
	check(t, store, "a", first)

	mustSave(t, store, made("a", 19, kind))
	mustSave(t, store, made("a", 1, kind))
	check(t, store, "a", first)

	mustSave(t, store, made("a", 21, kind))
	mustSave(t, store, made("a", 20, kind))
	check(t, store, "a", first, made("a", 21, kind))
}

// testSameVersion: there is at most one snapshot at a version. A new one replaces one of another kind.
func testSameVersion(t *testing.T, newStore NewStore) {
	store := newStore(t, keepMany)
	for key, before := range map[string]snapshot.Kind{"type": another, "older": older, "newer": newer, "shape": reshaped} {
		mustSave(t, store, made(key, 10, before))
		mustSave(t, store, made(key, 10, kind))
		check(t, store, key, made(key, 10, kind))
	}
}

func testDelete(t *testing.T, newStore NewStore) {
	store := newStore(t, keepMany)
	mustSave(t, store, made("a", 10, kind), made("b", 20, kind))
	mustSave(t, store, made("a", 20, kind))
	for _, missing := range []struct {
		key     string
		version eventstore.Version
	}{{"a", 11}, {"a", 0}, {"a", latest}, {"c", 10}, {"b", 10}} {
		if err := store.Delete(t.Context(), stream(missing.key), missing.version); err != nil {
			t.Errorf("delete %v, which is not there: %v", missing, err)
		}
	}
	check(t, store, "a", made("a", 10, kind), made("a", 20, kind))
	for range 2 { // the second time there is none
		if err := store.Delete(t.Context(), stream("a"), 20); err != nil {
			t.Fatal(err)
		}
		check(t, store, "a", made("a", 10, kind))
	}
	check(t, store, "b", made("b", 20, kind))
	mustSave(t, store, made("a", 20, kind)) // a deleted snapshot does not prevent it
	check(t, store, "a", made("a", 10, kind), made("a", 20, kind))
}

// testCancelled: every method ends with the context's error and does nothing.
func testCancelled(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	mustSave(t, store, made("a", 10, older))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, ok, loadErr := store.Load(ctx, stream("a"), kind, latest)
	deleted, outdatedErr := store.DeleteOutdated(ctx, "thing", kind, 10)
	for what, err := range map[string]error{
		"load":     loadErr,
		"save":     store.Save(ctx, made("a", 11, kind)),
		"delete":   store.Delete(ctx, stream("a"), 10),
		"outdated": outdatedErr,
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", what, err)
		}
		if errors.Is(err, snapshot.ErrInvalid) {
			t.Errorf("%s: %v says that an argument is invalid", what, err)
		}
	}
	if ok || deleted != 0 {
		t.Errorf("loaded %v, deleted %d", ok, deleted)
	}
	check(t, store, "a", made("a", 10, older))
}
