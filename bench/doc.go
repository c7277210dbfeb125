// Command bench measures Tidemark against what Postgres itself can do.
//
//	go run .                                  # everything, some minutes
//	go run . -only append -seconds 1          # one section, which the report then consists of
//	go run . -short -out /tmp                 # quick: does it work?
//
// It starts a Postgres (or takes the one that DATABASE_URL names), prints a table per section as it
// goes, and in the end writes RESULTS.md and the plots append.svg, growth.svg and load.svg into the
// folder that -out names.
//
// Figures of one machine swing by a factor of two from run to run. What counts is the ratio to the
// reference, which is measured in turns with it on the same Postgres.
//
//   - append: the events per second of Store.Append, singly and in batches of 10, each writer on a
//     stream of its own, and with all writers on one hot stream. The reference is as many writers
//     that INSERT one row per transaction into a table of the same shape, each on a stream of its
//     own. Both use the same pool of 16 connections.
//   - read: the events per second of Store.ReadAll, as stored and decoded, and of loading aggregates
//     of 1,000 events, against COPY of the log to /dev/null on the server.
//   - growth: how appending, loading, reading the tail and the size of the indexes change while the
//     log grows. The reference of appending is INSERT into a table that is kept small.
//   - latency: from the return of Store.Append to a follower in another process, at 1,000 events a
//     second.
//   - bystanders: how long appends take while somebody else's open transaction holds up appends to
//     another stream, against the same without it.
//   - snapshots: how long loading an aggregate takes, with and without snapshots, while it grows from 100
//     events to a million; and the updates per second of a repository with snapshots against one without,
//     and with a cache against one without.
//   - projections: how fast projections catch up with the log, against COPY of it, in several partitions and
//     several together; how they keep up with writers; and how long after an append its event is in
//     the read model.
//
// # Guarantees
//
//   - The server is durable: the command refuses one without fsync, synchronous_commit or
//     full_page_writes.
//   - Every measurement is of work that was done: rows are counted, and one that is missing is an
//     error.
//   - No target decides how it ends: machines are too noisy. They are in the report.
//   - It leaves nothing behind in the database.
package main
