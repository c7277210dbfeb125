package aggregatetest

import (
	"errors"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/eventstore"
)

// Scenario is an aggregate with a history.
type Scenario[S, E any] struct {
	t          testing.TB
	definition *aggregate.Definition[S, E]
	history    []E
}

// New starts a scenario without a history. A nil definition ends the test.
func New[S, E any](t testing.TB, definition *aggregate.Definition[S, E]) *Scenario[S, E] {
	t.Helper()
	if definition == nil {
		t.Fatalf("aggregatetest.New: the definition is nil: pass one that aggregate.Define returned")
	}
	return &Scenario[S, E]{t: t, definition: definition}
}

// Given adds events that have happened to the history.
func (s *Scenario[S, E]) Given(history ...E) *Scenario[S, E] {
	s.t.Helper()
	s.history = append(s.history, s.stored(history)...)
	return s
}

// Outcome is what a decision returned.
type Outcome[S, E any] struct {
	scenario *Scenario[S, E]
	events   []E
	err      error
}

// When calls a decision on the state after the history. A nil decision ends the test.
func (s *Scenario[S, E]) When(decide func(*S) ([]E, error)) *Outcome[S, E] {
	s.t.Helper()
	if decide == nil {
		s.t.Fatalf("aggregatetest: When: the decision is nil: pass a function")
	}
	state := s.definition.Fold(s.history...)
	events, err := decide(state)
	if !reflect.DeepEqual(state, s.definition.Fold(s.history...)) {
		s.t.Errorf("the decision changed the state it was given: return events and let Apply change it")
	}
	if err != nil && len(events) > 0 {
		s.t.Errorf("the decision returned both an error and events: %v", err)
	}
	return &Outcome[S, E]{scenario: s, events: s.stored(events), err: err}
}

// Then checks that the decision returned exactly these events, in this order, and no error. Without arguments it checks
// that the decision returned no events and no error.
func (o *Outcome[S, E]) Then(want ...E) {
	t := o.scenario.t
	t.Helper()
	if o.err != nil {
		t.Fatalf("the decision failed: %v", o.err)
	}
	if diff := cmp.Diff(append([]E{}, want...), append([]E{}, o.events...), everything); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// ThenError checks that the decision failed with an error that is target, by errors.Is. It returns that error, so that
// the test can check its fields.
func (o *Outcome[S, E]) ThenError(target error) error {
	o.scenario.t.Helper()
	if target == nil {
		o.scenario.t.Fatalf("aggregatetest: ThenError: the target is nil: use Then for a decision that must not fail")
	}
	if !errors.Is(o.err, target) {
		o.scenario.t.Errorf("the decision returned the error %v, want %v", o.err, target)
	}
	return o.err
}

// ThenState calls check with the state after the decided events.
func (o *Outcome[S, E]) ThenState(check func(*S)) {
	t := o.scenario.t
	t.Helper()
	if check == nil {
		t.Fatalf("aggregatetest: ThenState: the check is nil: pass a function")
	}
	if o.err != nil {
		t.Fatalf("the decision failed: %v", o.err)
	}
	check(o.scenario.definition.Fold(append(append([]E{}, o.scenario.history...), o.events...)...))
}

// stored returns the events as a store gives them back.
func (s *Scenario[S, E]) stored(events []E) []E {
	s.t.Helper()
	c := s.definition.Codec()
	var back []E
	for _, event := range events {
		draft, err := c.Encode(event)
		if err != nil {
			s.t.Fatal(err)
		}
		decoded, err := c.Decode(eventstore.Raw{Type: draft.Type, Schema: draft.Schema, Data: draft.Data})
		if err != nil {
			s.t.Fatal(err)
		}
		var after []E
		for _, event := range decoded {
			after = append(after, event.Data)
		}
		if diff := cmp.Diff([]E{event}, after, everything); diff != "" {
			s.t.Errorf("event type %q does not survive storage (-before +after):\n%s", draft.Type, diff)
		}
		back = append(back, after...)
	}
	return back
}

// everything compares unexported fields too: events and states are plain data.
var everything = cmp.Exporter(func(reflect.Type) bool { return true })
