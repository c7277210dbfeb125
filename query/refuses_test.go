package query_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/query"
)

func TestAfterRefuses(t *testing.T) {
	t.Parallel()
	handler := func(context.Context, string) (int, error) { return 0, nil }
	for want, define := range map[string]func(){
		"After: string: the handler is nil":                func() { query.After[string, int](nil, &waiter{}, "a") },
		"After: string: the waiter is nil":                 func() { query.After(handler, nil, "a") },
		"After: string: the waiter is nil: pass":           func() { query.After(handler, (*waiter)(nil), "a") },
		"After: string: the name of a projection is empty": func() { query.After(handler, &waiter{}, "a", "") },
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
