package aggregatetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

// CheckApply checks that Apply handles every event type of the codec. An event type without a case in Apply is stored,
// but means nothing to the decisions.
//
// The history must have at least one event of each Go type that the codec encodes, except ignored types. A type counts
// as handled when one of its events changes the state at one or more points of the history, from before the first event
// to after the last. At all other points the event can leave the state as it is. Something that Apply does for every
// event, such as counting events, does not count as a change, if Apply can be called with a nil event.
//
// ignored are the stored names of the types that the state does not need. CheckApply also fails when Apply panics, when
// an ignored type changes the state, and when an ignored type is not in the codec. The failure names all problems. At
// worst the time grows with the cube of the history's length: ten or twenty events are enough.
func CheckApply[S, E any](t T, definition *aggregate.Definition[S, E], history []E, ignored ...string) {
	t.Helper()
	if definition == nil {
		t.Fatalf("aggregatetest.CheckApply: the definition is nil: pass one that aggregate.Define returned")
	}
	a := &applying[S, E]{definition: definition, changes: make(map[reflect.Type]bool), names: make(map[reflect.Type]string)}
	for n, event := range history {
		if err := a.add(event); err != nil {
			t.Fatalf("event %d of the history: %v", n, err)
		}
	}
	if problems := a.problems(ignored); len(problems) > 0 {
		t.Fatalf("%s", strings.Join(problems, "\n"))
	}
}

// applying finds out which Go types change the state.
type applying[S, E any] struct {
	definition *aggregate.Definition[S, E]
	history    []E // as stored and read
	names      map[reflect.Type]string
	changes    map[reflect.Type]bool
}

// add adds an event to the history, as a store gives it back.
func (a *applying[S, E]) add(event E) error {
	c := a.definition.Codec()
	draft, err := c.Encode(event)
	if err != nil {
		return err
	}
	decoded, err := c.Decode(eventstore.Raw{Type: draft.Type, Schema: draft.Schema, Data: draft.Data})
	if err != nil {
		return err
	}
	a.names[reflect.TypeOf(event)] = draft.Type
	for _, one := range decoded {
		a.names[reflect.TypeOf(one.Data)] = draft.Type
		a.history = append(a.history, one.Data)
	}
	return nil
}

func (a *applying[S, E]) problems(ignored []string) (problems []string) {
	c := a.definition.Codec()
	for _, name := range ignored {
		if !slices.Contains(c.Types(), name) {
			problems = append(problems, fmt.Sprintf("event type %q is named as ignored, but the codec does not have it", name))
		}
	}
	for _, goType := range c.Encodes() {
		if a.names[goType] == "" && !slices.Contains(ignored, nameIn(c, goType)) {
			problems = append(problems, fmt.Sprintf("the history has no %v, event type %q: add one, or name the type as ignored", goType, nameIn(c, goType)))
		}
	}
	checked := make(map[reflect.Type]bool)
	for _, event := range a.history {
		goType := reflect.TypeOf(event)
		if checked[goType] {
			continue
		}
		checked[goType] = true
		changes, err := a.isHandled(goType)
		name, isIgnored := a.names[goType], slices.Contains(ignored, a.names[goType])
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("event type %q: %v", name, err))
		case changes && isIgnored:
			problems = append(problems, fmt.Sprintf("event type %q is named as ignored, but a %v changes the state: do not name it", name, goType))
		case !changes && !isIgnored:
			problems = append(problems, fmt.Sprintf("event type %q: Apply ignores %v: no event of it in the history changes the state, wherever it comes; "+
				"add a case to Apply or, if the state does not need it, name the type as ignored", name, goType))
		}
	}
	return problems
}

// isHandled reports whether an event of a type changes the state, at its own place in the history or at any other. A
// panic at its own place is an error. A panic at another place is ignored, because the event could not have happened
// there.
func (a *applying[S, E]) isHandled(goType reflect.Type) (changes bool, err error) {
	var events []E
	for n, event := range a.history {
		if reflect.TypeOf(event) != goType {
			continue
		}
		events = append(events, event)
		here, err := a.changesAfter(n, event)
		if err != nil {
			return false, err
		}
		changes = changes || here
	}
	for _, event := range events {
		for n := 0; n <= len(a.history) && !changes; n++ {
			changes, _ = a.changesAfter(n, event)
		}
	}
	return changes, nil
}

// changesAfter reports whether an event changes the state after the first n events, in another way than an unknown
// event.
func (a *applying[S, E]) changesAfter(n int, event E) (bool, error) {
	before, err := a.fold(a.history[:n]...)
	if err != nil {
		return false, nil // an earlier event panics, and is reported itself
	}
	after, err := a.fold(append(slices.Clone(a.history[:n]), event)...)
	if err != nil || isEqual(before, after) {
		return false, err
	}
	if reflect.TypeFor[E]().Kind() != reflect.Interface {
		return true, nil // E has no unknown event
	}
	var none E
	unknown, err := a.fold(append(slices.Clone(a.history[:n]), none)...)
	return err != nil || !isEqual(unknown, after), nil
}

// fold is Definition.Fold. It returns a panic of Apply as an error.
func (a *applying[S, E]) fold(events ...E) (state *S, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic of Apply: %v", p)
		}
	}()
	return a.definition.Fold(events...), nil
}

func isEqual(a, b any) bool {
	return cmp.Equal(a, b, everything, cmpopts.EquateEmpty(), cmpopts.EquateNaNs())
}

// nameIn returns the stored name of a Go type of the codec, or nothing if a zero value of the type does not encode.
func nameIn[E any](c *codec.Codec[E], goType reflect.Type) string {
	event, _ := reflect.Zero(goType).Interface().(E)
	draft, _ := c.Encode(event)
	return draft.Type
}
