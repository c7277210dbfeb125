// Package catalog is the projection tables of one schema as typed functions: the only place with their SQL.
//
//   - versions.go: the table projections, one row per version of a read model
//   - partitions.go: the table projection_partitions, with checkpoints and fencing tokens
//   - leases.go: who runs which partition
//   - letters.go: the table dead_letters
//   - inline.go: projections that appends keep
//   - effects.go: the table inbox, and batches under way
//   - status.go: what operators look at, and the audit
//
// # Guarantees
//
//   - A function executes one statement, or one round trip of several, and keeps nothing.
//   - Errors are those of Postgres, without a text of ours: the caller knows what it was doing.
//   - A statement that changes what the owner of a partition remembers raises the fencing token, or is executed
//     after [Catalog.Fence] in the same transaction; the comment of the function says which.
package catalog
