// Package query answers questions from read models.
//
// A query is a plain struct, such as StatementOf. A [Handler] answers it, usually with a SELECT on a table that a
// projection keeps. Read models are a little behind the events. After a command, a caller puts the position of the
// receipt into the context with [AtLeast]. A handler made by [WaitFor] then waits until its projections have reached
// that position:
//
//	receipt, err := bus.Dispatch(ctx, Deposit{...})
//	balance, err := balanceOf(query.AtLeast(ctx, receipt.Position), BalanceOf{...})
//
// # Guarantees
//
//   - A handler given to [WaitFor] is called only when its read models contain every event up to the position in the
//     context.
//   - Without a position in the context a handler made by [WaitFor] does not wait.
//
// Handlers are functions. They are as safe for concurrent use as the values that they close over.
package query
