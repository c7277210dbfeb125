package aggregatetest_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/codec"
)

// The events of a lamp.
type (
	event  interface{ isEvent() }
	fitted struct{ Watts int }
	turned struct{ On bool }
	dusted struct{}
	dimmed struct{ Percent int }
	tagged struct{ Tag string }
)

func (fitted) isEvent() {}
func (turned) isEvent() {}
func (dusted) isEvent() {}
func (dimmed) isEvent() {}
func (tagged) isEvent() {}

func same[T event](e T) event { return e }

func newCodec(more ...codec.Type[event]) *codec.Codec[event] {
	return codec.New(append(more,
		codec.Of("lamp.fitted", same[fitted]),
		codec.Of("lamp.turned", same[turned]),
		codec.Of("lamp.dusted", same[dusted]),
		codec.Renamed[event]("light.turned", "lamp.turned"),
		codec.Retired[event]("lamp.sold"))...)
}

// lamp is a state with a correct Apply, except for the types that tests add.
type lamp struct {
	Watts  int
	On     bool
	Events int
	tags   map[string]bool
}

func (l *lamp) Apply(e event) {
	switch e := e.(type) {
	case fitted:
		*l = lamp{Watts: e.Watts, tags: make(map[string]bool)}
	case turned:
		l.On = e.On
	case tagged:
		l.tags[e.Tag] = true // panics before the lamp is fitted
	}
}

// counting counts all events, including those without a case.
type counting struct{ lamp }

func (l *counting) Apply(e event) { l.Events++; l.lamp.Apply(e) }

// clearing makes a new map at every event while the map is empty.
type clearing struct{ lamp }

func (l *clearing) Apply(e event) {
	l.lamp.Apply(e)
	if len(l.tags) == 0 {
		l.tags = make(map[string]bool)
	}
}

// refusing panics for events that it does not know.
type refusing struct{ lamp }

func (l *refusing) Apply(e event) {
	switch e.(type) {
	case fitted, turned:
		l.lamp.Apply(e)
	default:
		panic(fmt.Sprintf("unknown event %T", e))
	}
}

// recorder is a test that can fail without failing the real one.
type recorder struct{ failure string }

func (*recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failure = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func record(do func(aggregatetest.T)) string {
	r, done := &recorder{}, make(chan struct{})
	go func() {
		defer close(done)
		do(r)
	}()
	<-done
	return r.failure
}

func checking[S any, P aggregate.State[S, event]](c *codec.Codec[event], history []event, ignored ...string) func(aggregatetest.T) {
	return func(t aggregatetest.T) {
		aggregatetest.CheckApply(t, aggregate.Define[S, P]("lamp", c), history, ignored...)
	}
}

func TestCheckApply(t *testing.T) {
	t.Parallel()
	const isDusted, none = `"lamp.dusted": Apply ignores aggregatetest_test.dusted`, ""
	history := []event{fitted{60}, turned{true}, dusted{}, turned{false}}
	withTags := newCodec(codec.Of("lamp.tagged", same[tagged]))
	withDimmer := newCodec(codec.Of("lamp.dimmed", same[dimmed]))
	for name, test := range map[string]struct {
		check func(aggregatetest.T)
		want  string // what is reported; "" for nothing
	}{
		"a type without a case":           {checking[lamp](newCodec(), history), isDusted},
		"is named":                        {checking[lamp](newCodec(), history, "lamp.dusted"), none},
		"all events are counted":          {checking[counting](newCodec(), history), isDusted},
		"and it is named":                 {checking[counting](newCodec(), history, "lamp.dusted"), none},
		"an empty map is no change":       {checking[clearing](newCodec(), history), isDusted},
		"a default case panics":           {checking[refusing](newCodec(), history), `"lamp.dusted": panic of Apply: unknown event`},
		"a type without an event":         {checking[lamp](withDimmer, history, "lamp.dusted"), `no aggregatetest_test.dimmed, event type "lamp.dimmed"`},
		"that is named":                   {checking[lamp](withDimmer, history, "lamp.dusted", "lamp.dimmed"), none},
		"no history":                      {checking[lamp](newCodec(), nil), `no aggregatetest_test.turned, event type "lamp.turned"`},
		"an event that is not registered": {checking[lamp](newCodec(), []event{tagged{}}), "event 0 of the history"},
		"a name that is not there":        {checking[lamp](newCodec(), history, "lamp.dusted", "lamp.dustd"), `"lamp.dustd" is named as ignored, but the codec does not have it`},
		"a name that is handled":          {checking[lamp](newCodec(), history, "lamp.dusted", "lamp.turned"), `"lamp.turned" is named as ignored, but`},
		// At its own place fitted changes nothing: the lamp is not on yet. After the others it would turn the lamp off.
		"a change elsewhere": {checking[lamp](newCodec(), []event{fitted{0}, turned{true}, dusted{}}, "lamp.dusted"), none},
		// At another place tagged panics, but it would never be decided there.
		"a panic elsewhere": {checking[lamp](withTags, []event{fitted{60}, tagged{"old"}, dusted{}, turned{true}}, "lamp.dusted"), none},
		"a panic":           {checking[lamp](withTags, []event{tagged{"old"}, fitted{60}, dusted{}, turned{true}}, "lamp.dusted"), `"lamp.tagged": panic of Apply: assignment to entry in nil map`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := record(test.check)
			if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("reported is %q, want %q", got, test.want)
			}
		})
	}
}

// TestCheckApplyNamesAll: one failure names all types.
func TestCheckApplyNamesAll(t *testing.T) {
	t.Parallel()
	got := record(checking[lamp](newCodec(codec.Of("lamp.dimmed", same[dimmed])), []event{fitted{60}, dusted{}, turned{true}}))
	if !strings.Contains(got, "lamp.dimmed") || !strings.Contains(got, "lamp.dusted") || strings.Contains(got, "lamp.turned") {
		t.Errorf("reported is %q, want both types", got)
	}
}

// TestCheckApplyOldShapes: if two shapes of a type are both events, Apply must handle both.
func TestCheckApplyOldShapes(t *testing.T) {
	t.Parallel()
	c := codec.New(
		codec.Of("lamp.set", same[dimmed]),
		codec.Of("lamp.set", same[turned]).WithSchema(2),
		codec.Of("lamp.fitted", same[fitted]),
	)
	got := record(checking[lamp](c, []event{fitted{60}, dimmed{50}, turned{true}}))
	if !strings.Contains(got, `"lamp.set": Apply ignores aggregatetest_test.dimmed`) {
		t.Errorf("reported is %q, want the first shape", got)
	}
}

// The state of a lamp does not need to know that the lamp was dusted: Apply has no case for it, and the test names the
// type.
func ExampleCheckApply() {
	test := func(t *testing.T) {
		definition := aggregate.Define[lamp]("lamp", newCodec())
		aggregatetest.CheckApply(t, definition, []event{fitted{60}, turned{true}, dusted{}}, "lamp.dusted")
	}
	_ = test
}
