// Package panics turns panics of an application's code into errors.
package panics

import (
	"fmt"
	"runtime/debug"
)

// Error is a panic.
type Error struct {
	value any
	stack []byte
}

// New returns the error of a recovered value. Call it in the function that recovers: the error has the stack of that
// function.
func New(value any) *Error { return &Error{value, debug.Stack()} }

// Error gives the value and the stack.
func (e *Error) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// Recover sets *err to the error of a panic, if there is one. It must be deferred itself. It does not work when a
// deferred function calls it.
func Recover(err *error) {
	if r := recover(); r != nil {
		*err = New(r)
	}
}
