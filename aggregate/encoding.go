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

	"github.com/tidemark-es/tidemark/snapshot"
)

// stateCodec turns a state into the data of a snapshot and back.
type stateCodec[S any] struct {
	kind    snapshot.Kind
	encode  func(*S) ([]byte, error)
	decode  func([]byte) (*S, error)
	problem error // why the state does not survive; nil if it does
}

// jsonState is the default. Its shape is a fingerprint of S: where a field has come, gone or become
// something else, an older snapshot is of another shape, though the schema was not raised.
func jsonState[S any](category string) stateCodec[S] {
	shape, problem := shapeOf(reflect.TypeFor[S]())
	shape = nameOf(reflect.TypeFor[S]()) + " " + shape // two views of a category may look alike
	return stateCodec[S]{
		kind:   snapshot.Kind{Type: category, Shape: fingerprint(shape), Schema: 1},
		encode: func(state *S) ([]byte, error) { return json.Marshal(state) },
		decode: func(data []byte) (*S, error) {
			state := new(S)
			return state, json.Unmarshal(data, state)
		},
		problem: problem,
	}
}

// ownState is an encoding of the application's, which alone knows what becomes of an older shape.
func ownState[S any](category string, schema int, encode func(*S) ([]byte, error), decode func([]byte) (*S, error)) stateCodec[S] {
	return stateCodec[S]{
		kind:   snapshot.Kind{Type: category, Shape: fingerprint("own " + nameOf(reflect.TypeFor[S]())), Schema: schema},
		encode: encode,
		decode: decode,
	}
}

// A panic of the application's code is an error: a snapshot never fails what it is taken for.
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
		err = fmt.Errorf("it decodes to nothing")
	}
	return state, err
}

func fingerprint(shape string) string {
	sum := sha256.Sum256([]byte(shape))
	return hex.EncodeToString(sum[:8])
}

// shapeOf describes how a type looks as JSON, and returns an error if part of it is lost there.
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

// isOpaque reports whether a type knows how it looks as JSON. It must know its way back as well, and must
// not have that from a field that is embedded in it, which would be all that is written.
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
				s.lose("%s may be written as what is embedded in it, %s, without its other fields", t, field.Name)
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
		s.lose("a %s does not come back from JSON", t.Kind())
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
		embedded := field.Anonymous && field.Type.Kind() == reflect.Struct // its exported fields count
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
