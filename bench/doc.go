// Package bench measures Tidemark against what Postgres itself can do.
//
//	go test -run '^$' -bench . -benchtime 3s
//	go test -short -bench . -benchtime 1x # quick: does it work?
//
// Figures of one machine swing by a factor of two from run to run. What counts is the ratio to
// the reference, which is measured in turns with it on the same Postgres: it is reported as
// x-insert or x-copy.
//
//   - Append: the events per second of Store.Append, each writer on a stream of its own, against
//     as many writers that INSERT one row per transaction into a table of the same shape, over
//     the same pool.
//   - Read: the events per second of Store.ReadAll, as stored and decoded, against COPY of the
//     same rows to /dev/null on the server.
//
// # Guarantees
//
//   - The server is durable: fsync and synchronous_commit are on.
//   - Every measurement is of work that was done: the tests count the rows.
package bench
