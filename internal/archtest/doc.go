// Package archtest checks how the packages of the module hang together: who may import whom,
// which modules of others they may need, and that all of it is documented.
//
// # Guarantees
//
//   - Its tests fail when a package, or anything it depends on, breaks a rule; and each rule has a
//     test of its own that breaks it.
//   - A package that no rule names fails too: adding one means saying what it may import.
package archtest
