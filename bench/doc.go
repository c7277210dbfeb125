// Command bench measures Tidemark against what Postgres itself can do.
//
//	go run .                                  # everything, some minutes
//	go run . -only append -seconds 1          # one section; the report then has only this one
//	go run . -short -out /tmp                 # quick: does it work?
//	go run . -busy 2                          # while two other processes keep processors busy
//	make bench/growth                         # in the folder above: a log of 20 million events
//
// It starts a Postgres, or uses the one that DATABASE_URL names, and prints each result at once. It writes
// RESULTS.md and the plots append.svg, growth.svg, storage.svg, rebuild.svg and load.svg into the folder that -out names.
//
// The rates of one machine differ by a factor of two from run to run. Compare the ratios to the
// reference: the reference is measured on the same Postgres, in alternate turns with Tidemark.
//
// Beside the rates stands the processor time per event: that of this process by getrusage, and that of the
// postmaster with all its children by /proc. The time of the server includes what it does in the background. It
// is unknown if the server runs on another machine, in a container, or not on Linux; the report then shows "–".
//
//   - append: the events per second of Store.Append: single events and batches of 10 with one stream per
//     writer, and single events with all writers on one hot stream. The reference is the same number of
//     writers that INSERT one row per transaction into a table of the same shape, with one stream per
//     writer. Both use the same pool of 16 connections.
//   - peers: one event, job or message per call, stored by Store.Append, by riverqueue/river and by
//     watermill-sql. The reference is INSERT, as in append.
//   - read: the events per second of Store.ReadAll, without and with decoding, and of loading aggregates
//     of 1,000 events. The reference is COPY of the log to /dev/null on the server.
//   - growth: how appending, loading, reading the tail, the size of each index and the time of a VACUUM
//     change while the log grows. The reference for appending is INSERT into a table that is kept small.
//   - rebuild: how fast a projection with a table catches up with a log that grows.
//   - latency: the time from the return of Store.Append until a follower has the event, at 1,000 events
//     per second. The follower has a store and connections of its own, like one in another process.
//   - bystanders: how long appends take while an open transaction holds up appends to another stream,
//     compared with appends without such a transaction.
//   - correlation: appends with correlation ids against appends without, and how long it takes to find an
//     event by its id.
//   - snapshots: how long it takes to load an aggregate of 100 to a million events, with and without
//     snapshots. Also the updates per second of a repository with snapshots against one without, and with
//     a cache against one without.
//   - projections: how fast projections catch up with the log, compared with COPY of the log: one projection
//     in one or several partitions, and ten projections together. Also how they keep up with writers, and
//     how long after an append its event is in the read model.
//
// # Guarantees
//
//   - The server is durable: the command refuses a server without fsync, synchronous_commit or
//     full_page_writes.
//   - Only completed work is measured: the rows are counted, and a missing row is an error.
//   - A missed target is shown in the report, and does not change the exit status: machines are too noisy.
//   - The command leaves nothing behind in the database.
package main
