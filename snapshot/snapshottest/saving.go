package snapshottest

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// testBatch: snapshots of several streams are saved together, each by the rules of its own stream.
func testBatch(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	mustSave(t, store) // saving nothing is no error
	mustSave(t, store, made("c", 10, kind), made("a", 10, kind), made("b", 10, older), made("B", 10, another))
	mustSave(t, store, made("a", 9, kind), made("b", 10, kind), made("c", 11, kind), made("d", 1, newer))
	check(t, store, "a", made("a", 10, kind))
	check(t, store, "b", made("b", 10, kind))
	check(t, store, "B", made("B", 10, another))
	check(t, store, "c", made("c", 11, kind))
	check(t, store, "d", made("d", 1, newer))
}

func testLargeBatch(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	const n = 1000
	for version := range eventstore.Version(2) {
		var batch []snapshot.Snapshot
		for i := range n {
			batch = append(batch, made(fmt.Sprintf("s%d", (i*7+3)%n), version+1, kind))
		}
		mustSave(t, store, batch...)
	}
	for i := 0; i < n; i += 37 {
		key := fmt.Sprintf("s%d", i)
		check(t, store, key, made(key, 2, kind))
	}
}

// testInvalid: if one snapshot of a batch cannot be stored, none is.
func testInvalid(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	kept := made("kept", 1, older)
	mustSave(t, store, kept)
	for name, spoil := range map[string]func(*snapshot.Snapshot){
		"no category":       func(s *snapshot.Snapshot) { s.Stream.Category = "" },
		"no key":            func(s *snapshot.Snapshot) { s.Stream.Key = "" },
		"dash":              func(s *snapshot.Snapshot) { s.Stream.Category = "a-b" },
		"long stream":       func(s *snapshot.Snapshot) { s.Stream.Key = strings.Repeat("x", 300) },
		"NUL in stream":     func(s *snapshot.Snapshot) { s.Stream.Key = "x\x00y" },
		"version 0":         func(s *snapshot.Snapshot) { s.Version = 0 },
		"version -1":        func(s *snapshot.Snapshot) { s.Version = -1 },
		"no event":          func(s *snapshot.Snapshot) { s.EventID = uuid.Nil },
		"no time":           func(s *snapshot.Snapshot) { s.RecordedAt = time.Time{} },
		"no type":           func(s *snapshot.Snapshot) { s.Kind.Type = "" },
		"type not UTF-8":    func(s *snapshot.Snapshot) { s.Kind.Type = "a\xffb" },
		"NUL in type":       func(s *snapshot.Snapshot) { s.Kind.Type = "a\x00b" },
		"schema 0":          func(s *snapshot.Snapshot) { s.Kind.Schema = 0 },
		"schema -1":         func(s *snapshot.Snapshot) { s.Kind.Schema = -1 },
		"schema over int32": func(s *snapshot.Snapshot) { s.Kind.Schema = math.MaxInt32 + 1 },
		"too much data":     func(s *snapshot.Snapshot) { s.Data = make([]byte, snapshot.MaxBytes+1) },
		"twice the stream":  func(s *snapshot.Snapshot) { s.Stream, s.Version = stream("first"), 2 },
	} {
		bad := made("bad", 1, kind)
		spoil(&bad)
		for order, batch := range map[string][]snapshot.Snapshot{
			"first": {bad, made("first", 1, kind), made("kept", 2, kind)},
			"last":  {made("first", 1, kind), made("kept", 2, kind), bad},
		} {
			if err := store.Save(t.Context(), batch...); !errors.Is(err, snapshot.ErrInvalid) {
				t.Errorf("%s, %s: %v, want ErrInvalid", name, order, err)
			}
		}
		check(t, store, "first")
		check(t, store, "bad")
		check(t, store, "kept", kept)
	}
	for name, outdated := range map[string]func() (int, error){
		"no category": func() (int, error) { return store.DeleteOutdated(t.Context(), "", kind, 1) },
		"dash":        func() (int, error) { return store.DeleteOutdated(t.Context(), "thing-kept", kind, 1) },
		"limit 0":     func() (int, error) { return store.DeleteOutdated(t.Context(), "thing", kind, 0) },
		"limit -1":    func() (int, error) { return store.DeleteOutdated(t.Context(), "thing", kind, -1) },
	} {
		if n, err := outdated(); n != 0 || !errors.Is(err, snapshot.ErrInvalid) {
			t.Errorf("delete outdated, %s: %d, %v, want ErrInvalid", name, n, err)
		}
	}
	check(t, store, "kept", kept)
}

// testDeleteOutdated: snapshots of another kind are deleted, except those of a newer schema.
func testDeleteOutdated(t *testing.T, newStore NewStore) {
	store := newStore(t, keepMany)
	mustSave(t, store, made("another", 1, another), made("older", 1, older), made("kind", 1, kind), made("newer", 1, newer), made("shape", 1, reshaped))
	mustSave(t, store, made("another", 2, another), made("older", 2, older), made("newer", 2, newer))
	mustSave(t, store, made("mixed", 9, newer))
	mustSave(t, store, made("mixed", 8, kind))
	mustSave(t, store, made("mixed", 7, older))
	if _, err := store.DeleteOutdated(t.Context(), "thing", snapshot.Kind{}, 100); !errors.Is(err, snapshot.ErrInvalid) {
		t.Errorf("no kind: %v, want ErrInvalid", err)
	}
	for _, want := range []int{6, 0} {
		if n, err := store.DeleteOutdated(t.Context(), "thing", kind, 100); n != want || err != nil {
			t.Errorf("deleted %d, %v; want %d", n, err, want)
		}
		check(t, store, "another")
		check(t, store, "older")
		check(t, store, "shape")
		check(t, store, "kind", made("kind", 1, kind))
		check(t, store, "newer", made("newer", 1, newer), made("newer", 2, newer))
		check(t, store, "mixed", made("mixed", 8, kind), made("mixed", 9, newer))
	}
}

// testDeleteOutdatedCategory: only streams of the category are affected. Categories that begin with the same letters
// are not.
func testDeleteOutdatedCategory(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{})
	in := func(category, key string) snapshot.Snapshot {
		s := made(key, 1, older)
		s.Stream.Category = category
		return s
	}
	inside := []snapshot.Snapshot{in("account", "1"), in("account", "-"), in("account", "."), in("account", "~"), in("account", "ě"), in("account", "x-y"), in("account", " ")}
	outside := []snapshot.Snapshot{
		in("account.x", "1"), in("accounts", "1"), in("accoun", "t-1"), in("Account", "1"), in("account,", "1"), in("account ", "1"),
		in("x", "account-1"), in("accounu", "1"), in("account%", "1"), in("account_", "1"), in("accountě", "1"),
	}
	mustSave(t, store, append(inside, outside...)...)
	if n, err := store.DeleteOutdated(t.Context(), "account", kind, 1000); n != len(inside) || err != nil {
		t.Errorf("deleted %d, %v; want %d", n, err, len(inside))
	}
	for _, s := range inside {
		if rest, err := all(t.Context(), store, s.Stream); len(rest) != 0 || err != nil {
			t.Errorf("%s was not deleted: %v", s.Stream, err)
		}
	}
	for _, s := range outside {
		if rest, err := all(t.Context(), store, s.Stream); len(rest) != 1 || err != nil {
			t.Errorf("%s was deleted: %v", s.Stream, err)
		}
	}
}

func testDeleteOutdatedLimit(t *testing.T, newStore NewStore) {
	store := newStore(t, keepMany)
	left := func() (n int) {
		for _, key := range []string{"a", "b", "c"} {
			rest, err := all(t.Context(), store, stream(key))
			if err != nil {
				t.Fatal(err)
			}
			n += len(rest)
		}
		return n
	}
	for version := range eventstore.Version(4) {
		mustSave(t, store, made("a", version+1, older), made("b", version+1, older), made("c", version+1, kind))
	}
	total := 12
	for _, want := range []int{1, 3, 3, 1, 0} {
		n, err := store.DeleteOutdated(t.Context(), "thing", kind, min(3, max(want, 1)))
		if n != want || err != nil {
			t.Errorf("deleted %d, %v; want %d", n, err, want)
		}
		if total -= want; left() != total {
			t.Errorf("%d are left, want %d", left(), total)
		}
	}
}
