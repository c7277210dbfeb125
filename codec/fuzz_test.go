package codec_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

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

// FuzzCodec: no payload makes Decode panic, every payload means what it means to encoding/json, and what decodes survives
// a round trip.
func FuzzCodec(f *testing.F) {
	c := codec.New(
		codec.Of("fuzz", func(e fuzzEvent) fuzzEvent { return e }).WithSchema(2),
		codec.Of("fuzz", func(text string) fuzzEvent { return fuzzEvent{Text: text} }),
	)
	for _, seed := range []string{
		`{}`, `null`, `[]`, `1`, ``, `{`, `"text"`, `"\ud800"`, `"\udd1e\ud834"`, `"\ud834\u0041"`, `"\\ud800"`, "\"\xff\"", `{"text":"a","TEXT":"b"}`,
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
		first, err := c.Decode(raw)
		if name == "fuzz" && schema == 2 {
			var want fuzzEvent
			wantErr := json.Unmarshal(data, &want)
			if (err == nil) != (wantErr == nil) || err == nil && !cmp.Equal(want, first[0].Data) {
				t.Fatalf("decoded: %+v, %v; by encoding/json: %+v, %v", first, err, want, wantErr)
			}
		}
		if err != nil {
			if !errors.Is(err, codec.ErrDecode) && !errors.Is(err, codec.ErrUnknownType) {
				t.Fatalf("%v, want ErrDecode or ErrUnknownType", err)
			}
			return
		}
		// An event that was decoded from any bytes encodes to a normal form. Another round trip does not change that
		// form.
		draft, err := c.Encode(first[0].Data)
		if err != nil {
			t.Fatalf("decoded but does not encode: %v", err)
		}
		if draft.Type != "fuzz" || draft.Schema != 2 {
			t.Fatalf("encoded as %q at schema %d", draft.Type, draft.Schema)
		}
		second, err := c.Decode(stored(draft))
		if err != nil {
			t.Fatalf("encoded but does not decode: %v", err)
		}
		if diff := cmp.Diff(normal(t, first[0].Data), normal(t, second[0].Data)); diff != "" {
			t.Errorf("round trip (-first +second):\n%s", diff)
		}
	})
}

// normal removes the spacing and escaping of a nested raw message, because encoding/json changes them.
func normal(t *testing.T, event fuzzEvent) fuzzEvent {
	t.Helper()
	text, err := json.Marshal(event.Raw)
	if err != nil {
		t.Fatal(err)
	}
	event.Raw = text
	return event
}
