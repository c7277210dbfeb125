// Package projection builds read models from the log.
//
// A [Projection] has a name, a codec and a handler that writes what an event means into tables
// of the same database. A [Runner] runs one or more of them: it reads the log, calls the
// handlers in batches, and keeps a checkpoint for each in the table projections.
//
// # Guarantees
//
//   - Exactly once: a batch's writes and its checkpoint commit in one transaction. After a crash
//     the projection goes on behind the last event whose effects are in the read model.
//   - A projection sees the events of its codec's types in the order of positions. Its
//     checkpoint advances over all others.
//   - Two processes that run the same projection do each batch once: they take turns at the
//     checkpoint's row, and whoever finds that it has moved discards its own attempt.
//   - Projections of one runner share what they read of the log, as long as they are about
//     equally far. One that fails or falls behind does not hold up the others.
//   - A handler that fails or panics is called again with the same batch after a pause, for as
//     long as the runner runs: no event is passed over. [Runner.Status] tells the error.
//
// A Runner's methods may be called from any goroutine. A handler is called from one goroutine at
// a time.
package projection
