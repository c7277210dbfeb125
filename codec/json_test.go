package codec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

var errOwn = errors.New("our own error")

// ownJSON is a JSON library of an application. It writes each payload into an array with one element.
var ownJSON = codec.JSON{
	Marshal: func(value any) ([]byte, error) {
		data, err := json.Marshal(value)
		return fmt.Appendf(nil, "[%s]", data), err
	},
	Unmarshal:       func(data []byte, value any) error { return unwrap(data, value, false) },
	UnmarshalStrict: func(data []byte, value any) error { return unwrap(data, value, true) },
}

func unwrap(data []byte, value any, strict bool) error {
	var elements []json.RawMessage
	if err := json.Unmarshal(data, &elements); err != nil || len(elements) != 1 {
		return fmt.Errorf("%w: %w", errOwn, err)
	}
	decoder := json.NewDecoder(bytes.NewReader(elements[0]))
	if strict {
		decoder.DisallowUnknownFields()
	}
	return decoder.Decode(value)
}

// TestWithJSON: all kinds of types are read and written with the functions of the application.
func TestWithJSON(t *testing.T) {
	t.Parallel()
	c := newEvolvedCodec().WithJSON(ownJSON)
	draft, err := c.Encode(parcelSent{To: "Brno", Grams: 2000})
	if err != nil || string(draft.Data) != `[{"to":"Brno","grams":2000}]` {
		t.Fatalf("encoded: %s, %v", draft.Data, err)
	}
	brno := parcelSent{To: "Brno", Grams: 2000}
	for _, test := range []struct {
		name   string
		schema int
		data   string
		want   []parcelEvent
	}{
		{"parcel.sent", 4, `[{"to":"Brno","grams":2000}]`, []parcelEvent{brno}},
		{"parcel.sent", 3, `[{"to":"Brno","kg":2}]`, []parcelEvent{brno}},
		{"parcel.sent", 2, `[{"to":"Brno","kg":2}]`, []parcelEvent{brno}},
		{"parcel.posted", 3, `[{"to":"Brno","grams":2000}]`, []parcelEvent{brno, &parcelLost{}}},
		{"parcel.gone", 1, `[{}]`, []parcelEvent{&parcelLost{}}},
		{"parcel.weighed", 1, `not read`, nil},
	} {
		raw := stored(eventstore.Draft{Type: test.name, Schema: test.schema, Data: json.RawMessage(test.data)})
		for mode, c := range map[string]*codec.Codec[parcelEvent]{"default": c, "strict": c.Strict(), "tolerant": c.Tolerant()} {
			got, err := c.Decode(raw)
			if diff := cmp.Diff(decoded(raw, test.want...), got); diff != "" || err != nil {
				t.Errorf("%s at schema %d, %s: %v (-want +got):\n%s", test.name, test.schema, mode, err, diff)
			}
		}
	}
	raw := stored(eventstore.Draft{Type: "parcel.sent", Schema: 4, Data: json.RawMessage(`[{"color":"red"}]`)})
	if _, err := c.Decode(raw); err != nil {
		t.Errorf("an unknown member: %v", err)
	}
	if _, err := c.Strict().Decode(raw); !errors.Is(err, codec.ErrDecode) {
		t.Errorf("an unknown member, strict: %v, want ErrDecode", err)
	}
	raw.Data = json.RawMessage(`{}`)
	if _, err := c.Decode(raw); !errors.Is(err, codec.ErrDecode) || !errors.Is(err, errOwn) {
		t.Errorf("the error of Unmarshal: %v, want ErrDecode and the error", err)
	}
	if got, err := newEvolvedCodec().Decode(raw); err != nil || len(got) != 1 {
		t.Errorf("the codec that WithJSON was called on has changed: %v", err)
	}
}

// TestWithJSONPartly: a function that is nil keeps its default.
func TestWithJSONPartly(t *testing.T) {
	t.Parallel()
	brno := parcelSent{To: "Brno", Grams: 2000}
	writes := newParcelCodec().WithJSON(codec.JSON{Marshal: func(any) ([]byte, error) { return []byte(`{"to":"Brno","grams":2000}`), nil }})
	draft, err := writes.Strict().Encode(parcelSent{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := writes.Strict().Decode(stored(draft))
	if diff := cmp.Diff(decoded(stored(draft), brno), got); diff != "" || err != nil {
		t.Errorf("only Marshal: %v (-want +got):\n%s", err, diff)
	}
	reads := newParcelCodec().WithJSON(codec.JSON{Unmarshal: ownJSON.Unmarshal})
	if draft, err = reads.Encode(brno); err != nil || string(draft.Data) != `{"to":"Brno","grams":2000}` {
		t.Errorf("only Unmarshal: %s, %v", draft.Data, err)
	}
}

// TestStrictNeedsUnmarshalStrict: a codec that could not refuse unknown members is not made.
func TestStrictNeedsUnmarshalStrict(t *testing.T) {
	t.Parallel()
	reads := codec.JSON{Unmarshal: ownJSON.Unmarshal}
	for name, define := range map[string]func(){
		"Strict":   func() { newParcelCodec().WithJSON(reads).Strict() },
		"WithJSON": func() { newParcelCodec().Strict().WithJSON(reads) },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, "codec: "+name+": ") || !strings.Contains(got, "set UnmarshalStrict") {
					t.Errorf("%s: panic %q, want one that says to set UnmarshalStrict", name, got)
				}
			}()
			define()
		}()
	}
}

// marks counts how often it was decoded.
type marks string

func (m *marks) UnmarshalText(text []byte) error {
	*m += marks(text)
	return nil
}

// TestDefaultIsEncodingJSON: a payload that an application did not write with json.Marshal is decoded, or refused, as
// encoding/json does. FuzzCodec has more.
func TestDefaultIsEncodingJSON(t *testing.T) {
	t.Parallel()
	type event struct {
		Marks marks          `json:"marks"`
		Text  string         `json:"text"`
		Map   map[string]int `json:"map"`
		Int   int8           `json:"int"`
	}
	c := codec.New(codec.Of("event", func(e event) event { return e }))
	for _, data := range []string{
		`{"marks":"a","text":"b","int":1}`, `{"marks":"a","TEXT":"b"}`, `{"marks":"a","text":"b","text":"c"}`, `{"marks":"a","text":"\ud800"}`,
		"{\"marks\":\"a\",\"text\":\"\xff\"}", `{"marks":"a","map":{"x":1},"map":{"y":2}}`, `{"marks":"a","other":1}`, `{"marks":"a","Other":{"x":[]}}`,
		`{"marks":"a","int":128}`, `{"marks":"a","int":1.0}`, `{"marks":"a","text":1}`, `{"marks":"a"} {}`, `{"marks":"a"`, `null`, `[]`, ``,
	} {
		var want event
		wantErr := json.Unmarshal([]byte(data), &want)
		got, err := c.Decode(eventstore.Raw{Type: "event", Schema: 1, Data: json.RawMessage(data)})
		var failed *codec.DecodeError
		switch {
		case wantErr != nil && (!errors.As(err, &failed) || failed.Err.Error() != wantErr.Error()):
			t.Errorf("%s: error %v, want %v", data, err, wantErr)
		case wantErr == nil && (err != nil || !cmp.Equal(want, got[0].Data)):
			t.Errorf("%s: %+v, %v, want %+v", data, got, err, want)
		}
	}
}
