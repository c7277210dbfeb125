// Package compat checks that goose and tern run the files of package migrations as they are.
//
// It is a module of its own, so that neither tool is a dependency of Tidemark.
//
// # Guarantees
//
//   - Both tools leave the same tables, constraints, indexes, functions and triggers behind as
//     migrations.Up does, and a store works on them.
//   - Both take back all of it.
package compat
