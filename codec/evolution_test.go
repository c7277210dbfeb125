package codec_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

// parcelSentV0 is still older: its weight was a text.
type parcelSentV0 struct {
	To     string `json:"to"`
	Weight string `json:"weight"`
}

func kilograms(old parcelSentV1) parcelSent {
	return parcelSent{To: old.To, Grams: int(old.Kilograms * 1000)}
}

var errWeight = errors.New("no weight")

// rename makes the payload of parcelSentV1 from a payload whose receiver was called "receiver".
func rename(data json.RawMessage) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	if fields["kg"] == nil {
		return nil, errWeight
	}
	fields["to"] = fields["receiver"]
	delete(fields, "receiver")
	return json.Marshal(fields)
}

// newEvolvedCodec returns the codec of the parcels after some years of changes.
func newEvolvedCodec() *codec.Codec[parcelEvent] {
	return codec.New(
		codec.UpcastJSON[parcelEvent]("parcel.sent", 1, rename),
		codec.UpcastJSON[parcelEvent]("parcel.sent", 2, func(data json.RawMessage) (json.RawMessage, error) { return data, nil }),
		codec.Upcast[parcelEvent]("parcel.sent", 3, kilograms),
		codec.Of("parcel.sent", same[parcelSent]).WithSchema(4),

		codec.Upcast[parcelEvent]("parcel.posted", 1, func(old parcelSentV0) parcelSentV1 {
			return parcelSentV1{To: old.To, Kilograms: float64(len(old.Weight))}
		}),
		codec.Upcast[parcelEvent]("parcel.posted", 2, kilograms),
		codec.Split("parcel.posted", func(e parcelSent) []parcelEvent {
			if e.Grams == 0 {
				return nil
			}
			return []parcelEvent{e, &parcelLost{}}
		}).WithSchema(3),

		codec.Of("parcel.lost", same[*parcelLost]),
		codec.Renamed[parcelEvent]("parcel.gone", "parcel.lost"),
		codec.Renamed[parcelEvent]("parcel.shipped", "parcel.sent"),
		codec.Retired[parcelEvent]("parcel.weighed"),
	)
}

func TestCodecEvolution(t *testing.T) {
	t.Parallel()
	brno := parcelSent{To: "Brno", Grams: 2000}
	for _, test := range []struct {
		name   string
		schema int
		data   string
		want   []parcelEvent
	}{
		{"parcel.sent", 1, `{"receiver":"Brno","kg":2}`, []parcelEvent{brno}},
		{"parcel.sent", 2, `{"to":"Brno","kg":2}`, []parcelEvent{brno}},
		{"parcel.sent", 3, `{"to":"Brno","kg":2}`, []parcelEvent{brno}},
		{"parcel.sent", 4, `{"to":"Brno","grams":2000}`, []parcelEvent{brno}},
		{"parcel.shipped", 1, `{"receiver":"Brno","kg":2}`, []parcelEvent{brno}},
		{"parcel.shipped", 4, `{"to":"Brno","grams":2000}`, []parcelEvent{brno}},
		{"parcel.posted", 1, `{"to":"Brno","weight":"kk"}`, []parcelEvent{brno, &parcelLost{}}},
		{"parcel.posted", 1, `{"to":"Brno","weight":""}`, nil},
		{"parcel.posted", 3, `{"to":"Brno","grams":2000}`, []parcelEvent{brno, &parcelLost{}}},
		{"parcel.gone", 1, `{}`, []parcelEvent{&parcelLost{}}},
		{"parcel.weighed", 1, `not read`, nil},
		{"parcel.weighed", 9, ``, nil},
	} {
		raw := stored(eventstore.Draft{Type: test.name, Schema: test.schema, Data: json.RawMessage(test.data)})
		for mode, c := range map[string]*codec.Codec[parcelEvent]{
			"default": newEvolvedCodec(), "strict": newEvolvedCodec().Strict(), "tolerant": newEvolvedCodec().Tolerant(),
		} {
			got, err := c.Decode(raw)
			if diff := cmp.Diff(decoded(raw, test.want...), got); diff != "" || err != nil {
				t.Errorf("%s at schema %d of %s, %s: %v (-want +got):\n%s", test.name, test.schema, test.data, mode, err, diff)
			}
		}
	}
	raw := stored(eventstore.Draft{Type: "parcel.shipped", Schema: 1, Data: json.RawMessage(`{}`)})
	_, err := newEvolvedCodec().Decode(raw)
	if !errors.Is(err, errWeight) || !errors.Is(err, codec.ErrDecode) {
		t.Errorf("an upcaster that fails: %v", err)
	}
	checkText(t, err, "parcel.shipped", "schema 1", "no weight")
	if diff := cmp.Diff([]string{"parcel.gone", "parcel.lost", "parcel.posted", "parcel.sent", "parcel.shipped"}, newEvolvedCodec().Types()); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
	for name, want := range map[string][]int{"parcel.sent": {1, 2, 3, 4}, "parcel.gone": {1}, "parcel.weighed": nil, "parcel.new": nil} {
		if diff := cmp.Diff(want, newEvolvedCodec().Schemas(name)); diff != "" {
			t.Errorf("schemas of %s (-want +got):\n%s", name, diff)
		}
	}
}

// TestCodecModes: how each mode treats types and fields that it does not know.
func TestCodecModes(t *testing.T) {
	t.Parallel()
	c := newEvolvedCodec()
	for _, test := range []struct {
		name, data               string
		schema                   int
		normal, strict, tolerant error
	}{
		{"parcel.new", `{}`, 1, codec.ErrUnknownType, codec.ErrUnknownType, nil},
		{"parcel.sent", `{}`, 5, codec.ErrUnknownType, codec.ErrUnknownType, nil},
		{"parcel.sent", `{"to":"Brno","color":"red"}`, 4, nil, codec.ErrDecode, nil},
		{"parcel.sent", `{"to":"Brno","color":"red"}`, 3, nil, codec.ErrDecode, nil},
		{"parcel.sent", `{"receiver":"Brno","kg":1,"color":"red"}`, 1, nil, codec.ErrDecode, nil},
		{"parcel.sent", `{} {}`, 4, codec.ErrDecode, codec.ErrDecode, codec.ErrDecode},
		{"parcel.sent", `{"to":7}`, 4, codec.ErrDecode, codec.ErrDecode, codec.ErrDecode},
	} {
		raw := stored(eventstore.Draft{Type: test.name, Schema: test.schema, Data: json.RawMessage(test.data)})
		for mode, m := range map[string]struct {
			codec *codec.Codec[parcelEvent]
			want  error
		}{"normal": {c, test.normal}, "strict": {c.Strict(), test.strict}, "tolerant": {c.Tolerant(), test.tolerant},
			"strict, then tolerant": {c.Strict().Tolerant(), test.tolerant}} {
			if _, err := m.codec.Decode(raw); !errors.Is(err, m.want) {
				t.Errorf("%s at schema %d of %s, %s: %v, want %v", test.name, test.schema, test.data, mode, err, m.want)
			}
		}
	}
}
