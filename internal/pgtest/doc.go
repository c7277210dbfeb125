// Package pgtest gives each test a Postgres database of its own.
//
// A package that uses it hands its TestMain over to [Main]:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// The server is the one that TEST_DATABASE_URL names, or else whatever package
// localpg finds, and it is started when the first test asks for a database. It
// is never skipped: a test that gets no database fails and says what to provide.
//
// A test that stops, kills, promotes or restores servers has its own: [NewNode] starts one, [Node.Standby] adds
// streaming standbys, and a [Gate] in front of each keeps the address and can drop packets in silence.
//
// # Guarantees
//
//   - No two tests share a database, so all of them may run in parallel.
//   - A fresh database costs a copy of a template, which is migrated once per
//     test binary.
//   - A database is dropped when its test ends, connected clients or not. Those
//     of a test binary that was killed are dropped by the next one that uses the
//     same server; those of one that still runs never are.
//   - After [Main] no server, folder or goroutine is left, however the tests end.
package pgtest
