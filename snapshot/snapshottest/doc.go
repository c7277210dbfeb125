// Package snapshottest tests stores of snapshots.
//
// [Run] is the suite of tests that every [snapshot.Store] passes, the one in Postgres and the one in
// memory alike.
//
// # Guarantees
//
//   - Run needs a fresh, empty store for each test, or several stores for a test of several retentions. It runs its
//     tests in parallel.
//   - Run uses only the methods of [snapshot.Store], and expects only what their documentation says.
//   - Nil data and empty data are equal. Times are compared to the microsecond, and a store must return them in UTC.
package snapshottest
