package httpapi

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep the arrays and objects of a body can be nested.
const maxDepth = 100

// Decode reads a body that holds one JSON object into the value that into points to. Each member must have exactly the
// name of a field, and be there once, at every depth. Every other body is an [Error]: 415 for another Content-Type, 400
// for all other reasons, also for a body that is nested more than 100 deep.
func Decode(r *http.Request, into any) error {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("httpapi: Decode: into is %T: want a pointer that is not nil", into)
	}
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if base, _, err := mime.ParseMediaType(kind); err != nil || base != "application/json" {
			return &Error{http.StatusUnsupportedMediaType, "not-json", "Content-Type: want application/json"}
		}
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return BadRequest("the body cannot be read: %v", err)
	}
	if err := oneObject(body); err != nil {
		return err
	}
	if err := checkMembers(body, target.Type()); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return BadRequest("%s: %s: want %s", cmp.Or(memberPath(target.Type(), wrong.Field), "the body"), wrong.Value, wanted(wrong.Type))
		}
		return BadRequest("the body cannot be decoded: %s", plain(err))
	}
	return nil
}

// memberPath returns the path of a member as a client knows it. The decoder puts the names of embedded structs into the
// path; memberPath takes them out.
func memberPath(t reflect.Type, path string) string {
	if path == "" {
		return ""
	}
	var members []string
	for _, name := range strings.Split(path, ".") {
		t = element(t)
		if t != nil && t.Kind() == reflect.Struct {
			fields := fieldsOf(t)
			next, isMember := fields[name]
			if embedded, ok := t.FieldByName(name); !isMember && ok && embedded.Anonymous {
				t = embedded.Type
				continue
			}
			t = next
		}
		members = append(members, name)
	}
	return strings.Join(members, ".")
}

// element returns the type of the values in arrays and maps, however deep these are nested. It returns nil if there is
// no such type, because a type is made of itself alone.
func element(t reflect.Type) reflect.Type {
	seen := make(map[reflect.Type]bool)
	for t = inside(t); t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array || t.Kind() == reflect.Map); t = inside(t.Elem()) {
		if seen[t] {
			return nil
		}
		seen[t] = true
	}
	return t
}

// wanted says in the words of JSON which values a Go type accepts.
func wanted(t reflect.Type) string {
	switch {
	case t == nil:
		return "another value"
	case reflect.PointerTo(t).Implements(jsonUnmarshaler):
		return "another value"
	case reflect.PointerTo(t).Implements(textUnmarshaler), t == reflect.TypeFor[[]byte]():
		return "a string"
	case t == reflect.TypeFor[json.Number]():
		return "a number"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<t.Bits()-1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		most := uint64(1)<<(t.Bits()-1) - 1
		return fmt.Sprintf("a whole number of at most %d", most)
	}
	return "another value"
}

// oneObject returns an error unless the body is one JSON object in UTF-8.
func oneObject(body []byte) error {
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return BadRequest("the body is not a JSON object")
	}
	if !utf8.Valid(body) {
		return BadRequest("the body is not UTF-8")
	}
	if json.Valid(body) {
		return nil
	}
	var first json.RawMessage
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&first); err != nil {
		return BadRequest("the body cannot be decoded: %s", plain(err))
	}
	return BadRequest("the body holds more than one JSON object")
}

func plain(err error) string { return strings.TrimPrefix(err.Error(), "json: ") }

// checkMembers returns an error if valid JSON is nested too deep, has a member twice, or has a member that the type
// does not have. The decoder alone would take the last of several members with one name, and a member whose name
// differs only in case.
func checkMembers(body []byte, t reflect.Type) error {
	c := checker{body: body}
	return c.value(t, 0)
}

// checker walks through valid JSON.
type checker struct {
	body []byte
	at   int
}

// next returns the next byte that is not a space, and stays before it.
func (c *checker) next() byte {
	for c.body[c.at] == ' ' || c.body[c.at] == '\t' || c.body[c.at] == '\r' || c.body[c.at] == '\n' {
		c.at++
	}
	return c.body[c.at]
}

// value checks the next value. It is for t, which is nil if the value can hold anything.
func (c *checker) value(t reflect.Type, depth int) error {
	if depth > maxDepth {
		return BadRequest("the body is nested more than %d deep", maxDepth)
	}
	switch c.next() {
	case '{':
		return c.object(t, depth)
	case '[':
		return c.array(t, depth)
	case '"':
		c.text()
	default: // a number, true, false or null
		for c.at < len(c.body) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(c.body[c.at])) {
			c.at++
		}
	}
	return nil
}

func (c *checker) array(t reflect.Type, depth int) error {
	var element reflect.Type
	if t = inside(t); t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		element = t.Elem()
	}
	for c.at++; c.next() != ']'; {
		if err := c.value(element, depth+1); err != nil {
			return err
		}
		if c.next() == ',' {
			c.at++
		}
	}
	c.at++
	return nil
}

func (c *checker) object(t reflect.Type, depth int) error {
	var fields map[string]reflect.Type
	var element reflect.Type
	if t = inside(t); t != nil && t.Kind() == reflect.Struct {
		fields = fieldsOf(t)
	} else if t != nil && t.Kind() == reflect.Map {
		element = t.Elem()
	}
	seen := make(map[string]struct{})
	for c.at++; c.next() != '}'; {
		name := c.text()
		if _, again := seen[name]; again {
			return BadRequest("the member %.40q is there more than once", name)
		}
		seen[name] = struct{}{}
		if fields != nil {
			var known bool
			if element, known = fields[name]; !known {
				return BadRequest("the member %.40q is not known%s", name, similar(fields, name))
			}
		}
		c.next() // to the colon
		c.at++
		if err := c.value(element, depth+1); err != nil {
			return err
		}
		if c.next() == ',' {
			c.at++
		}
	}
	c.at++
	return nil
}

// text returns the next string.
func (c *checker) text() (s string) {
	start, escaped := c.at, false
	for c.at++; c.body[c.at] != '"'; c.at++ {
		if c.body[c.at] == '\\' {
			escaped = true
			c.at++
		}
	}
	c.at++
	if !escaped {
		return string(c.body[start+1 : c.at-1])
	}
	_ = json.Unmarshal(c.body[start:c.at], &s) // the JSON is valid
	return s
}

func similar(fields map[string]reflect.Type, name string) string {
	for field := range fields {
		if strings.EqualFold(field, name) {
			return fmt.Sprintf(": it is called %q", field)
		}
	}
	return ""
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// inside returns the type that the decoder fills itself. It returns nil if a method of the type does the decoding, or
// if the type accepts anything.
func inside(t reflect.Type) reflect.Type {
	for t != nil {
		pointer := reflect.PointerTo(t)
		switch {
		case pointer.Implements(jsonUnmarshaler), pointer.Implements(textUnmarshaler), t.Kind() == reflect.Interface:
			return nil
		case t.Kind() != reflect.Pointer:
			return t
		}
		t = t.Elem()
	}
	return nil
}

// fieldsOf returns the members of a struct and their types. If an embedded struct has a member of the same name, the
// outer one counts, as in the decoder.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for level, seen := []reflect.Type{t}, map[reflect.Type]bool{}; len(level) > 0; {
		var deeper []reflect.Type
		found := make(map[string]reflect.Type)
		for _, t := range level {
			if seen[t] {
				continue
			}
			seen[t] = true
			for i := range t.NumField() {
				name, embedded := member(t.Field(i))
				if embedded != nil {
					deeper = append(deeper, embedded)
				} else if name != "" {
					found[name] = t.Field(i).Type
				}
			}
		}
		for name, of := range found {
			if _, hidden := fields[name]; !hidden {
				fields[name] = of
			}
		}
		level = deeper
	}
	return fields
}

// member returns the name of a field in JSON, and "" if the field is not in the JSON. For an embedded struct whose
// fields stand in its place it returns the struct.
func member(field reflect.StructField) (name string, embedded reflect.Type) {
	tag := field.Tag.Get("json")
	if tag == "-" {
		return "", nil
	}
	name, _, _ = strings.Cut(tag, ",")
	if of := field.Type; field.Anonymous && name == "" {
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if of.Kind() == reflect.Struct {
			return "", of
		}
	}
	if !field.IsExported() {
		return "", nil
	}
	return cmp.Or(name, field.Name), nil
}
