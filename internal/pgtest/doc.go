// Package pgtest gives each test a Postgres database of its own.
//
// A package that uses it calls [Main] in its TestMain:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// The server is the one that TEST_DATABASE_URL names, or else the one that package localpg finds. It is started when
// the first test asks for a database. A test that gets no database is not skipped: it fails and says what to provide.
//
// A test that stops, kills, promotes or restores servers has its own: [NewNode] starts one, and [Node.Standby] adds
// streaming standbys. A [Gate] in front of each server keeps its address and can drop packets in silence.
//
// # Guarantees
//
//   - No two tests share a database, so all of them may run in parallel.
//   - A fresh database is a copy of a template. The template is migrated once per test binary.
//   - A database is dropped when its test ends, connected clients or not. The databases of a test binary that was
//     killed are dropped by the next test binary that uses the same server. Those of a test binary that still runs are
//     never dropped.
//   - After [Main] no server, folder or goroutine is left, however the tests end.
package pgtest
