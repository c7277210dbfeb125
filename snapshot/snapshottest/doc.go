// Package snapshottest tests stores of snapshots.
//
// [Run] is the suite of tests that every [snapshot.Store] passes, the one in Postgres and the one in
// memory alike.
//
// # Guarantees
//
//   - Run needs a fresh, empty store for each test, of one or several retentions, and runs its tests in
//     parallel.
//   - It uses the methods of [snapshot.Store] alone, and goes by what its documentation says.
//   - Data that is nil and data that is empty are the same to it. Times are compared to the microsecond,
//     and must come back in UTC.
package snapshottest
