// Package compat checks that goose and tern run the files of package migrations as they are.
//
// It is a module of its own, so that neither tool is a dependency of Tidemark.
//
// # Guarantees
//
//   - Both tools make the same tables, constraints, indexes, functions and triggers as migrations.Up, and a store works
//     on them.
//   - Both tools can take back everything that they made.
package compat
