// Package codectest tests that events of earlier releases keep their meaning.
//
// # Guarantees
//
//   - [Golden] never changes the payload in a file: a stored event does not change either.
//   - A type or schema that the codec reads and that has no file fails the test.
package codectest
