// Package snapshot saves the state of aggregates, so that loading one costs the same after a million
// events as after a hundred.
//
// A [Snapshot] is opaque state of one stream at one version. Events stay the truth: a snapshot can be
// lost, refused or deleted at any time, which costs time and nothing else. [Postgres] and [Memory] are
// two implementations of [Store], and package snapshottest has the suite they pass.
//
// A [Snapshotter] puts a [Policy] and a queue before a store. Give one to the repositories of package
// aggregate:
//
//	store, err := snapshot.NewPostgres(pool, nil)
//	…
//	snapshots, err := snapshot.NewSnapshotter(store, nil) // every 100 events
//	…
//	defer snapshots.Close()
//	repository, err := aggregate.NewRepository(events, accounts, &aggregate.Config{Snapshots: snapshots})
//
// # Guarantees
//
//   - A snapshot of another schema version, of another shape of the state, or of another aggregate is never
//     decoded. It is passed over and replaced; two releases that run side by side have one each.
//   - A snapshot is only used if the event it was taken after is in the stream, by its id. One that is
//     ahead of its stream, as after a restored backup, or that does not decode, is logged, counted and
//     deleted, and the aggregate is folded from an older one or from its events.
//   - A snapshot is only written if none of its kind is there that is as new.
//   - Saving happens after the append and off the caller's path, unless Config.Sync says otherwise. The
//     queue is bounded: it drops, and never blocks. Several snapshots of one stream in it are one.
//   - A snapshot that fails, in encoding or in saving, is logged and counted, and fails nothing else.
//   - [Snapshotter.Close] returns when what was in the queue is saved.
//
// Everything here is safe for concurrent use, by any number of processes.
package snapshot
