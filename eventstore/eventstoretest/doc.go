// Package eventstoretest helps to test code that uses an event store, and to test event stores.
//
// [NewMemory] is an event store in memory, for unit tests that need no Postgres. [Run] is the suite of tests that
// every event store must pass. Both the store in Postgres and the store in memory pass it.
//
// # Guarantees
//
//   - Memory keeps all promises of package eventstore except durability.
//   - Run needs a fresh, empty store for each test and runs its tests in parallel.
package eventstoretest
