// Package projection builds read models from the log, and calls side effects for its events.
//
// A [Projection] has a name, a version, codecs, and one of three kinds of sources. Handlers write what an event means
// into tables of the same database ([New]). A fold changes one row per key ([NewTable]). Effects happen elsewhere
// ([NewSubscription]). A [Runner] runs any number of projections, beside other processes that run the same projections.
// It reads the log once for all of them, handles the events in batches, and keeps a checkpoint for each partition in
// the table projection_partitions.
//
// The names form three groups. Declare: [New], [NewTable], [NewSubscription], [NewInline], their [Options], the sources
// [On], [OnKeyed], [OnWrite], [OnBatch], [Fold], [FoldKeys], [Effect], [EffectAll] and [EffectBatch], and the functions for
// handlers [Once], [Transient] and [Fatal]. Run: [NewRunner] with its [Config], [Runner.Run], [Runner.Wait],
// [Runner.Subscribe]. Operate: [Operator] and [RunnerOperator], which name a projection by a [Ref], [Status],
// [DeadLetter] and [AuditEntry].
//
// # Guarantees
//
//   - Exactly once: a batch's writes and its checkpoint commit in one transaction. After a crash a partition continues
//     after the last event whose writes are in the read model.
//   - Fencing: the same transaction fails unless the fencing token is the one that the partition's owner got with its
//     lease. A stalled process that wakes up after its lease went to another process changes nothing. Operators use the
//     same token: a batch that is under way when they change something fails, and is done again after the change.
//   - A partition sees the events of its keys in the order of positions. A projection with one partition sees all
//     events in that order. Checkpoints advance over events of other types.
//   - Partitions are spread evenly over the processes that run the projection. When a process ends, others take over
//     its partitions at once. When a process dies, others on the same machine take over at once, and others elsewhere
//     when its leases expire.
//   - One bad event stops one key: the event becomes a dead letter, and the later events of its key wait in order
//     behind it. All other keys continue. No event is passed over. This also holds for errors of reading, folding and
//     writing rows. When events of many keys fail one after another for the same reason, the projection stops instead.
//   - A fold sees the row as the database returns it, whether the row was kept in memory or loaded. A restarted process
//     and a rebuild therefore reach the same result.
//   - A new version of a read model is built beside the live version. It becomes the live version in one transaction,
//     once nothing that readers have seen is missing from it. An effect guarded by [Once] happens once, whichever
//     versions handle its event.
//   - A projection that fails or falls behind does not delay the others.
//
// A Runner's methods may be called from any goroutine. The handlers of a partition are called from one goroutine at a
// time. The exception is a handler that does not return when its context is done: the next call may begin while that
// handler still runs.
package projection
