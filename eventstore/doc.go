// Package eventstore keeps events in Postgres: streams with optimistic versioning, and one log of all their events.
// No reader of the log ever misses an event.
//
// A stream is the history of one thing, such as "account-42". Its events are numbered 1, 2, 3 … by [Version]. All
// events of all streams together form the log, ordered by [Position].
//
// [Store.Append] and [Store.Commit] write events. [Store.Read] reads one stream. [Store.ReadAll] reads the log to its
// present end. [Store.Follow] also waits for later events. Payloads are JSON, and the store does not interpret them:
// package codec turns the events of a domain into [Draft] values and back.
//
// # Guarantees
//
//   - No event is skipped. A reader that has seen position P never later finds an event at or below P, whatever
//     transactions were open, rolled back or killed in between. Readers stop at the [Store.Tidemark], the last
//     position with no open append before it.
//   - Writers wait for each other only if they append to the same stream, use the same idempotency key, or change the
//     same rows through Config.Inline. A transaction that does not use the store never holds a reader back.
//   - Within a stream, a higher version has a higher position. No event is stored at or below the end of the log,
//     even if the sequence of positions is behind it.
//   - Concurrent appends share round trips and transactions, but no append changes the outcome of another. A
//     conflict, a refused event, a context that is done, and a stream that another open transaction holds concern
//     only their own append.
//   - An append stores all its events or none. When it has returned without an error, they are as durable as Postgres
//     makes a commit.
//   - Under an idempotency key one commit is stored, however often the request is repeated. A second commit under the
//     key in one attempt is a [KeySpentError]. It never gets the receipts of the first one.
//   - A notification, sent after the commit, tells a follower of appends. If a notification is lost, the follower
//     finds the events by polling. A follower survives a restart of Postgres. While there are followers, one
//     connection per Store listens, outside the pool.
//   - A dead connection costs seconds, whatever the configuration of the pool. A statement without an answer returns
//     [ErrNoAnswer] or [ErrUnknownOutcome]. A read is cut when no row has come for ten seconds (a minute for
//     information about streams). A read that takes longer, but keeps returning rows, is not cut.
//   - The size of a commit, a page, a list and a filter is bounded. The store checks the bounds before it sends
//     anything.
//   - No read returns a result that may be incomplete. The statement that reads proves that it sees everything that
//     was committed. It returns an [UnprovenError] on a standby, without rights, under row level security, and on an
//     older snapshot. Config.Stale allows reads of streams on a standby.
//   - A reader notices when the log goes back, after a failover that lost events or after a restore. A follower gets
//     a [DivergedError]. An append that was decided on an event that is gone gets a [ConflictError], see [Change].
//   - Events are never changed: the table refuses UPDATE, DELETE and TRUNCATE.
//   - Iterators give an error as their last pair, with no event. A loop can always be left with break. No connection
//     is held while the loop body runs, except while one page ahead is fetched. This holds for followers too.
//
// A [Store] is safe for use by many goroutines. A store that [Store.WithTx] has bound to a transaction is only as
// safe as the transaction: one goroutine at a time.
package eventstore
