package plainjson_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/internal/plainjson"
)

// tags are tags of fields, with and without a decoder. The names are few, so that some types have a name twice.
var tags = []string{``, `json:"a"`, `json:"b"`, `json:"A"`, `json:"ab,omitempty"`, `json:"b_b,omitzero"`, `json:",omitempty"`,
	`json:"c"`, `json:"d"`, `json:"e"`, `json:"-"`, `json:"-,"`, `json:"f,string"`, `json:"ž"`, `json:"a,other"`, `json:"b b"`}

// members are names that such types have, or nearly.
var members = []string{"a", "b", "A", "B", "ab", "AB", "b_b", "bb", "c", "d", "e", "f", "-", "ž", "Ž", "b b", "F0", "F1", "f2", "x"}

var leaves = []reflect.Type{
	reflect.TypeFor[bool](), reflect.TypeFor[int8](), reflect.TypeFor[int](), reflect.TypeFor[uint16](), reflect.TypeFor[uint64](), reflect.TypeFor[float32](),
	reflect.TypeFor[float64](), reflect.TypeFor[string](), reflect.TypeFor[named](), reflect.TypeFor[time.Time](), reflect.TypeFor[uuid.UUID](),
	reflect.TypeFor[inner](), reflect.TypeFor[every](), reflect.TypeFor[method](), reflect.TypeFor[textMethod](), reflect.TypeFor[upper](), reflect.TypeFor[quoted](),
	reflect.TypeFor[any](), reflect.TypeFor[json.Number](), reflect.TypeFor[json.RawMessage](), reflect.TypeFor[[]byte](), reflect.TypeFor[[]named](),
	reflect.TypeFor[hiding](), reflect.TypeFor[embedsPointer](), reflect.TypeFor[embedsTagged](), reflect.TypeFor[embedsMethod](), reflect.TypeFor[embedsText](),
	reflect.TypeFor[hasUnnamed](), reflect.TypeFor[struct{ time.Time }](), reflect.TypeFor[struct{ method }](),
}

// anyType draws a type.
func anyType(t *rapid.T, depth int) reflect.Type {
	kind := rapid.IntRange(0, 6).Draw(t, "kind")
	if depth == 0 {
		kind = 0
	}
	switch kind {
	case 1:
		return reflect.SliceOf(anyType(t, depth-1))
	case 2:
		return reflect.MapOf(rapid.SampledFrom([]reflect.Type{
			reflect.TypeFor[string](), reflect.TypeFor[named](), reflect.TypeFor[int](), reflect.TypeFor[textMethod](),
		}).Draw(t, "key"), anyType(t, depth-1))
	case 3:
		return reflect.PointerTo(anyType(t, depth-1))
	case 4:
		return reflect.ArrayOf(2, anyType(t, depth-1))
	case 5, 6:
		return anyStruct(t, depth)
	}
	return rapid.SampledFrom(leaves).Draw(t, "leaf")
}

func anyStruct(t *rapid.T, depth int) reflect.Type {
	var fields []reflect.StructField
	for i := range rapid.IntRange(0, 4).Draw(t, "fields") {
		fields = append(fields, reflect.StructField{
			Name: "F" + string(rune('0'+i)),
			Type: anyType(t, depth-1),
			Tag:  reflect.StructTag(rapid.SampledFrom(tags).Draw(t, "tag")),
		})
	}
	return reflect.StructOf(fields)
}

// textFor draws a text that may fit a type.
func textFor(t *rapid.T, of reflect.Type, depth int) string {
	if depth == 0 || rapid.IntRange(0, 9).Draw(t, "else") == 0 {
		return document(t, 1)
	}
	var parts []string
	switch of.Kind() {
	case reflect.Pointer:
		return textFor(t, of.Elem(), depth)
	case reflect.Slice, reflect.Array:
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			parts = append(parts, textFor(t, of.Elem(), depth-1))
		}
		return `[` + strings.Join(parts, `,`) + `]`
	case reflect.Map:
		for range rapid.IntRange(0, 3).Draw(t, "entries") {
			parts = append(parts, `"`+rapid.SampledFrom(members).Draw(t, "key")+`":`+textFor(t, of.Elem(), depth-1))
		}
	case reflect.Struct:
		for i := range of.NumField() {
			f := of.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				name = f.Name
			}
			if rapid.IntRange(0, 5).Draw(t, "odd") == 0 {
				name = rapid.SampledFrom(members).Draw(t, "name")
			}
			parts = append(parts, `"`+name+`":`+textFor(t, f.Type, depth-1))
		}
	case reflect.String:
		return rapid.SampledFrom([]string{`"a"`, `""`, `"5"`, `null`}).Draw(t, "string")
	case reflect.Bool:
		return rapid.SampledFrom([]string{`true`, `false`}).Draw(t, "bool")
	default:
		return rapid.SampledFrom([]string{`0`, `7`, `1.5`, `-0`, `300`, `"x"`}).Draw(t, "number")
	}
	return `{` + strings.Join(parts, `,`) + `}`
}

// TestAnyType: every type decodes every text as encoding/json does, with the same value or error.
func TestAnyType(t *testing.T) {
	t.Parallel()
	plain := 0
	rapid.Check(t, func(t *rapid.T) {
		of := anyType(t, 3)
		decoder := plainjson.For(of)
		for range 5 {
			data, strict := []byte(textFor(t, of, 4)), rapid.Bool().Draw(t, "strict")
			got, want := reflect.New(of), reflect.New(of)
			if decoder != nil && decoder.Decode(data, reflect.New(of).Elem(), strict) {
				plain++
			}
			err := decoder.Unmarshal(data, got.Interface(), strict)
			wantErr := (*plainjson.Decoder)(nil).Unmarshal(data, want.Interface(), strict)
			if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
				t.Fatalf("%v: %s: error %v, by encoding/json %v", of, data, err, wantErr)
			}
			x, _ := json.Marshal(got.Interface())
			y, _ := json.Marshal(want.Interface())
			if !reflect.DeepEqual(got.Interface(), want.Interface()) || !bytes.Equal(x, y) {
				t.Fatalf("%v: %s: decoded into\n%s, by encoding/json into\n%s", of, data, x, y)
			}
		}
	})
	if plain == 0 {
		t.Error("no text was plain")
	}
}
