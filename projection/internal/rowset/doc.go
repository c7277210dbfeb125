// Package rowset keeps rows of a table in memory while something is folded into them, and writes those that have changed.
// It knows tables, columns and keys, and no events.
//
// A [Table] is made of a Go type, and asks Postgres what its columns are. [Rows] are those of its rows that one owner
// has loaded: nobody else may write rows of their keys.
//
// # Guarantees
//
//   - What a change sees in its row is what the database would give back for it, whether the row was kept or loaded.
//   - A row that cannot be read or written is a [ValueError] of its key, and no other row is held up. A table that can
//     never hold the rows is a [ShapeError].
//
// Rows are for one goroutine at a time, a Table is for any number of them.
package rowset
