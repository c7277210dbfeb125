// Package command carries commands to their handlers.
//
// A command is a plain struct that says what is to be done, such as Deposit. A [Handler] does
// it, usually through an aggregate.Repository, and returns the receipt of what it appended. A
// [Bus] finds the handler of a command by its type, checks the command first, and runs
// middleware around it: logging, metadata, authorization.
//
// # Guarantees
//
//   - A command with a method Validate reaches its handler only if that returns nil.
//   - Each command type has at most one handler; a second one panics at construction.
//   - Middleware runs in the order given, the first one outermost.
//
// Register all handlers before the first Dispatch; from then on a Bus is safe for concurrent use.
package command
