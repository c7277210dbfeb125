// Package eventstoretest helps to test code that uses an event store, and event stores.
//
// [NewMemory] is an event store in memory, for unit tests that need no Postgres. [Run] is the
// suite of tests that every event store passes, the one in Postgres and the one in memory alike.
//
// # Guarantees
//
//   - Memory keeps all promises of package eventstore but durability.
//   - Run needs a fresh, empty store for each test and runs its tests in parallel.
package eventstoretest
