// Package tidemarktest gives a test a migrated database of its own, with a store, in one line:
//
//	func TestDeposit(t *testing.T) {
//		t.Parallel()
//		env := tidemarktest.New(t, nil)
//		runner := env.Run(balances)
//		…
//	}
//
// The Postgres behind it is the one that TEST_DATABASE_URL names, one that is installed, one in Docker, or one that
// is downloaded once (package localpg); with [Config.Image] it is a container that testcontainers-go runs. All tests
// of a process share the server; each has a database, which is a copy of a migrated one and takes some milliseconds.
//
// # Guarantees
//
//   - Tests that run in parallel do not see each other.
//   - At the end of the test the runner is stopped, the store and the pool are closed and the database is dropped.
//     A runner that has ended by itself fails the test.
//   - When the process ends, however it does, the server that was started for it ends too. A container of
//     [Config.Image] ends with the reaper of testcontainers, if that is enabled.
//   - Nothing is skipped: a test for which there is no Postgres fails, and says what to provide.
package tidemarktest
