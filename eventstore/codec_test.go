package eventstore_test

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
	// parcelSentV1 had kilograms. It is no parcelEvent: nobody can write it any more.
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

func newParcelCodec() *eventstore.Codec[parcelEvent] {
	return eventstore.NewCodec(
		eventstore.TypeOf("parcel.sent", same[parcelSent]).WithSchema(2),
		eventstore.TypeOf("parcel.sent", upcastSent),
		eventstore.TypeOf("parcel.lost", same[*parcelLost]),
		eventstore.TypeOf("parcel.bad", same[parcelBad]),
	)
}

func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	codec := newParcelCodec()
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
		draft, err := codec.Encode(test.event)
		if err != nil {
			t.Fatal(err)
		}
		want := eventstore.Draft{Type: test.name, Schema: test.schema, Data: json.RawMessage(test.data)}
		if diff := cmp.Diff(want, draft); diff != "" {
			t.Errorf("draft of %+v (-want +got):\n%s", test.event, diff)
		}
		raw := stored(draft)
		event, err := codec.Decode(raw)
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

// decoded returns raw with other payloads.
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

// TestCodecUpcasts: an event of an old shape comes back in the new one, but says what it was.
func TestCodecUpcasts(t *testing.T) {
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

// TestCodecEncodesHighestSchema: where one Go type is stored in several schemas, in whatever
// order they are given, new events get the highest.
func TestCodecEncodesHighestSchema(t *testing.T) {
	t.Parallel()
	first := eventstore.TypeOf("parcel.sent", same[parcelSent])
	for _, order := range [][]int{{1, 2, 7}, {7, 2, 1}, {2, 7, 1}} {
		var types []eventstore.Type[parcelEvent]
		for _, schema := range order {
			types = append(types, first.WithSchema(schema))
		}
		codec := eventstore.NewCodec(types...)
		draft, err := codec.Encode(parcelSent{})
		if err != nil || draft.Schema != 7 {
			t.Errorf("given %v: schema %d, %v, want 7", order, draft.Schema, err)
		}
		for _, schema := range order {
			draft.Schema = schema
			if _, err := codec.Decode(stored(draft)); err != nil {
				t.Errorf("given %v: schema %d: %v", order, schema, err)
			}
		}
	}
}

func TestCodecUnknownType(t *testing.T) {
	t.Parallel()
	for _, draft := range []eventstore.Draft{
		{Type: "parcel.opened", Schema: 1, Data: json.RawMessage(`{}`)},
		{Type: "parcel.sent", Schema: 3, Data: json.RawMessage(`{}`)},
		{Type: "parcel.sent", Schema: 0, Data: json.RawMessage(`{}`)},
		{},
	} {
		raw := stored(draft)
		events, err := newParcelCodec().Decode(raw)
		want := &eventstore.UnknownTypeError{Type: draft.Type, Schema: draft.Schema, Stream: raw.Stream, Position: raw.Position}
		var got *eventstore.UnknownTypeError
		if !errors.As(err, &got) || !errors.Is(err, eventstore.ErrUnknownType) {
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

func TestCodecDecodeError(t *testing.T) {
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
		var got *eventstore.DecodeError
		if !errors.As(err, &got) || !errors.Is(err, eventstore.ErrDecode) || !errors.As(err, cause) {
			t.Errorf("payload %q: %v, want a DecodeError with json's own in it", data, err)
			continue
		}
		want := eventstore.DecodeError{Type: "parcel.sent", Schema: 2, Stream: raw.Stream, Position: 42, Err: got.Err}
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

func TestCodecEncodeRefuses(t *testing.T) {
	t.Parallel()
	codec := newParcelCodec()
	for what, event := range map[string]parcelEvent{
		"not registered":            parcelOther{},
		"a pointer to a registered": &parcelSent{},
		"nil":                       nil,
	} {
		if _, err := codec.Encode(event); !errors.Is(err, eventstore.ErrUnknownType) {
			t.Errorf("%s: %v, want ErrUnknownType", what, err)
		}
	}
	var unsupported *json.UnsupportedTypeError
	if _, err := codec.Encode(parcelBad{}); !errors.As(err, &unsupported) {
		t.Errorf("not JSON: %v, want json's own error", err)
	}
}

// TestNewCodecPanics: each mistake that the documentation names is found at once.
func TestNewCodecPanics(t *testing.T) {
	t.Parallel()
	sent := eventstore.TypeOf("parcel.sent", same[parcelSent])
	type types = []eventstore.Type[parcelEvent]
	for want, types := range map[string]types{
		`"parcel.sent" at schema 1 is registered twice`:      {sent, sent},
		`"parcel.sent" at schema 2 is registered twice`:      {sent.WithSchema(2), eventstore.TypeOf("parcel.sent", upcastSent).WithSchema(2)},
		`is registered as "parcel.sent" and as "parcel.new"`: {sent, eventstore.TypeOf("parcel.new", same[parcelSent])},
		`event type is empty`:                                {eventstore.TypeOf("", same[parcelSent])},
		`has 251 bytes`:                                      {eventstore.TypeOf(strings.Repeat("x", 251), same[parcelSent])},
		`is not UTF-8`:                                       {eventstore.TypeOf("\xff", same[parcelSent])},
		`contains a control character`:                       {eventstore.TypeOf("a\nb", same[parcelSent])},
		`schema 0 is not between 1 and 32767`:                {sent.WithSchema(0)},
		`schema -1 is not between 1 and 32767`:               {sent.WithSchema(-1)},
		`schema 32768 is not between 1 and 32767`:            {sent.WithSchema(32768)},
		`schema 1 leads to schema 2, which is not`:           {eventstore.Upcast[parcelEvent]("parcel.sent", 1, kilograms)},
		`schema 2 leads to schema 3, which is not`:           {eventstore.UpcastJSON[parcelEvent]("parcel.sent", 2, rename), sent},
		`makes a eventstore_test.parcelSent, but schema 2 is`: {eventstore.Upcast[parcelEvent]("parcel.sent", 1, kilograms),
			eventstore.TypeOf("parcel.sent", func(parcelOther) parcelEvent { return nil }).WithSchema(2)},
		`"old" is renamed to "new", which is not registered`: {eventstore.Renamed[parcelEvent]("old", "new")},
		`"old" is renamed twice`:                             {sent, eventstore.Renamed[parcelEvent]("old", "parcel.sent"), eventstore.Renamed[parcelEvent]("old", "parcel.sent")},
		`"parcel.sent" is renamed and registered`:            {sent, eventstore.Renamed[parcelEvent]("parcel.sent", "parcel.sent")},
		`"parcel.sent" is retired and registered`:            {sent, eventstore.Retired[parcelEvent]("parcel.sent")},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "eventstore: ") || !strings.Contains(got, want) {
					t.Errorf("panic %q, want one that says %q", got, want)
				}
			}()
			eventstore.NewCodec(types...)
		}()
	}
	for want, define := range map[string]func(){
		`NewCodec: the codec of eventstore_test.parcelEvent has no event type`: func() { eventstore.NewCodec[parcelEvent]() },
		`NewCodec: event type is empty`:                                        func() { eventstore.NewCodec(eventstore.Type[parcelEvent]{}) },
		`TypeOf: event type "x": into is nil`:                                  func() { eventstore.TypeOf[parcelSent, parcelEvent]("x", nil) },
		`Split: event type "x": into is nil`:                                   func() { eventstore.Split[parcelSent, parcelEvent]("x", nil) },
		`Upcast: event type "x": up is nil`:                                    func() { eventstore.Upcast[parcelEvent, parcelSentV1, parcelSent]("x", 1, nil) },
		`UpcastJSON: event type "x": up is nil`:                                func() { eventstore.UpcastJSON[parcelEvent]("x", 1, nil) },
		`eventstore_test.parcelEvent is an interface`: func() {
			eventstore.TypeOf("x", func(e parcelEvent) parcelEvent { return e })
		},
		`event type "x" is retired twice`: func() {
			eventstore.NewCodec(eventstore.Retired[parcelEvent]("x"), eventstore.Retired[parcelEvent]("x"))
		},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "eventstore: ") || !strings.Contains(got, want) {
					t.Errorf("panic %q, want one that says %q", got, want)
				}
			}()
			define()
		}()
	}
	// What is close to a mistake but is none.
	eventstore.NewCodec(eventstore.TypeOf(strings.Repeat("x", 250), same[parcelSent]).WithSchema(32767))
	eventstore.NewCodec(sent, eventstore.TypeOf("parcel.sold", func(parcelSentV1) parcelEvent { return &parcelLost{} }),
		eventstore.TypeOf("parcel.sent", upcastSent).WithSchema(3))
}

func TestCodecTypes(t *testing.T) {
	t.Parallel()
	want := []string{"parcel.bad", "parcel.lost", "parcel.sent"}
	if diff := cmp.Diff(want, newParcelCodec().Types()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestCodecConcurrently is for the race detector.
func TestCodecConcurrently(t *testing.T) {
	t.Parallel()
	codec := newParcelCodec()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 100 {
				want := parcelSent{To: fmt.Sprint(i), Grams: n}
				draft, err := codec.Encode(want)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := codec.Decode(stored(draft))
				if diff := cmp.Diff(decoded(stored(draft), want), got); diff != "" || err != nil {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				codec.Types()
			}
		})
	}
	wg.Wait()
}
