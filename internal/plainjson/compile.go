package plainjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// node says how to decode values of one type.
type node struct {
	way    way
	elem   *node   // of a pointer, slice or map
	fields []field // of an object
}

// field is a member of an object.
type field struct {
	name   string
	quoted string // as json.Marshal writes the name
	index  []int  // from the struct through embedded structs
	node   *node
}

// way is how a value is decoded.
type way int

const (
	byStandard way = iota // by encoding/json
	byMethod              // by UnmarshalJSON
	byText                // by UnmarshalText
	asBool
	asString
	asInt
	asUint
	asFloat
	asPointer
	asSlice
	asMap
	asObject
)

// wantsNull reports whether null can be more than the zero value.
func (w way) wantsNull() bool { return w == byStandard || w == byMethod }

// maxFields is the number of bits of reader.object's set of fields.
const maxFields = 64

// compiler makes the nodes of a type and of its parts. A type can be a part of itself.
type compiler struct {
	nodes   map[reflect.Type]*node
	refused bool // there is a part that encoding/json decodes in another way when the part is alone
}

func (c *compiler) node(t reflect.Type) *node {
	if n := c.nodes[t]; n != nil {
		return n
	}
	n := new(node)
	c.nodes[t] = n
	switch methods := methodsOf(t); {
	case len(methods) == 0:
		c.byKind(n, t)
	case t.Name() == "": // a struct that embeds a type with methods
		c.refused = true
	case methods[0] == "UnmarshalJSON":
		n.way = byMethod
	case methods[0] == "UnmarshalText":
		n.way = byText
	}
	return n
}

// methodsOf returns which methods a type decodes itself with. encoding/json of Go 1.27 prefers UnmarshalJSONFrom.
func methodsOf(t reflect.Type) (names []string) {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return nil
	}
	pointer := reflect.PointerTo(t)
	if _, ok := pointer.MethodByName("UnmarshalJSONFrom"); ok {
		names = append(names, "UnmarshalJSONFrom")
	}
	if pointer.Implements(reflect.TypeFor[json.Unmarshaler]()) {
		names = append(names, "UnmarshalJSON")
	}
	if pointer.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		names = append(names, "UnmarshalText")
	}
	return names
}

// byKind sets the way, unless only encoding/json can decode the type.
func (c *compiler) byKind(n *node, t reflect.Type) {
	switch t.Kind() {
	case reflect.Bool:
		n.way = asBool
	case reflect.String:
		if t != reflect.TypeFor[json.Number]() {
			n.way = asString
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n.way = asInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n.way = asUint
	case reflect.Float32, reflect.Float64:
		n.way = asFloat
	case reflect.Pointer:
		c.byElem(n, t, asPointer)
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 { // base64
			c.byElem(n, t, asSlice)
		}
	case reflect.Map:
		if t.Key().Kind() == reflect.String && reflect.PointerTo(t.Key()).NumMethod() == 0 {
			c.byElem(n, t, asMap)
		}
	case reflect.Struct:
		n.way = asObject // already for the parts
		var ok bool
		if n.fields, ok = c.fields(nil, t, nil); !ok || len(n.fields) > maxFields {
			n.way = byStandard
		}
	}
}

// byElem sets the way, unless encoding/json decodes the elements: then encoding/json decodes all of them at once.
func (c *compiler) byElem(n *node, t reflect.Type, w way) {
	if n.elem = c.node(t.Elem()); n.elem.way != byStandard {
		n.way = w
	}
}

// fields appends the members of a struct. It reports false if only encoding/json knows what they are.
func (c *compiler) fields(fields []field, t reflect.Type, outer []int) ([]field, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		index := append(slices.Clone(outer), i)
		ok := plainOptions(options)
		switch {
		case tag == "-":
			continue
		case f.Anonymous:
			ok = ok && tag == "" && f.Type.Kind() == reflect.Struct && len(methodsOf(f.Type)) == 0
			if ok {
				fields, ok = c.fields(fields, f.Type, index)
			}
		case !f.IsExported():
			continue
		default:
			if name == "" {
				name = f.Name
			}
			ok = ok && plainName(name) && !slices.ContainsFunc(fields, func(f field) bool { return f.name == name })
			fields = append(fields, field{name, `"` + name + `"`, index, c.node(f.Type)})
		}
		if !ok {
			return nil, false
		}
	}
	return fields, true
}

// plainOptions reports whether the options of a tag have no meaning for decoding.
func plainOptions(options string) bool {
	for option := range strings.SplitSeq(options, ",") {
		if option != "" && option != "omitempty" && option != "omitzero" {
			return false
		}
	}
	return true
}

// plainName reports whether a name consists of ASCII letters, digits, '_', '-' and '.'.
func plainName(name string) bool {
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}
