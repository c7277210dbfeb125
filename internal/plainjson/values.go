package plainjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// value decodes the next value. null leaves the value zero, unless the way of decoding wants to see null.
func (r *reader) value(n *node, v reflect.Value) bool {
	r.space()
	if r.at == len(r.data) {
		return false
	}
	if r.data[r.at] == 'n' && !n.way.wantsNull() {
		return r.literal("null")
	}
	switch n.way {
	case asBool:
		return r.boolean(v)
	case asString:
		text, ok := r.text()
		if ok {
			v.SetString(string(text))
		}
		return ok
	case asInt:
		return r.integer(v)
	case asUint:
		return r.unsigned(v)
	case asFloat:
		return r.float(v)
	case asPointer:
		v.Set(reflect.New(v.Type().Elem()))
		return r.value(n.elem, v.Elem())
	case asSlice:
		return r.slice(n, v)
	case asMap:
		return r.mapping(n, v)
	case asObject:
		return r.object(n, v)
	}
	return r.foreign(n, v)
}

// foreign decodes the next value by code that is not in this package.
func (r *reader) foreign(n *node, v reflect.Value) bool {
	value := v.Addr().Interface()
	if n.way == byText {
		text, ok := r.text()
		return ok && value.(encoding.TextUnmarshaler).UnmarshalText(text) == nil
	}
	raw, ok := r.raw()
	switch {
	case !ok:
		return false
	case n.way == byMethod:
		return value.(json.Unmarshaler).UnmarshalJSON(raw) == nil
	}
	return standard(raw, value, r.strict) == nil
}

func (r *reader) boolean(v reflect.Value) bool {
	if r.literal("true") {
		v.SetBool(true)
		return true
	}
	return r.literal("false")
}

// maxDigits is the number of digits of an integer that surely fits into 64 bits.
const maxDigits = 18

func (r *reader) integer(v reflect.Value) bool {
	text, whole := r.number()
	digits, negative := bytes.CutPrefix(text, []byte("-"))
	if !whole || len(digits) > maxDigits {
		return false
	}
	n := int64(parse(digits))
	if negative {
		n = -n
	}
	if v.OverflowInt(n) {
		return false
	}
	v.SetInt(n)
	return true
}

func (r *reader) unsigned(v reflect.Value) bool {
	text, whole := r.number()
	if !whole || len(text) > maxDigits || text[0] == '-' {
		return false
	}
	n := parse(text)
	if v.OverflowUint(n) {
		return false
	}
	v.SetUint(n)
	return true
}

func parse(digits []byte) (n uint64) {
	for _, c := range digits {
		n = 10*n + uint64(c-'0')
	}
	return n
}

func (r *reader) float(v reflect.Value) bool {
	text, _ := r.number()
	if text == nil {
		return false
	}
	n, err := strconv.ParseFloat(string(text), v.Type().Bits())
	if err != nil {
		return false
	}
	v.SetFloat(n)
	return true
}

func (r *reader) slice(n *node, v reflect.Value) bool {
	if !r.open('[') {
		return false
	}
	for i := 0; ; i++ {
		if more, ok := r.more(i, ']'); !more {
			if i == 0 {
				v.Set(reflect.MakeSlice(v.Type(), 0, 0)) // not nil
			}
			return ok
		}
		if i == v.Cap() {
			v.Grow(i + 2)
		}
		v.SetLen(i + 1)
		if !r.value(n.elem, v.Index(i)) {
			return false
		}
	}
}

func (r *reader) mapping(n *node, v reflect.Value) bool {
	if !r.open('{') {
		return false
	}
	t := v.Type()
	v.Set(reflect.MakeMap(t))
	key, elem := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
	for i := 0; ; i++ {
		if more, ok := r.more(i, '}'); !more {
			return ok
		}
		name, ok := r.text()
		if !ok || !r.take(':') {
			return false
		}
		key.SetString(string(name))
		elem.SetZero()
		if v.MapIndex(key).IsValid() || !r.value(n.elem, elem) {
			return false
		}
		v.SetMapIndex(key, elem)
	}
}

func (r *reader) object(n *node, v reflect.Value) bool {
	if !r.open('{') {
		return false
	}
	var seen uint64
	next := 0 // members usually come in the order of the fields
	for i := 0; ; i++ {
		if more, ok := r.more(i, '}'); !more {
			return ok
		}
		k, ok := r.field(n.fields, next)
		if !ok {
			return false
		}
		if k < 0 {
			if !r.skip() {
				return false
			}
			continue
		}
		if next = k + 1; seen&(1<<k) != 0 {
			return false
		}
		seen |= 1 << k
		part := v
		for _, j := range n.fields[k].index {
			part = part.Field(j)
		}
		if !r.value(n.fields[k].node, part) {
			return false
		}
	}
}

// field moves beyond the name of a member, and returns the index of its field, or -1 for no field. The search begins at
// the index next.
func (r *reader) field(fields []field, next int) (k int, ok bool) {
	if next < len(fields) && r.literal(fields[next].quoted) {
		return next, r.take(':')
	}
	name, ok := r.name()
	if !ok || !r.take(':') {
		return 0, false
	}
	for k := range fields {
		if fields[k].name == string(name) {
			return k, true
		}
	}
	return -1, !r.strict && !folds(fields, name)
}

// folds reports whether a name differs from the name of a field only by case.
func folds(fields []field, name []byte) bool {
	for _, f := range fields {
		if len(f.name) == len(name) && strings.EqualFold(f.name, string(name)) {
			return true
		}
	}
	return false
}
