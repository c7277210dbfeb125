// Package isnil finds values that are nil although they do not compare equal to nil. Constructors refuse such values.
package isnil

import "reflect"

// Any reports whether a value is nil, or an interface that holds a nil pointer, function, map, slice or channel,
// such as a nil *eventstore.Store that was passed as an interface.
func Any(value any) bool {
	if value == nil {
		return true
	}
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Slice, reflect.Chan, reflect.UnsafePointer:
		return v.IsNil()
	}
	return false
}
