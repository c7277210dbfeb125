package plainjson

import "reflect"

// Decoder decodes plain JSON into values of one type.
type Decoder struct{ root *node }

// For returns the decoder of a type, or nil if only encoding/json can decode the type.
func For(t reflect.Type) *Decoder {
	c := compiler{nodes: make(map[reflect.Type]*node)}
	root := c.node(t)
	if c.refused || root.way.wantsNull() {
		return nil
	}
	return &Decoder{root}
}

// Unmarshal decodes a text into the value that pointer points to, which must be zero. The result is that of encoding/json;
// strict refuses members without a field. A decoder that is nil is right for all types.
func (d *Decoder) Unmarshal(data []byte, pointer any, strict bool) error {
	if d != nil {
		value := reflect.ValueOf(pointer).Elem()
		if d.Decode(data, value, strict) {
			return nil
		}
		value.SetZero()
	}
	return standard(data, pointer, strict)
}

// Decode decodes a text into a value, which must be settable and zero. It reports whether the text is plain. If the text
// is not plain, a part of the value may be set. With strict, a text that has a member without a field is not plain.
func (d *Decoder) Decode(data []byte, value reflect.Value, strict bool) bool {
	r := reader{data: data, strict: strict}
	if !r.value(d.root, value) {
		return false
	}
	r.space()
	return r.at == len(data)
}
