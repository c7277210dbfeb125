// Package plainjson decodes JSON that is written in the plain way. It does so in a fraction of the time of encoding/json,
// and with the same result.
//
// Almost every stored payload is plain: an earlier release of the same program has written it with json.Marshal. So a
// [Decoder] knows only that part of JSON, and of Go's types, for which the result is beyond doubt. It answers for no other
// text: it reports that the text is not plain, and the caller then decodes it with encoding/json. Therefore every
// rarity has the meaning and the error that encoding/json gives it.
//
// These are not plain: every text that encoding/json refuses; a name that is there twice, is written with an escape or
// beyond ASCII, or differs from a field's name only by case; an integer of more than 18 digits or with a fraction;
// half a surrogate pair, and every other escape above \ud7ff; invalid UTF-8; more than 64 levels.
//
// A type has no decoder if it decodes itself, is an interface, or is a struct with a tag option other than omitempty and
// omitzero, with a name beyond ASCII, with more than 64 fields, or with an embedded field that is a pointer, has a tag, or
// hides another field. A field of a type without a decoder is decoded by its own method or by encoding/json, and the
// fields beside it are decoded here.
//
// # Guarantees
//
//   - Decode reports true only if encoding/json decodes the same text into the same value without an error. Fuzz tests
//     compare the two.
//   - There is no unsafe code, and no state between two calls. Strings are copies of the text.
//   - A decoder is safe for concurrent use.
package plainjson
