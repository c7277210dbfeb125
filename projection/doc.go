// Package projection builds read models from the log, and calls side effects for its events.
//
// A [Projection] has a name, a version, codecs, and either handlers that write what an event means
// into tables of the same database ([New]), a fold of the events of a key into a row ([NewTable]), or
// effects elsewhere ([NewSubscription]). A [Runner] runs any number of them, beside other processes that run the
// same ones: it reads the log once for all of them, handles the events in batches, and keeps a
// checkpoint for each partition in the table projection_partitions.
//
// The names form three groups. Declare: [New], [NewTable], [NewSubscription], [NewInline], their [Options], the sources
// [On], [OnKeyed], [OnBatch], [Fold], [FoldKeys], [Effect], [EffectAll] and [EffectBatch], and what handlers call, [Once],
// [Transient] and [Fatal]. Run: [NewRunner] with its [Config], [Runner.Run], [Runner.Wait], [Runner.Subscribe]. Operate:
// [Operator] and [RunnerOperator], which name a projection by a [Ref], [Status], [DeadLetter] and [AuditEntry].
//
// # Guarantees
//
//   - Exactly once: a batch's writes and its checkpoint commit in one transaction. After a crash
//     a partition goes on behind the last event whose effects are in the read model.
//   - Fencing: the same transaction fails unless the fencing token is the one that the partition's
//     owner got with its lease. A process that was stalled, and wakes up behind its successor,
//     changes nothing. Operators use the same token: what is under way when they change something
//     is done again after it.
//   - A partition sees the events of its keys in the order of positions; a projection with one
//     partition sees all. Checkpoints advance over events of other types.
//   - Partitions are spread evenly over the processes that run the projection. When a process ends,
//     others take over at once; when it dies, too if they run on the same machine, and else when its leases expire.
//   - One bad event stops one key: the event becomes a dead letter, and what follows of its key waits
//     in order behind it. Everything else goes on. No event is passed over. This holds for reading, folding and
//     writing rows too. When many keys fail alike, one after another, the projection stops instead.
//   - What a fold sees in its row is what the database gives back for it, whether the row was kept in memory or
//     loaded: a process that was restarted, and a rebuild, come to the same.
//   - A new version of a read model is built beside the one that readers see, and takes its place in
//     one transaction, when nothing that readers have seen is missing from it. An effect guarded by
//     [Once] happens once, whichever versions handle its event.
//   - A projection that fails or falls behind does not hold up the others.
//
// A Runner's methods may be called from any goroutine. The handlers of a partition are called from
// one goroutine at a time, unless one does not return when its context is done.
package projection
