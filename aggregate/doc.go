// Package aggregate loads, decides and appends: the write side of a service.
//
// An aggregate's state is a plain struct S with a pure method Apply that changes it by one
// event. Decisions are methods of S that return events, or an error when a rule is broken. There
// is no base type to embed and nothing to register. [Define] puts the parts together:
//
//	var Accounts = aggregate.Define[Account]("account", codec)
//
// [Definition.Fold] makes a state from events. A unit test needs nothing else; package aggregatetest puts
// given/when/then around it. A [Repository] does the same over a store. [Repository.Update] loads the state, lets the
// caller decide, and appends the events at the version that was loaded. It starts again when another append was faster.
// [Commit] does so for several aggregates at once.
//
// With Config.Snapshots a repository begins with the latest snapshot of an aggregate instead of its first
// event, and takes new ones; see package snapshot. With Config.CacheSize it keeps aggregates in memory
// between updates. [Repository.LoadVersion], [Repository.LoadAsOf] and [Repository.LoadThrough] load an
// aggregate as it was, and [Repository.History] iterates over its events with the state after each.
// [Repository.WarmUp] takes the snapshots of a whole category.
//
// # Guarantees
//
//   - The state that a decision was based on is the state of the stream when the events of the decision are stored. So
//     no update is lost, whatever happens concurrently.
//   - Update and Commit store all events of a decision or none.
//   - With an idempotency key in the context (eventstore.WithKey) a repeated Update or Commit decides nothing and
//     answers as the first one did. A second Update or Commit of the same attempt that has events to store is an
//     eventstore.KeySpentError.
//   - A refusal of [Commit] rests on states that existed at the same moment, and so does a success.
//   - Snapshots and the cache change no outcome. A snapshot is used only if the event that it was taken after is in the
//     stream. A decision on a cached state is stored, or refused, only if nothing was appended since.
//   - Retries happen on conflicts only, are bounded, and wait with jitter.
//
// A Definition is immutable. A Repository holds only its configuration and its cache, and each cached state has one
// owner at a time. Both are safe for concurrent use.
package aggregate
