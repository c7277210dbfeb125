package aggregatetest

import (
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidemark-es/tidemark/aggregate"
)

// T is a *testing.T, or the type that a library for property tests has instead, such as *rapid.T.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// CheckSnapshot checks that snapshots of an aggregate lose nothing. It cuts the history at every point, saves and
// restores the state there, and folds the rest. The result must be the state that is folded from all events. Unexported
// fields are compared too. Nil and empty slices and maps are equal. The time grows with the square of the history's
// length.
//
// It is a property: draw many histories with a library such as rapid, or give it the longest history that a test has.
func CheckSnapshot[S, E any](t T, definition *aggregate.Definition[S, E], history []E) {
	t.Helper()
	if definition == nil {
		t.Fatalf("aggregatetest.CheckSnapshot: the definition is nil: pass one that aggregate.Define returned")
	}
	want := definition.Fold(history...)
	for cut := range len(history) + 1 {
		before := definition.Fold(history[:cut]...)
		data, err := definition.EncodeState(before)
		if err != nil {
			t.Fatalf("the state after %d events does not encode: %v", cut, err)
		}
		state, err := definition.DecodeState(data)
		if err != nil {
			t.Fatalf("the state after %d events does not decode: %v\n%s", cut, err, data)
		}
		if diff := cmp.Diff(before, state, everything, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("the state after %d events does not survive a snapshot (-before +after):\n%s", cut, diff)
		}
		definition.FoldOnto(state, history[cut:]...)
		if diff := cmp.Diff(want, state, everything, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("restored after %d of %d events, the rest comes to another state (-want +got):\n%s", cut, len(history), diff)
		}
	}
}
