package aggregate

import (
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/tidemark-es/tidemark/internal/plainjson"
	"github.com/tidemark-es/tidemark/snapshot"
)

// stateCodec turns a state into the data of a snapshot and back.
type stateCodec[S any] struct {
	kind    snapshot.Kind
	encode  func(*S) ([]byte, error)
	decode  func([]byte) (*S, error)
	problem error // what JSON would lose of the state; nil for nothing
}

// jsonState is the default encoding. Its shape is a fingerprint of S: when a field is added, removed or changed,
// snapshots have another shape, even if the schema was not raised.
func jsonState[S any](category string) stateCodec[S] {
	shape, problem := shapeOf(reflect.TypeFor[S]())
	shape = nameOf(reflect.TypeFor[S]()) + " " + shape // two states of a category may have the same fields
	decoder := plainjson.For(reflect.TypeFor[S]())
	return stateCodec[S]{
		kind:   snapshot.Kind{Type: category, Shape: fingerprint(shape), Schema: 1},
		encode: func(state *S) ([]byte, error) { return json.Marshal(state) },
		decode: func(data []byte) (*S, error) {
			state := new(S)
			return state, decoder.Unmarshal(data, state, false)
		},
		problem: problem,
	}
}

// ownState is an encoding of the application. Its shape does not depend on the fields of S, because only the
// application knows how it decodes older data.
func ownState[S any](category string, schema int, encode func(*S) ([]byte, error), decode func([]byte) (*S, error)) stateCodec[S] {
	return stateCodec[S]{
		kind:   snapshot.Kind{Type: category, Shape: fingerprint("own " + nameOf(reflect.TypeFor[S]())), Schema: schema},
		encode: encode,
		decode: decode,
	}
}

// recovered turns a panic of the application's code into an error: a snapshot must not fail the command that it is
// taken for.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v", p)
	}
}

// errEncode means that a state does not encode.
var errEncode = errors.New("state does not encode")

func (c *stateCodec[S]) save(state *S) (data []byte, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", errEncode, err)
		}
	}()
	defer recovered(&err)
	return c.encode(state)
}

func (c *stateCodec[S]) restore(data []byte) (state *S, err error) {
	defer recovered(&err)
	if state, err = c.decode(data); err == nil && state == nil {
		err = fmt.Errorf("decode returned a nil state")
	}
	return state, err
}

func fingerprint(shape string) string {
	sum := sha256.Sum256([]byte(shape))
	return hex.EncodeToString(sum[:8])
}

// shapeOf describes how a type looks as JSON, and returns an error if JSON loses a part of it.
func shapeOf(t reflect.Type) (string, error) {
	s := shaper{path: t.String(), seen: make(map[reflect.Type]bool)}
	return s.of(t), s.problem
}

type shaper struct {
	path    string
	seen    map[reflect.Type]bool
	problem error // the first
}

var (
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// nameOf returns the name of a type, with its package.
func nameOf(t reflect.Type) string { return t.PkgPath() + "." + t.String() }

func (s *shaper) of(t reflect.Type) string {
	if s.isOpaque(t) {
		return nameOf(t)
	}
	if t.PkgPath() != "" && t.Kind() != reflect.Struct { // a number of cents is not one of euros
		return nameOf(t) + " " + s.plain(t)
	}
	return s.plain(t)
}

// isOpaque reports whether a type marshals itself. Such a type must also unmarshal itself. It must not get its
// marshal method from an embedded field, because then only that field would be written.
func (s *shaper) isOpaque(t reflect.Type) bool {
	if !implements(t, jsonMarshaler, textMarshaler) {
		return false
	}
	if !implements(t, jsonUnmarshaler, textUnmarshaler) {
		s.lose("%s has a method to marshal it, but none to unmarshal it", t)
	}
	if t.Kind() == reflect.Struct {
		for i := range t.NumField() {
			if field := t.Field(i); field.Anonymous && implements(field.Type, jsonMarshaler, textMarshaler) {
				s.lose("%s may be written as its embedded field %s, without its other fields", t, field.Name)
			}
		}
	}
	return true
}

// implements reports whether a type, or a pointer to it, has the methods of one of the interfaces.
func implements(t reflect.Type, interfaces ...reflect.Type) bool {
	return slices.ContainsFunc(interfaces, reflect.PointerTo(t).Implements)
}

func (s *shaper) plain(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return t.Kind().String() + "(" + s.of(t.Elem()) + ")"
	case reflect.Array:
		return fmt.Sprintf("%d(%s)", t.Len(), s.of(t.Elem()))
	case reflect.Map:
		return "map(" + s.of(t.Key()) + "," + s.of(t.Elem()) + ")"
	case reflect.Struct:
		return s.fields(t)
	case reflect.Interface, reflect.Func, reflect.Chan, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		s.lose("JSON cannot restore a %s", t.Kind())
	}
	return t.Kind().String()
}

func (s *shaper) fields(t reflect.Type) string {
	if s.seen[t] {
		return t.String()
	}
	s.seen[t] = true
	shape, path := "struct(", s.path
	for i := range t.NumField() {
		field := t.Field(i)
		s.path = path + "." + field.Name
		tag := field.Tag.Get("json")
		embedded := field.Anonymous && field.Type.Kind() == reflect.Struct // JSON has the exported fields of an embedded struct
		switch {
		case !field.IsExported() && !embedded:
			s.lose("it is not exported, and JSON drops it")
		case tag == "-":
			s.lose(`its tag is json:"-"`)
		}
		shape += field.Name + " " + tag + " " + s.of(field.Type) + ";"
	}
	s.path = path
	return shape + ")"
}

func (s *shaper) lose(format string, args ...any) {
	if s.problem == nil {
		s.problem = fmt.Errorf("%s: %s", s.path, fmt.Sprintf(format, args...))
	}
}
