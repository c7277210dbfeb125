// Package codec turns the events of a domain into the payloads that an event store keeps, and back.
//
// A [Codec] is a value that the application makes once, from the types of its events. [Of] gives a Go type a stored
// name. [Upcast], [UpcastJSON], [Split], [Renamed] and [Retired] say what became of events that earlier releases have
// written. Stored events never change, so the codec reads every shape that was ever written.
//
//	var Codec = codec.New(
//		codec.Of("account.opened", func(e Opened) Event { return e }),
//		codec.Of("account.deposited", func(e Deposited) Event { return e }),
//	)
//
// Payloads are JSON. They are written with encoding/json, and read by its rules. A payload that is written the usual way is
// read several times as fast as by encoding/json. [Codec.WithJSON] takes another library.
//
// Package codectest keeps a sample of every shape in the repository of the application, and fails when a
// sample no longer decodes, or decodes into something else.
//
// # Guarantees
//
//   - A codec is immutable and safe for concurrent use.
//   - Stored names are the strings that the application gives, never names of Go types.
//   - A codec is complete when New returns it: every upcaster and every new name leads to a registered type.
//   - By default a payload decodes into the value, or the error, of json.Unmarshal. Fuzz tests compare the two.
//   - No payload makes Decode panic, unless an upcaster, a method of a field, or the application's JSON panics. A payload
//     that does not decode is a [DecodeError] with the position and stream of its event. A type that is not registered is
//     an [UnknownTypeError].
//   - A decoded event keeps the id, stored type, schema, version, position, time and metadata of the stored one.
package codec
