// Package tidemark is the overview of an event-sourcing framework on Postgres. It holds no code;
// its packages are used one by one:
//
//   - migrations creates the tables.
//   - eventstore appends events to streams and reads them, one stream or the whole log.
//   - aggregate loads state from events, decides, and appends what follows.
//   - command and query carry requests to their handlers.
//   - snapshot saves the state of aggregates.
//   - projection builds read models from the log, and calls effects.
//   - httpapi serves commands and queries over HTTP.
//
// Packages aggregatetest, eventstoretest and projectiontest help to test code that uses them. The directory
// examples holds complete services.
//
// # Guarantees
//
//   - No event is ever skipped: a reader that has seen position P never later finds an event at
//     or below P, whatever transactions were open, rolled back or killed.
//   - Writers are never serialised globally, and a transaction that has nothing to do with
//     Tidemark never holds a reader back.
//   - Stream order and position order agree.
//   - A projection's read model and its checkpoint commit in one transaction, which fails for a
//     process that has lost its lease.
//   - One bad event stops one key of a projection, and no event is passed over.
//   - A read model is rebuilt beside the one that readers see, and takes its place in one step.
//   - What was acknowledged is as durable as Postgres makes a commit.
//
// The packages say more precisely what holds, each in its own section of this name.
package tidemark
