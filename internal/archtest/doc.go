// Package archtest checks the structure of the module: which packages a package may import, which modules of others it
// may need, and that every exported name is documented.
//
// # Guarantees
//
//   - Its tests fail when a package, or one of its dependencies, breaks a rule. Each rule has a test of its own that
//     breaks it.
//   - A package that no rule names fails too. To add a package, say in a rule what it may import.
package archtest
