// Package projectiontest tests an application's projections, against a real Postgres.
//
// [Run] runs a projection over some events and comes back when it has handled them:
//
//	projectiontest.Run(t, pool, balances, projectiontest.Events(account.Codec, ada,
//		account.Opened{Owner: "Ada"}, account.Deposited{Amount: 100})...)
//
// [Check] runs it over the same events in all the ways that may happen in production, and fails when one of them
// leads to another read model: with every commit cut off, so that a batch is handled twice; with a
// crash before and after every commit; with batches of every size; with one and with several partitions; with gaps in
// the positions; from events as earlier releases have stored them; and built anew as the next version. That finds
// projections that keep state beside the read model, write past their transaction, look at the clock or at
// positions, change events, or need the events of other keys.
//
// # Guarantees
//
//   - Run and Check return when everything has been handled and nothing runs any more. An event that cannot be
//     handled fails the test, with its error.
//   - Nothing depends on time: the log is cut into batches by their number of events, and every commit that
//     is to be cut off is.
//   - Each event type in the codecs of the projection makes a difference to the read model that Check compares, or is
//     named in Config.Ignored: a type that a handler has no case for fails the test, and so does a type without events.
//   - In all runs of Check an event has the same id, stream, version and time. Positions are the same
//     too, but for the run that is about them.
//   - Check uses a clean database for each run, and gives it back before the next one.
//   - What Check cannot check, since the projection has a fixed number of partitions or no tables of its own,
//     it logs.
package projectiontest
