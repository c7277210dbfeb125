package query_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/query"
)

func TestWaitForRefuses(t *testing.T) {
	t.Parallel()
	handler := func(context.Context, string) (int, error) { return 0, nil }
	for want, define := range map[string]func(){
		"WaitFor: string: the handler is nil":                func() { query.WaitFor[string, int](nil, &waiter{}, "a") },
		"WaitFor: string: the waiter is nil":                 func() { query.WaitFor(handler, nil, "a") },
		"WaitFor: string: the waiter is nil: pass":           func() { query.WaitFor(handler, (*waiter)(nil), "a") },
		"WaitFor: string: the name of a projection is empty": func() { query.WaitFor(handler, &waiter{}, "a", "") },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "query: "+want) {
					t.Errorf("panic %q, want one that says %q", got, want)
				}
			}()
			define()
		}()
	}
}
