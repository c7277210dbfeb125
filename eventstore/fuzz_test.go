package eventstore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// FuzzParseStreamID: a text that parses is a valid id, and prints as the same text. The text of a valid id parses to
// the same id.
func FuzzParseStreamID(f *testing.F) {
	for _, seed := range [][2]string{
		{"account", "42"}, {"a", "-"}, {"a", "b-c"}, {"", "b"}, {"a", ""}, {"a-b", "c"}, {"", ""},
		{"ä", "ß"}, {"a", "\x00"}, {"a", "\u0085"}, {"a", "\xff"}, {"\xc3", "\xa4"}, {"a", " "},
		{"a", strings.Repeat("x", 248)}, {"a", strings.Repeat("x", 249)}, {"日本", "🌊"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, category, key string) {
		for _, text := range []string{category, key, category + "-" + key} {
			id, err := eventstore.ParseStreamID(text)
			if err != nil {
				if !errors.Is(err, eventstore.ErrInvalid) || id != (eventstore.StreamID{}) {
					t.Errorf("%q: %+v, %v, want nothing and ErrInvalid", text, id, err)
				}
				continue
			}
			if id.String() != text {
				t.Errorf("%q prints as %q", text, id)
			}
			if err := id.Validate(); err != nil {
				t.Errorf("%q parses but is not valid: %v", text, err)
			}
		}
		id := eventstore.StreamID{Category: category, Key: key}
		got, err := eventstore.ParseStreamID(id.String())
		if valid := id.Validate() == nil; valid != (err == nil && got == id) {
			t.Errorf("%+v: valid is %v, but its text parses to %+v, %v", id, valid, got, err)
		}
	})
}

// FuzzPayload: a payload is accepted if, and only if, it is JSON in UTF-8 whose strings are text
// without U+0000.
func FuzzPayload(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `1`, ` {"a" : 1} `, `{"a":1,"a":2}`, `{`, `{}{}`, "\xff", "\"\xff\"", "\"\x00\"", "\x00",
		`"\u0000"`, `"\\u0000"`, `"\\\u0000"`, `"\\\\u0000"`, `{"\u0000":1}`, `{"\\u0000":1}`, `["a",{"b":"\u0000"}]`,
		`"\u00000"`, `"\u0001"`, `"\U0000"`, `"\ud834\udd1e"`, `"\ud800"`, `"\udd1e\ud834"`, `"\ud834\u0041"`, `"\\ud800"`, `"\n\t\"\/"`, `"\\`, `"\`, `1e999999`, "\ufeff{}",
		strings.Repeat("[", 2000) + strings.Repeat("]", 2000),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if replacement.Match(data) {
			t.Skip("the oracle cannot tell")
		}
		id := eventstore.StreamID{Category: "fuzz", Key: "1"}
		change := eventstore.Change{Stream: id, Events: []eventstore.Draft{{Type: "fuzz", Data: data}}}
		prepared, err := eventstore.Prepare(t.Context(), []eventstore.Change{change}, eventstore.DefaultMaxEventBytes)
		if err != nil && !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", data, err)
		}
		if accepted, want := err == nil, acceptable(data); accepted != want {
			t.Fatalf("%q: accepted is %v (%v), want %v", data, accepted, err, want)
		}
		if err == nil && !bytes.Equal(prepared[0].Events[0].Data, data) {
			t.Errorf("%q was changed to %q", data, prepared[0].Events[0].Data)
		}
		checkMemory(t, change, err)
	})
}

// acceptable says by plain rules whether a payload can be stored.
func acceptable(data []byte) bool {
	return len(data) <= eventstore.DefaultMaxEventBytes && utf8.Valid(data) && json.Valid(data) && !hasBadText(data)
}

// replacement finds U+FFFD, as a character or escaped. Decoding also replaces half a surrogate pair by U+FFFD, so
// hasBadText cannot tell the two apart.
var replacement = regexp.MustCompile(`(?i)\x{fffd}|\\ufffd`)

// hasBadText decodes every string of valid JSON and looks for text that Postgres cannot store. It reads tokens, because
// Unmarshal keeps only the last of several equal keys.
func hasBadText(data []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return false
		}
		if text, ok := token.(string); ok && strings.ContainsAny(text, "\x00\ufffd") {
			return true
		}
	}
}

// checkMemory appends the change to a store in memory. It must succeed if, and only if, Prepare did.
func checkMemory(t *testing.T, change eventstore.Change, prepared error) {
	t.Helper()
	store := eventstoretest.NewMemory()
	_, err := store.Commit(t.Context(), change)
	if (err == nil) != (prepared == nil) {
		t.Fatalf("Memory says %v, Prepare %v", err, prepared)
	}
	for event, err := range store.Read(t.Context(), change.Stream, eventstore.ReadOptions{}) {
		if err != nil || !bytes.Equal(event.Data, change.Events[0].Data) {
			t.Errorf("%q came back as %q, %v", change.Events[0].Data, event.Data, err)
		}
	}
}

// TestMemoryAgreesOnMetadata: both stores accept the same metadata, and return the same metadata for it.
func TestMemoryAgreesOnMetadata(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	for i, actor := range []string{"a", "\u2028<&>", "a\xff", "\x00"} {
		draft := eventstore.Draft{Type: "x", Data: json.RawMessage(`1`), Metadata: eventstore.Metadata{Actor: actor}}
		var results []string
		for _, s := range []eventstoretest.Store{store, eventstoretest.NewMemory()} {
			id := stream(fmt.Sprint(i))
			if _, err := s.Append(t.Context(), id, eventstore.Any, draft); err != nil {
				if !errors.Is(err, eventstore.ErrInvalid) {
					t.Errorf("%q: %v, want ErrInvalid", actor, err)
				}
				results = append(results, "refused")
				continue
			}
			for event, err := range s.Read(t.Context(), id, eventstore.ReadOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				results = append(results, event.Metadata.Actor)
			}
		}
		if diff := cmp.Diff(results[0], results[1]); diff != "" {
			t.Errorf("actor %q (-Postgres +Memory):\n%s", actor, diff)
		}
	}
}

// TestMemoryKeepsWhatItWasGiven: a stored event does not change when the caller changes its draft, or a reader changes
// the event that it got.
func TestMemoryKeepsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	store, id := eventstoretest.NewMemory(), stream("a")
	draft := eventstore.Draft{Type: "x", Data: json.RawMessage(`1`), Metadata: eventstore.Metadata{Headers: map[string]string{"k": "v"}}}
	if _, err := store.Append(t.Context(), id, eventstore.NoStream, draft); err != nil {
		t.Fatal(err)
	}
	draft.Data[0], draft.Metadata.Headers["k"] = '2', "caller"
	for _, who := range []string{"caller", "reader"} {
		for event, err := range store.Read(t.Context(), id, eventstore.ReadOptions{}) {
			if err != nil || string(event.Data) != "1" || event.Metadata.Headers["k"] != "v" {
				t.Errorf("after the %s: %s, %v, %v", who, event.Data, event.Metadata.Headers, err)
			}
			event.Data[0], event.Metadata.Headers["k"] = '3', "reader"
		}
	}
}
