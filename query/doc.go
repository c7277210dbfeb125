// Package query answers questions from read models.
//
// A query is a plain struct, such as StatementOf; a [Handler] answers it, usually with a SELECT
// on a table that a projection keeps. Read models lag a little behind the events. A caller who
// has just changed something puts the position of the receipt into the context with
// [AtLeast], and a handler made by [WaitFor] waits until its projections have come that far:
//
//	receipt, err := bus.Dispatch(ctx, Deposit{...})
//	balance, err := balanceOf(query.AtLeast(ctx, receipt.Position), BalanceOf{...})
//
// # Guarantees
//
//   - A handler made by After sees a read model that contains every event up to the position in
//     its context, or is not called.
//   - Without a position in the context nothing waits.
//
// Handlers are functions and as safe for concurrent use as what they close over.
package query
