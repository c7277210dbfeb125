// Package plainjson decodes JSON that is written in the plain way. It needs a quarter of the time of encoding/json, and the
// result is the same.
//
// Almost every stored payload is plain: a release of the same program has written it with json.Marshal. So a [Decoder]
// knows only that part of JSON, and of Go's types, for which the result is beyond doubt. Every other text is not plain, and
// encoding/json decodes it. Therefore every rarity has the value, or the error, that encoding/json gives it.
//
// A text is not plain if
//
//   - encoding/json refuses the text, or it has more than 64 levels;
//   - a field or a key of a map is there twice, or a name has an escape, is not ASCII, or is that of a field in another case;
//   - an integer has more than 18 digits;
//   - a string has invalid UTF-8, or an escape that is half of a surrogate pair.
//
// A type has no decoder if the type decodes itself, is an interface, an array or bytes, or is a struct that has
//
//   - a tag with an option other than omitempty and omitzero;
//   - a name that is not ASCII, or more than 64 fields;
//   - an embedded field that is a pointer, has a tag, or hides another field.
//
// A field of a type without a decoder is decoded by its own method, or by encoding/json. The fields beside it are decoded
// here.
//
// # Guarantees
//
//   - Unmarshal gives the value and the error of encoding/json. Fuzz tests compare the two.
//   - There is no unsafe code, and no state between two calls. Strings are copies of the text.
//   - A decoder is safe for concurrent use.
package plainjson
