package eventstore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// FuzzParseStreamID: what parses is valid and prints as it was; what is valid parses again.
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

// fuzzEvent has every kind of field that an event is likely to have.
type fuzzEvent struct {
	Text   string            `json:"text"`
	Number int64             `json:"number"`
	Ratio  float64           `json:"ratio"`
	Flag   *bool             `json:"flag"`
	List   []string          `json:"list"`
	Map    map[string]string `json:"map"`
	Raw    json.RawMessage   `json:"raw"`
	Any    any               `json:"any"`
}

// FuzzCodec: no payload makes Decode panic, and what decodes survives a round trip.
func FuzzCodec(f *testing.F) {
	codec := eventstore.NewCodec(
		eventstore.TypeOf("fuzz", func(e fuzzEvent) fuzzEvent { return e }).WithSchema(2),
		eventstore.TypeOf("fuzz", func(text string) fuzzEvent { return fuzzEvent{Text: text} }),
	)
	for _, seed := range []string{
		`{}`, `null`, `[]`, `1`, ``, `{`, `"text"`, `"\ud800"`, "\"\xff\"", `{"text":"a","TEXT":"b"}`,
		`{"number":9223372036854775807,"ratio":1e308,"flag":true,"list":["a",""],"map":{"a":"b"}}`,
		`{"ratio":1e309}`, `{"ratio":-0}`, `{"raw":{"a": [1, 2 ]}}`, `{"raw":null}`, `{"any":{"a":[1e3,"<&>",null]}}`,
		`{"list":null,"map":{}}`, `{"text":"\u0000\u2028"}`, `{"number":1.0}`,
	} {
		f.Add("fuzz", 2, []byte(seed))
		f.Add("fuzz", 1, []byte(seed))
	}
	f.Add("other", 1, []byte(`{}`))
	f.Fuzz(func(t *testing.T, name string, schema int, data []byte) {
		raw := stored(eventstore.Draft{Type: name, Schema: schema, Data: data})
		first, err := codec.Decode(raw)
		if err != nil {
			if !errors.Is(err, eventstore.ErrDecode) && !errors.Is(err, eventstore.ErrUnknownType) {
				t.Fatalf("%v, want ErrDecode or ErrUnknownType", err)
			}
			return
		}
		// What was decoded from any bytes encodes to a normal form, and that never changes again.
		draft, err := codec.Encode(first.Data)
		if err != nil {
			t.Fatalf("decoded but does not encode: %v", err)
		}
		if draft.Type != "fuzz" || draft.Schema != 2 {
			t.Fatalf("encoded as %q at schema %d", draft.Type, draft.Schema)
		}
		second, err := codec.Decode(stored(draft))
		if err != nil {
			t.Fatalf("encoded but does not decode: %v", err)
		}
		if diff := cmp.Diff(normal(t, first.Data), normal(t, second.Data)); diff != "" {
			t.Errorf("round trip (-first +second):\n%s", diff)
		}
	})
}

// normal leaves out how a nested raw message was spaced and escaped, which encoding/json changes.
func normal(t *testing.T, event fuzzEvent) fuzzEvent {
	t.Helper()
	text, err := json.Marshal(event.Raw)
	if err != nil {
		t.Fatal(err)
	}
	event.Raw = text
	return event
}

// FuzzPayload: a payload is accepted if, and only if, it is JSON in UTF-8 from which Postgres
// can make text.
func FuzzPayload(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `1`, ` {"a" : 1} `, `{"a":1,"a":2}`, `{`, `{}{}`, "\xff", "\"\xff\"", "\"\x00\"", "\x00",
		`"\u0000"`, `"\\u0000"`, `"\\\u0000"`, `"\\\\u0000"`, `{"\u0000":1}`, `{"\\u0000":1}`, `["a",{"b":"\u0000"}]`,
		`"\u00000"`, `"\u0001"`, `"\U0000"`, `"\ud834\udd1e"`, `"\ud800"`, `"\n\t\"\/"`, `"\\`, `"\`, `1e999999`, "\ufeff{}",
		strings.Repeat("[", 2000) + strings.Repeat("]", 2000),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
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
	var value any
	return len(data) <= eventstore.DefaultMaxEventBytes &&
		utf8.Valid(data) && json.Valid(data) &&
		// A number too large for a float64 is JSON all the same.
		unmarshal(data, &value) == nil && !hasNUL(value) &&
		// The last of several equal keys hides the others from Unmarshal.
		!tokensHaveNUL(data)
}

func unmarshal(data []byte, value *any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	return decoder.Decode(value)
}

func hasNUL(value any) bool {
	switch value := value.(type) {
	case string:
		return strings.ContainsRune(value, 0)
	case []any:
		for _, element := range value {
			if hasNUL(element) {
				return true
			}
		}
	case map[string]any:
		for key, element := range value {
			if hasNUL(key) || hasNUL(element) {
				return true
			}
		}
	}
	return false
}

func tokensHaveNUL(data []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	for {
		token, err := decoder.Token()
		if err != nil {
			return false
		}
		if hasNUL(token) {
			return true
		}
	}
}

// checkMemory appends the change to a store in memory, which must say the same as Prepare.
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
