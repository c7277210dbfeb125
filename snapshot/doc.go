// Package snapshot saves the state of aggregates, so that loading an aggregate costs the same after a million events as
// after a hundred.
//
// A [Snapshot] is the opaque state of one stream at one version. The events stay the truth. A snapshot can be lost,
// refused or deleted at any time: that costs time and nothing else. [Postgres] and [Memory] implement [Store]. Package
// snapshottest has the suite of tests that both pass.
//
// A [Snapshotter] adds a [Policy] and a queue to a store. Give the snapshotter to the repositories of package
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
//   - A snapshot of another schema version, of another shape of the state, or of another aggregate is never decoded.
//     Loading ignores it, and later snapshots replace it. Two releases that run side by side have snapshots of their
//     own.
//   - A snapshot is used only if the event that it was taken after is in the stream. Loading compares the id of that
//     event. A snapshot that is ahead of its stream, as after a restored backup, or that does not decode, is logged,
//     counted and deleted. The aggregate is then folded from an older snapshot or from its first event.
//   - A snapshot is written only if the store has no snapshot of its kind at the same or a later version.
//   - Saving happens after the append, and the caller does not wait for it unless Config.Sync is set. The queue is
//     bounded. A full queue drops new snapshots and never blocks. It holds at most one snapshot per stream.
//   - A snapshot that cannot be encoded or saved is logged and counted. Nothing else fails because of it.
//   - [Snapshotter.Close] returns after the snapshots in the queue were saved or have failed.
//
// Everything here is safe for concurrent use, by any number of processes.
package snapshot
