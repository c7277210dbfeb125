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

// New returns the error of a recovered value. It is called by the function that recovers, whose stack the error has.
func New(value any) *Error { return &Error{value, debug.Stack()} }

func (e *Error) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// Recover sets *err to the error of a panic, if there is one. It is deferred itself, not called by a deferred function.
func Recover(err *error) {
	if r := recover(); r != nil {
		*err = New(r)
	}
}
