// Package rowset keeps rows of a table in memory while changes are folded into them, and writes the rows that have
// changed. It knows tables, columns and keys, and no events.
//
// A [Table] is made from a Go type, and asks Postgres about its columns. [Rows] are the rows of a table that one owner
// has loaded. While the owner holds them, no other process or goroutine may write rows with their keys.
//
// # Guarantees
//
//   - A change sees its row as the database would return it, whether the row was kept or loaded.
//   - A row that cannot be read or written is a [ValueError] of its key, and delays no other row. A table that can
//     never hold the rows is a [ShapeError].
//
// Rows may be used by one goroutine at a time, a Table by any number of goroutines.
package rowset
