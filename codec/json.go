package codec

import (
	"encoding/json"
	"reflect"

	"github.com/tidemark-es/tidemark/internal/plainjson"
)

// JSON is what a codec writes and reads payloads with. The zero value means the rules of encoding/json. A function that is
// nil keeps its default.
//
// The functions must be pure, and safe for concurrent use. Marshal must return valid JSON. Unmarshal must not change the
// data, and no value may share memory with the data, not even a string. Later releases must be able to read what Marshal
// writes, because stored events never change.
type JSON struct {
	Marshal   func(value any) ([]byte, error)
	Unmarshal func(data []byte, value any) error
	// UnmarshalStrict is Unmarshal, but returns an error for a member that the value has no field for. [Codec.Strict]
	// needs it if Unmarshal is not nil.
	UnmarshalStrict func(data []byte, value any) error
}

// WithJSON returns a codec that writes and reads payloads with the given functions. WithJSON panics if the codec is
// strict and j has an Unmarshal but no UnmarshalStrict.
//
// The default has the rules of encoding/json, and reads usual payloads in a quarter of its time. Before you choose another
// library, read "Another JSON library" in docs/eventstore.md: most libraries read or write some payloads differently.
func (c *Codec[E]) WithJSON(j JSON) *Codec[E] {
	other := *c
	other.json = j
	other.checkJSON("WithJSON")
	return &other
}

// checkJSON panics if the codec would be strict, but cannot refuse unknown members.
func (c *Codec[E]) checkJSON(function string) {
	if c.strictFields && c.json.Unmarshal != nil && c.json.UnmarshalStrict == nil {
		panic("codec: " + function + ": a strict codec must refuse unknown members, and its JSON has no UnmarshalStrict: set UnmarshalStrict")
	}
}

func (j JSON) marshal(value any) ([]byte, error) {
	if j.Marshal != nil {
		return j.Marshal(value)
	}
	return json.Marshal(value)
}

// custom returns the function of the application that decodes, or nil for the default.
func (j JSON) custom(strict bool) func([]byte, any) error {
	if strict {
		return j.UnmarshalStrict
	}
	return j.Unmarshal
}

// reader decodes a payload into a T.
type reader[T any] func(data json.RawMessage, j JSON, strict bool) (T, error)

func newReader[T any]() reader[T] {
	decoder := plainjson.For(reflect.TypeFor[T]())
	return func(data json.RawMessage, j JSON, strict bool) (payload T, err error) {
		if custom := j.custom(strict); custom != nil {
			err = custom(data, &payload)
		} else {
			err = decoder.Unmarshal(data, &payload, strict)
		}
		return payload, err
	}
}
