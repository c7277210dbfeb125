package plainjson_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/internal/plainjson"
)

var decoder = plainjson.For(reflect.TypeFor[every]())

// plain decodes a text, and fails the test unless encoding/json does the same. It reports whether the text is plain.
func plain(t interface {
	Helper()
	Fatalf(string, ...any)
}, data []byte, strict bool) bool {
	t.Helper()
	var got, want every
	text := bytes.Clone(data)
	if !decoder.Decode(text, reflect.ValueOf(&got).Elem(), strict) {
		return false
	}
	err := (*plainjson.Decoder)(nil).Unmarshal(data, &want, strict) // by encoding/json
	if err != nil {
		t.Fatalf("%q is decoded, but encoding/json says: %v", data, err)
	}
	clear(text) // a value that shares memory with the text changes now
	if !same(got, want) {
		t.Fatalf("%q is decoded into\n%#v, by encoding/json into\n%#v", data, got, want)
	}
	return true
}

// same compares values, and tells -0 from 0.
func same(a, b every) bool {
	x, err := json.Marshal(a)
	y, otherErr := json.Marshal(b)
	return err == nil && otherErr == nil && bytes.Equal(x, y) && reflect.DeepEqual(a, b)
}

// TestPlain: which texts are plain.
func TestPlain(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`, " \t\r\n{ \"text\" : \"a\" , \"int\" : 1 } \n", `null`,
		`{"text":"\"\\\/\b\f\n\r\t\u0000\u00e1\ud7ff\ue000 žluť 🐎"}`, `{"text":"` + "\x7f\u2028" + `"}`,
		`{"int":0,"small":-128,"uint":255,"byte":255}`, `{"int":-0}`, `{"int":999999999999999999}`, `{"int":-999999999999999999}`,
		`{"float":-0,"float32":0.1}`, `{"float":1e308}`, `{"float":12.5E-3}`, `{"float":1e-400}`,
		`{"bool":true}`, `{"bool":false}`, `{"time":"2026-01-02T03:04:05.6+02:00"}`, `{"time":null}`,
		`{"id":"01890a5d-ac96-774b-bcce-b302099a8057"}`, `{"id":null}`, `{"pointer":null,"list":null,"map":null,"text":null,"int":null,"inline":null}`,
		`{"pointer":"a","pointers":{"deep":"b"}}`, `{"list":[{"deep":"a","deeper":3},{},null]}`, `{"list":[]}`, `{"lists":[[],["a"],null]}`,
		`{"map":{"a":1,"ž":2,"\u0061b":3}}`, `{"map":{}}`, `{"maps":{"a":[{"deep":"b"}],"b":null,"c":[]}}`,
		`{"deep":"a","deeper":-5}`, `{"self":{"self":{"text":"a"}}}`, `{"under_score":"a","da-sh":"b","NoTag":"c"}`,
		`{"method":{"a": [1, null ]},"methods":[1,null,"a"]}`, `{"method":null}`, `{"textmethod":"\u0061b","textps":{"a":"b","c":null}}`,
		`{"any":{"a":[1,{"b":null}]},"anymap":{"a":1},"number":1e400,"raw":{"a" :1},"bytes":"AAEC","array":[1],"intkeys":{"1":"a"}}`,
		`{"any":{"a":1,"A":2,"a":3}}`, `{"quoted":{"n":"5"}}`, `{"iface":null}`, `{"keyed":{"a":true}}`, `{"duration":5}`,
		`{"any":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`,
	} {
		for _, strict := range []bool{false, true} {
			if !plain(t, []byte(text), strict) {
				t.Errorf("%s, strict %v: is not plain", text, strict)
			}
		}
	}
	unknown := []byte(`{"other":{"a":[1,"\n",true,null,-1.5e3]},"text":"a","other":2}`)
	if !plain(t, unknown, false) || plain(t, unknown, true) {
		t.Errorf("%s: is not plain, or is in strict mode", unknown)
	}
}

// TestNotPlain: texts that encoding/json must decode or refuse.
func TestNotPlain(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, ` `, `{`, `}`, `[]`, `1`, `"a"`, `nul`, `{} {}`, `{}x`, "{}\x00", "\ufeff{}", "\v{}", `{,}`, `{"text":"a",}`, `{"text":"a" "int":1}`, `{"text"}`, `{"text":}`,
		`{"text":"a","text":"b"}`, `{"Text":"a"}`, `{"TEXT":"a"}`, `{"notag":"a"}`, `{"teſt":"a"}`, `{"\u0074ext":"a"}`, `{"ž":1}`,
		`{"text":1}`, `{"text":"a`, `{"text":"\x"}`, `{"text":"\u12"}`, `{"text":"\u00g0"}`, `{"text":"\`, `{"text":"\ud800"}`, `{"text":"\udfff"}`, `{"text":"\ud83d\udc0e"}`,
		"{\"text\":\"\xff\"}", "{\"text\":\"\xed\xa0\x80\"}", "{\"text\":\"a\nb\"}", "{\"text\":\"a\x00b\"}",
		`{"int":1.0}`, `{"int":1e2}`, `{"int":01}`, `{"int":+1}`, `{"int":-}`, `{"int":1.}`, `{"int":"1"}`, `{"int":1000000000000000000}`, `{"int":9223372036854775808}`,
		`{"small":128}`, `{"small":-129}`, `{"byte":256}`, `{"uint":-1}`, `{"uint":-0}`, `{"float":1e400}`, `{"float32":1e39}`, `{"float":.5}`, `{"float":1e}`, `{"float":NaN}`,
		`{"bool":1}`, `{"bool":tru}`, `{"time":"yesterday"}`, `{"id":"x"}`, `{"id":1}`, `{"list":[{},]}`, `{"list":{}}`, `{"list":[{"deep":"a"}`, `{"list":[1]}`,
		`{"map":{"a":1,"a":2}}`, `{"map":[]}`, `{"map":{"a"}}`, `{"map":{"\ud800":1}}`, `{"textmethod":1}`, `{"number":"x"}`, `{"bytes":"AAE"}`, `{"iface":{}}`, `{"quoted":{"n":5}}`,
		`{"method":tru}`, `{"method":[1,2}`, `{"method":"\x"}`, `{"other":01}`, `{"other":[}`, `{"other":{1:2}}`, "{\"other\":\"\xff\"}",
		`{"any":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
	} {
		if plain(t, []byte(text), false) {
			t.Errorf("%q: is plain", text)
		}
	}
}

// TestEveryCharacter: every byte, and some escapes, at each place of a text. Texts are read eight bytes at a time.
func TestEveryCharacter(t *testing.T) {
	t.Parallel()
	parts := []string{`\"`, `\\`, `\u0041`, `\ud800`, "ž", "🐎", "\xc5"}
	for c := range 256 {
		parts = append(parts, string([]byte{byte(c)}))
	}
	for _, part := range parts {
		for at := range 20 {
			for _, length := range []int{20, 21, 27} {
				text := []byte(strings.Repeat("~", at) + part + strings.Repeat(" ", length-at))
				data := append(append([]byte(`{"text":"`), text...), `","int":1}`...)
				want := json.Valid(data) && utf8.Valid(data) && part != `\ud800`
				if got := plain(t, data, false); got != want {
					t.Errorf("%q: plain is %v, want %v", data, got, want)
				}
			}
		}
	}
}

// TestFor: which types have a decoder.
func TestFor(t *testing.T) {
	t.Parallel()
	for _, with := range []reflect.Type{
		reflect.TypeFor[every](), reflect.TypeFor[*every](), reflect.TypeFor[inner](), reflect.TypeFor[struct{}](), reflect.TypeFor[string](),
		reflect.TypeFor[[]inner](), reflect.TypeFor[map[string]string](), reflect.TypeFor[textMethod](),
	} {
		if plainjson.For(with) == nil {
			t.Errorf("%v has no decoder", with)
		}
	}
	var many []reflect.StructField
	for i := range 65 {
		many = append(many, reflect.StructField{Name: "F" + strings.Repeat("x", i), Type: reflect.TypeFor[int]()})
	}
	a := reflect.StructField{Name: "A", Type: reflect.TypeFor[int](), Tag: `json:"x"`}
	b := reflect.StructField{Name: "B", Type: reflect.TypeFor[int](), Tag: `json:"x"`}
	for _, without := range []reflect.Type{
		reflect.TypeFor[hiding](), reflect.StructOf([]reflect.StructField{a, b}), reflect.TypeFor[embedsPointer](), reflect.TypeFor[embedsTagged](), reflect.TypeFor[embedsMethod](),
		reflect.TypeFor[embedsText](), reflect.TypeFor[accent](), reflect.TypeFor[optional](), reflect.TypeFor[hasUnnamed](), reflect.TypeFor[method](),
		reflect.TypeFor[json.RawMessage](), reflect.TypeFor[json.Number](), reflect.TypeFor[any](), reflect.TypeFor[[]byte](), reflect.TypeFor[[]any](),
		reflect.TypeFor[map[int]string](), reflect.TypeFor[[2]int](), reflect.TypeFor[func()](), reflect.StructOf(many),
	} {
		if plainjson.For(without) != nil {
			t.Errorf("%v has a decoder", without)
		}
	}
	if plainjson.For(reflect.StructOf(many[:64])) == nil {
		t.Error("a struct with 64 fields has no decoder")
	}
}

// FuzzPlain: what is decoded, encoding/json decodes into the same value.
func FuzzPlain(f *testing.F) {
	for _, seed := range []string{
		`{"text":"a\u0061","int":-12,"float":1.5e3,"bool":true,"time":"2026-01-02T03:04:05Z","list":[{"deep":"x","deeper":3}],"map":{"a":1}}`,
		`{"self":{"pointer":"a","pointers":null},"any":[1,{"a":null}],"raw":{"a": 1},"method":[1, 2],"textmethod":"ž","number":1,"bytes":"AAEC"}`,
		`{"TEXT":"a","text":"b","text":"c","under-score":"d","da_sh":"e","unknown":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		plain(t, data, false)
		plain(t, data, true)
	})
}

// written draws a value as an event is likely to be.
func written(t *rapid.T) every {
	text := rapid.String()
	draw := func(t *rapid.T) inner {
		return inner{text.Draw(t, "deep"), deeper{rapid.Int16().Draw(t, "deeper")}}
	}
	v := every{
		hidden: "not written", inner: draw(t), Text: text.Draw(t, "text"), Int: rapid.Int64Range(1-1e18, 1e18-1).Draw(t, "int"), Small: rapid.Int8().Draw(t, "small"),
		Uint: rapid.Uint64Range(0, 1e18-1).Draw(t, "uint"), Byte: rapid.Byte().Draw(t, "byte"), Float: rapid.Float64().Draw(t, "float"),
		Float32: rapid.Float32().Draw(t, "float32"), Bool: rapid.Bool().Draw(t, "bool"), Named: named(text.Draw(t, "named")),
		Time: time.Unix(rapid.Int64Range(0, 1e10).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "nanoseconds")).UTC(),
		List: rapid.SliceOf(rapid.Custom(draw)).Draw(t, "list"), Lists: rapid.SliceOf(rapid.SliceOf(text)).Draw(t, "lists"),
		Map: rapid.MapOf(text, rapid.Int32()).Draw(t, "map"), Pointer: rapid.Ptr(text, true).Draw(t, "pointer"), Number: "0",
		Any: rapid.Float64().Draw(t, "any"), Bytes: rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"),
	}
	copy(v.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	return v
}

// TestWritten: what json.Marshal writes of a usual value is plain.
func TestWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		data, err := json.Marshal(written(t))
		if err != nil {
			t.Fatal(err)
		}
		if !plain(t, data, true) {
			t.Fatalf("%s is not plain", data)
		}
	})
}

// document draws a text that is JSON, or nearly.
func document(t *rapid.T, depth int) string {
	scalar := []string{
		`null`, `true`, `false`, `0`, `-0`, `1`, `-5`, `127`, `128`, `300`, `1.5`, `1e3`, `-0.0`, `1e400`, `999999999999999999`, `9223372036854775807`, `18446744073709551615`, `01`, `-`,
		`""`, `"a"`, `"ž"`, `"\n\u0061"`, `"\ud83d\udc0e"`, `"\ud800"`, `"\x"`, "\"\xff\"", `"2026-01-02T03:04:05Z"`, `"01890a5d-ac96-774b-bcce-b302099a8057"`, `"AAEC"`, `"5"`, ``, `x`, ` 1 `,
	}
	kind := rapid.IntRange(0, 3).Draw(t, "kind")
	if depth == 0 {
		kind = 0
	}
	var parts []string
	switch kind {
	case 1:
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			parts = append(parts, document(t, depth-1))
		}
		return `[` + strings.Join(parts, `,`) + `]`
	case 2, 3:
		return object(t, depth)
	}
	return rapid.SampledFrom(scalar).Draw(t, "scalar")
}

var names = []string{"deep", "deeper", "Deep", "other", `\u0064eep`, "A", "a", "n", "NOTAG", "under-score", "da_sh", "ž", "Ж", "ſmall", "inner", "-", "Skipped", "hidden", ""}

func init() {
	for i := range reflect.TypeFor[every]().NumField() {
		f := reflect.TypeFor[every]().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name, f.Name)
	}
}

func object(t *rapid.T, depth int) string {
	var parts []string
	for range rapid.IntRange(0, 4).Draw(t, "members") {
		parts = append(parts, `"`+rapid.SampledFrom(names).Draw(t, "name")+`":`+document(t, depth-1))
	}
	return `{` + strings.Join(parts, rapid.SampledFrom([]string{`,`, ` , `}).Draw(t, "comma")) + `}`
}

// TestDocuments is FuzzPlain with texts that are nearly right.
func TestDocuments(t *testing.T) {
	t.Parallel()
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		text := object(t, 4)
		if plain(t, []byte(text), false) {
			found++
		}
		plain(t, []byte(text), true)
	})
	if found == 0 {
		t.Error("no text was plain")
	}
}
