// Package tidemark is the overview of an event-sourcing framework on Postgres. It holds no code. Its packages are used
// one by one:
//
//   - migrations creates the tables.
//   - eventstore appends events to streams and reads them, one stream or the whole log.
//   - aggregate loads state from events, decides, and appends the events of the decision.
//   - command and query carry requests to their handlers.
//   - snapshot saves the state of aggregates.
//   - projection builds read models from the log, and calls effects.
//   - httpapi serves commands and queries over HTTP.
//
// Packages aggregatetest, eventstoretest and projectiontest help to test an application. The directory examples holds
// complete services.
//
// # Guarantees
//
//   - No event is ever skipped: a reader that has seen position P never finds another event at or below P later,
//     whatever transactions were open, rolled back or killed.
//   - Writers are never serialised globally, and a transaction that has nothing to do with
//     Tidemark never holds a reader back.
//   - Stream order and position order agree.
//   - A projection's read model and its checkpoint commit in one transaction, which fails for a
//     process that has lost its lease.
//   - One bad event stops one key of a projection. No event is left out.
//   - A read model is rebuilt beside the live one, and replaces the live one in one step.
//   - An acknowledged append is as durable as Postgres makes a commit.
//
// Each package has a section of this name, which says more precisely what holds.
package tidemark
