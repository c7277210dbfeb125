// Package eventstore keeps events in Postgres: streams with optimistic versioning, and one log
// over all of them in which no reader ever misses an event.
//
// A stream is the history of one thing, such as "account-42". Its events are numbered 1, 2, 3 …
// by [Version]. All events of all streams together form the log, ordered by [Position].
//
// [Store.Append] and [Store.Commit] write, [Store.Read] reads one stream, [Store.ReadAll] reads
// the log to its present end and [Store.Follow] goes on from there. Payloads are JSON that the store does
// not look into: package codec turns the events of a domain into [Draft] values and back.
//
// # Guarantees
//
//   - No event is skipped. A reader that has seen position P never later finds an event at or
//     below P, whatever transactions were open, rolled back or killed meanwhile. Readers stop at
//     the [Store.Tidemark], the last position with no open append before it.
//   - Writers do not wait for each other unless they append to the same stream, and a
//     transaction that has nothing to do with the store never holds a reader back.
//   - Within a stream, a higher version has a higher position. Nothing is stored at or below the end of
//     the log, whatever the sequence of positions says.
//   - Concurrent appends share round trips and transactions, yet none touches the outcome of another:
//     not by a conflict, an event that is refused, a context that is done or a stream that another
//     open transaction holds.
//   - An append stores all its events or none. When it has returned without an error they are as
//     durable as Postgres makes a commit.
//   - Under an idempotency key one commit is stored, however often the request is repeated. A second
//     commit under the key in one attempt is a [KeySpentError], never an answer meant for the first one.
//   - A follower is told of appends by notifications that are sent after the commit, and finds out by
//     polling when one is lost. It survives a restart of Postgres, and holds no connection while the
//     loop body runs; one connection per Store listens, outside the pool, while there are followers.
//   - A dead connection costs seconds, whatever the pool is like: what is not answered returns
//     [ErrNoAnswer] or [ErrUnknownOutcome]. A read is cut when no row has come for ten seconds, not when it takes long.
//   - What a commit, a page, a list and a filter may hold is bounded, and checked before anything is sent.
//   - Nothing is read that may be incomplete: the statement that reads proves that it sees what was
//     committed, and returns an [UnprovenError] on a standby, without rights, under row level security or on
//     an older snapshot.
//   - A log that went back, after a failover that lost events or a restore, is noticed by those who have read
//     it: a follower gets a [DivergedError], and what was decided on an event that is gone is a
//     [ConflictError], see [Change].
//   - Events are never changed: the table refuses UPDATE, DELETE and TRUNCATE.
//   - Iterators give an error as their last pair, with no event; break is always safe, and no
//     connection is held while the loop body runs, except while one page ahead is fetched.
//
// A [Store] is safe for use by many goroutines. One bound to a transaction by [Store.WithTx] is
// as safe as the transaction: one goroutine at a time.
package eventstore
