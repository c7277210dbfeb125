package panics_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/internal/panics"
)

// TestRecover: a panic becomes an error that says what happened and where. Without a panic the error stays as it is.
func TestRecover(t *testing.T) {
	t.Parallel()
	call := func(do func() error) (err error) {
		defer panics.Recover(&err)
		return do()
	}
	usual := errors.New("usual")
	if err := call(func() error { return usual }); err != usual {
		t.Errorf("%v, want the error of the function", err)
	}
	err := call(func() error { panic("ouch") })
	if !errors.As(err, new(*panics.Error)) || !strings.HasPrefix(err.Error(), "panic: ouch\n") || !strings.Contains(err.Error(), "panics_test.go") {
		t.Errorf("%v, want the panic and where it was", err)
	}
}
