// Package command carries commands to their handlers.
//
// A command is a plain struct that says what to do, such as Deposit. A [Handler] does the work, usually through an
// aggregate.Repository, and returns the receipt of the events that it appended. A [Bus] finds the handler of a command
// by its type, checks the command first, and runs middleware around it: logging, metadata, authorization.
//
// # Guarantees
//
//   - A command with a method Validate reaches its handler only if Validate returns nil.
//   - Each command type has at most one handler. [Register] panics for a second one.
//   - Middleware runs in the order given, the first one outermost.
//
// Register all handlers before the first Dispatch. From then on a Bus is safe for concurrent use.
package command
