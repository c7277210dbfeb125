// Package tidemarktest gives a test a migrated database of its own, with a store, in one line:
//
//	func TestDeposit(t *testing.T) {
//		t.Parallel()
//		env := tidemarktest.New(t, nil)
//		runner := env.Run(balances)
//		…
//	}
//
// The Postgres behind it is the one that TEST_DATABASE_URL names, one that is installed, one in Docker, or one that is
// downloaded once (package localpg). With [Config.Image] it is a container that testcontainers-go runs. All tests of a
// process share the server. Each has a database of its own: a copy of a migrated one, made in some milliseconds.
//
// # Guarantees
//
//   - Tests that run in parallel do not see each other.
//   - At the end of the test the runner is stopped, the store and the pool are closed and the database is dropped. A
//     runner that has ended with an error fails the test.
//   - However the process ends, the server that was started for it ends too. The reaper of testcontainers removes a
//     container of [Config.Image], if the reaper is enabled.
//   - No test is skipped: a test for which there is no Postgres fails, and its error says what to provide.
package tidemarktest
