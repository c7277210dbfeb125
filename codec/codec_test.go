package codec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

// parcelEvent is a domain of its own, so that nothing here depends on the examples.
type parcelEvent interface{ parcel() }

type (
	parcelSent struct {
		To     string   `json:"to"`
		Grams  int      `json:"grams"`
		Labels []string `json:"labels,omitempty"`
	}
	// parcelSentV1 had kilograms. It is not a parcelEvent, so it cannot be written any more.
	parcelSentV1 struct {
		To        string  `json:"to"`
		Kilograms float64 `json:"kg"`
	}
	parcelLost  struct{}
	parcelOther struct{ N int } // not in the codec
	parcelBad   struct{ F func() }
)

func (parcelSent) parcel()  {}
func (*parcelLost) parcel() {}
func (parcelOther) parcel() {}
func (parcelBad) parcel()   {}

func same[T parcelEvent](e T) parcelEvent { return e }

func upcastSent(old parcelSentV1) parcelEvent {
	return parcelSent{To: old.To, Grams: int(old.Kilograms * 1000)}
}

func newParcelCodec() *codec.Codec[parcelEvent] {
	return codec.New(
		codec.Of("parcel.sent", same[parcelSent]).WithSchema(2),
		codec.Of("parcel.sent", upcastSent),
		codec.Of("parcel.lost", same[*parcelLost]),
		codec.Of("parcel.bad", same[parcelBad]),
	)
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	c := newParcelCodec()
	for _, test := range []struct {
		event  parcelEvent
		name   string
		schema int
		data   string
	}{
		{parcelSent{To: "Brno", Grams: 300, Labels: []string{"a"}}, "parcel.sent", 2, `{"to":"Brno","grams":300,"labels":["a"]}`},
		{parcelSent{}, "parcel.sent", 2, `{"to":"","grams":0}`},
		{&parcelLost{}, "parcel.lost", 1, `{}`},
	} {
		draft, err := c.Encode(test.event)
		if err != nil {
			t.Fatal(err)
		}
		want := eventstore.Draft{Type: test.name, Schema: test.schema, Data: json.RawMessage(test.data)}
		if diff := cmp.Diff(want, draft); diff != "" {
			t.Errorf("draft of %+v (-want +got):\n%s", test.event, diff)
		}
		raw := stored(draft)
		event, err := c.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decoded(raw, test.event), event); diff != "" {
			t.Errorf("decoded (-want +got):\n%s", diff)
		}
	}
}

// stored returns the draft as a store would give it back.
func stored(draft eventstore.Draft) eventstore.Raw {
	return eventstore.Raw{
		ID:         uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057"),
		Type:       draft.Type,
		Schema:     draft.Schema,
		Stream:     eventstore.StreamID{Category: "parcel", Key: "7"},
		Version:    3,
		Position:   42,
		RecordedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Metadata:   eventstore.Metadata{Actor: "me", Headers: map[string]string{"a": "b"}},
		Data:       draft.Data,
	}
}

// decoded returns the events that raw decodes into, with these payloads.
func decoded(raw eventstore.Raw, payloads ...parcelEvent) (events []eventstore.Event[parcelEvent]) {
	for _, data := range payloads {
		events = append(events, eventstore.Event[parcelEvent]{
			ID: raw.ID, Type: raw.Type, Schema: raw.Schema,
			Stream: raw.Stream, Version: raw.Version, Position: raw.Position,
			RecordedAt: raw.RecordedAt, Metadata: raw.Metadata, Data: data,
		})
	}
	return events
}

// TestUpcasts: an event of an old shape is decoded into the new shape, but keeps its stored type and schema.
func TestUpcasts(t *testing.T) {
	t.Parallel()
	raw := stored(eventstore.Draft{Type: "parcel.sent", Schema: 1, Data: json.RawMessage(`{"to":"Brno","kg":0.5}`)})
	got, err := newParcelCodec().Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := decoded(raw, parcelSent{To: "Brno", Grams: 500})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEncodesHighestSchema: if one Go type is stored in several schemas, new events get the highest, whatever the order
// of the types.
func TestEncodesHighestSchema(t *testing.T) {
	t.Parallel()
	first := codec.Of("parcel.sent", same[parcelSent])
	for _, order := range [][]int{{1, 2, 7}, {7, 2, 1}, {2, 7, 1}} {
		var types []codec.Type[parcelEvent]
		for _, schema := range order {
			types = append(types, first.WithSchema(schema))
		}
		c := codec.New(types...)
		draft, err := c.Encode(parcelSent{})
		if err != nil || draft.Schema != 7 {
			t.Errorf("given %v: schema %d, %v, want 7", order, draft.Schema, err)
		}
		for _, schema := range order {
			draft.Schema = schema
			if _, err := c.Decode(stored(draft)); err != nil {
				t.Errorf("given %v: schema %d: %v", order, schema, err)
			}
		}
	}
}

func TestUnknownType(t *testing.T) {
	t.Parallel()
	for _, draft := range []eventstore.Draft{
		{Type: "parcel.opened", Schema: 1, Data: json.RawMessage(`{}`)},
		{Type: "parcel.sent", Schema: 3, Data: json.RawMessage(`{}`)},
		{Type: "parcel.sent", Schema: 0, Data: json.RawMessage(`{}`)},
		{},
	} {
		raw := stored(draft)
		events, err := newParcelCodec().Decode(raw)
		want := &codec.UnknownTypeError{Type: draft.Type, Schema: draft.Schema, Stream: raw.Stream, Position: raw.Position}
		var got *codec.UnknownTypeError
		if !errors.As(err, &got) || !errors.Is(err, codec.ErrUnknownType) {
			t.Errorf("%q at schema %d: %v, want an UnknownTypeError", draft.Type, draft.Schema, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if len(events) > 0 {
			t.Errorf("events came with the error: %+v", events)
		}
		checkText(t, err, "position 42", "parcel-7", fmt.Sprintf("%q", draft.Type))
	}
}

func TestDecodeError(t *testing.T) {
	t.Parallel()
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	for data, cause := range map[string]any{
		`{"grams":"heavy"}`: &wrongType,
		`[]`:                &wrongType,
		`{`:                 &syntax,
		``:                  &syntax,
	} {
		raw := stored(eventstore.Draft{Type: "parcel.sent", Schema: 2, Data: json.RawMessage(data)})
		_, err := newParcelCodec().Decode(raw)
		var got *codec.DecodeError
		if !errors.As(err, &got) || !errors.Is(err, codec.ErrDecode) || !errors.As(err, cause) {
			t.Errorf("payload %q: %v, want a DecodeError with json's own in it", data, err)
			continue
		}
		want := codec.DecodeError{Type: "parcel.sent", Schema: 2, Stream: raw.Stream, Position: 42, Err: got.Err}
		if diff := cmp.Diff(want.Error(), got.Error()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		checkText(t, err, "position 42", "parcel-7", `"parcel.sent"`, "schema 2")
	}
}

func checkText(t *testing.T, err error, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	c := newParcelCodec()
	for what, event := range map[string]parcelEvent{
		"not registered":            parcelOther{},
		"a pointer to a registered": &parcelSent{},
		"nil":                       nil,
	} {
		if _, err := c.Encode(event); !errors.Is(err, codec.ErrUnknownType) {
			t.Errorf("%s: %v, want ErrUnknownType", what, err)
		}
	}
	var unsupported *json.UnsupportedTypeError
	if _, err := c.Encode(parcelBad{}); !errors.As(err, &unsupported) {
		t.Errorf("not JSON: %v, want json's own error", err)
	}
}

// TestNewPanics: each mistake that the documentation names is found at once.
func TestNewPanics(t *testing.T) {
	t.Parallel()
	sent := codec.Of("parcel.sent", same[parcelSent])
	type types = []codec.Type[parcelEvent]
	for want, types := range map[string]types{
		`"parcel.sent" at schema 1 is registered twice`:      {sent, sent},
		`"parcel.sent" at schema 2 is registered twice`:      {sent.WithSchema(2), codec.Of("parcel.sent", upcastSent).WithSchema(2)},
		`is registered as "parcel.sent" and as "parcel.new"`: {sent, codec.Of("parcel.new", same[parcelSent])},
		`event type is empty`:                                {codec.Of("", same[parcelSent])},
		`has 251 bytes`:                                      {codec.Of(strings.Repeat("x", 251), same[parcelSent])},
		`is not UTF-8`:                                       {codec.Of("\xff", same[parcelSent])},
		`contains a control character`:                       {codec.Of("a\nb", same[parcelSent])},
		`schema 0 is not between 1 and 32767`:                {sent.WithSchema(0)},
		`schema -1 is not between 1 and 32767`:               {sent.WithSchema(-1)},
		`schema 32768 is not between 1 and 32767`:            {sent.WithSchema(32768)},
		`schema 1 leads to schema 2, which is not`:           {codec.Upcast[parcelEvent]("parcel.sent", 1, kilograms)},
		`schema 2 leads to schema 3, which is not`:           {codec.UpcastJSON[parcelEvent]("parcel.sent", 2, rename), sent},
		`makes a codec_test.parcelSent, but schema 2 is`: {codec.Upcast[parcelEvent]("parcel.sent", 1, kilograms),
			codec.Of("parcel.sent", func(parcelOther) parcelEvent { return nil }).WithSchema(2)},
		`"old" is renamed to "new", which is not registered`: {codec.Renamed[parcelEvent]("old", "new")},
		`"old" is renamed twice`:                             {sent, codec.Renamed[parcelEvent]("old", "parcel.sent"), codec.Renamed[parcelEvent]("old", "parcel.sent")},
		`"parcel.sent" is renamed and registered`:            {sent, codec.Renamed[parcelEvent]("parcel.sent", "parcel.sent")},
		`"parcel.sent" is retired and registered`:            {sent, codec.Retired[parcelEvent]("parcel.sent")},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "codec: ") || !strings.Contains(got, want) {
					t.Errorf("panic %q, want one that says %q", got, want)
				}
			}()
			codec.New(types...)
		}()
	}
	for want, define := range map[string]func(){
		`New: the codec of codec_test.parcelEvent has no event type`: func() { codec.New[parcelEvent]() },
		`New: event type is empty`:                                   func() { codec.New(codec.Type[parcelEvent]{}) },
		`Of: event type "x": into is nil`:                            func() { codec.Of[parcelSent, parcelEvent]("x", nil) },
		`Split: event type "x": into is nil`:                         func() { codec.Split[parcelSent, parcelEvent]("x", nil) },
		`Upcast: event type "x": up is nil`:                          func() { codec.Upcast[parcelEvent, parcelSentV1, parcelSent]("x", 1, nil) },
		`UpcastJSON: event type "x": up is nil`:                      func() { codec.UpcastJSON[parcelEvent]("x", 1, nil) },
		`codec_test.parcelEvent is an interface`: func() {
			codec.Of("x", func(e parcelEvent) parcelEvent { return e })
		},
		`event type "x" is retired twice`: func() {
			codec.New(codec.Retired[parcelEvent]("x"), codec.Retired[parcelEvent]("x"))
		},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "codec: ") || !strings.Contains(got, want) {
					t.Errorf("panic %q, want one that says %q", got, want)
				}
			}()
			define()
		}()
	}
	// These are close to a mistake, but correct.
	codec.New(codec.Of(strings.Repeat("x", 250), same[parcelSent]).WithSchema(32767))
	codec.New(sent, codec.Of("parcel.sold", func(parcelSentV1) parcelEvent { return &parcelLost{} }),
		codec.Of("parcel.sent", upcastSent).WithSchema(3))
}

func TestTypes(t *testing.T) {
	t.Parallel()
	want := []string{"parcel.bad", "parcel.lost", "parcel.sent"}
	if diff := cmp.Diff(want, newParcelCodec().Types()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestConcurrently is for the race detector.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	c := newParcelCodec()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 100 {
				want := parcelSent{To: fmt.Sprint(i), Grams: n}
				draft, err := c.Encode(want)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := c.Decode(stored(draft))
				if diff := cmp.Diff(decoded(stored(draft), want), got); diff != "" || err != nil {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				c.Types()
			}
		})
	}
	wg.Wait()
}
