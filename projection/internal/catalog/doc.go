// Package catalog gives typed functions for the projection tables of one schema. All SQL of these tables is here.
//
//   - versions.go: the table projections, one row per version of a read model
//   - partitions.go: the table projection_partitions, with checkpoints and fencing tokens
//   - leases.go: which process runs which partition
//   - letters.go: the table dead_letters
//   - inline.go: projections that appends keep
//   - effects.go: the table inbox, and batches under way
//   - status.go: the status for operators, and the audit
//
// # Guarantees
//
//   - A function executes one statement, or one round trip of several statements, and keeps no state.
//   - Errors are those of Postgres, without a text of this package, because the caller knows what it was doing.
//   - A statement that changes a value that a partition's owner remembers raises the fencing token itself, or is executed
//     after [Catalog.Fence] in the same transaction. The comment of the function says which.
package catalog
