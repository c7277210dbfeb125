// Package projectiontest tests an application's projections, against a real Postgres.
//
// [Run] runs a projection over some events and returns when the projection has handled them:
//
//	projectiontest.Run(t, pool, balances, projectiontest.Events(account.Codec, ada,
//		account.Opened{Owner: "Ada"}, account.Deposited{Amount: 100})...)
//
// [Check] runs the projection over the same events in all the ways that can happen in production. It fails when one of
// them leads to another read model. The ways are: every commit is cut off, so that a batch is handled twice; a crash
// before and after every commit; batches of every size; one and several partitions; gaps in the positions; events as
// earlier releases have stored them; and a build as the next version. Check finds projections that keep state beside
// the read model, write past their transaction, look at the clock or at positions, change events, or need the events of
// other keys.
//
// # Guarantees
//
//   - Run and Check return when all events have been handled and nothing runs any more. An event that cannot be handled
//     fails the test, with its error.
//   - No result depends on time: the log is cut into batches by their number of events, and every planned cut of a
//     commit happens.
//   - Each event type in the codecs of the projection makes a difference to the read model that Check compares, or is
//     named in Config.Ignored. So a type that a handler has no case for fails the test, and so does a type without
//     events.
//   - In all runs of Check an event has the same id, stream, version and time. Positions are the same too, except in
//     the run with gaps in the positions.
//   - Check uses a clean database for each run, and gives it back before the next one.
//   - Check logs which runs it leaves out because the projection has a fixed number of partitions or no tables of its
//     own.
package projectiontest
