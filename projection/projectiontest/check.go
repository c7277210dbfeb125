package projectiontest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// Config says what [Check] checks. All fields are required except Old, Ignored and Schema.
type Config struct {
	// Database returns a pool on a database that has been migrated and has everything else that the projection needs,
	// without data. It is called for each run. Functions that it gives to Cleanup are called at the end of that run.
	// See [Databases].
	Database func(testing.TB) *pgxpool.Pool
	// Projection makes the projection. It takes Version and Partitions from options and sets the rest. It is called
	// again for every process, so create here everything that a process keeps in memory. A projection that must have a
	// certain number of partitions leaves Partitions as it is: it is then not checked with other numbers. A projection
	// whose tables the application makes leaves Version as it is: it is then not built anew. The pool is for effects in
	// the same database. Handlers write with their transaction.
	Projection func(pool *pgxpool.Pool, options projection.Options) *projection.Projection
	// ReadModel returns everything in the read model that matters, as plain data in a fixed order. Leave positions out.
	ReadModel func(ctx context.Context, pool *pgxpool.Pool) (any, error)
	// Events is a history in which the projection does everything that it can do, with the events of different keys
	// mixed. Each event costs some runs: about twenty events are a good number.
	Events []Event
	// Old are histories with the same meaning, as earlier releases have stored them. Together with Events they must
	// have each schema of a type that the codec of [Events] knows.
	Old [][]Event
	// Ignored are the stored names of event types that make no difference to the read model. They can be types in the
	// codecs of the projection's sources, or types in Events. A type that is named here needs no event.
	Ignored []string
	// Schema is the Postgres schema of the store; empty means "tidemark".
	Schema string
}

// Check runs a projection over the same events in many ways, see the package's overview. It fails the test when the
// read model is not the same each time. It compares with the read model of a plain run, which has batches of one event
// and one partition. Other tests must show that this one is right. Check accepts a subscription too: it compares what
// the effects leave in the database.
//
// Check fails as well when an event cannot be handled; when a type of Events makes no difference, and is not one of
// Ignored; when one of Ignored makes a difference; when a type that the codecs of the projection's sources have is
// neither in Events nor in Ignored; and when an old schema, or the old name of a type, is missing from the histories.
func Check(t testing.TB, config Config) {
	t.Helper()
	c := &check{TB: t, Config: config, times: make(map[uuid.UUID]time.Time)}
	for _, field := range []struct {
		name    string
		missing bool
	}{{"Database", c.Database == nil}, {"Projection", c.Projection == nil}, {"ReadModel", c.ReadModel == nil}, {"Events", len(c.Events) == 0}} {
		if field.missing {
			t.Fatalf("projectiontest.Check: Config.%s must be given", field.name)
		}
	}
	c.identify()
	c.plain()
	c.missing()
	c.unnamed()
	c.types()
	for _, v := range c.variants() {
		c.same(v)
	}
}

// check is a Check under way.
type check struct {
	testing.TB
	Config
	times map[uuid.UUID]time.Time
	want  any
	given []string // the event types of the projection
	fixed bool     // the number of partitions cannot be changed
}

// variant is a way to run the projection over a history.
type variant struct {
	name       string
	events     []Event
	size       int // of batches; 0 for all in one
	mode       mode
	partitions int // 0 means 1
	gaps       bool
	rebuild    bool
	cut        bool // commits must have been cut
}

// identify gives the events of the histories the same ids and times in all runs.
func (c *check) identify() {
	c.Events = identified(c.Events)
	histories := [][]Event{c.Events}
	c.Old = slices.Clone(c.Old)
	for n := range c.Old {
		c.Old[n] = identified(c.Old[n])
		histories = append(histories, c.Old[n])
	}
	for _, events := range histories {
		for n, event := range events {
			if event.err != nil {
				c.Fatalf("event %d of a history: %v", n, event.err)
			}
			c.times[event.Draft.ID] = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC).Add(time.Duration(n) * time.Hour)
		}
	}
}

// variants returns the ways to run the projection, the simplest first, because the first one that differs is reported.
func (c *check) variants() []variant {
	all := c.Events
	variants := []variant{
		{name: "the same again", events: all, size: 1},
		{name: "each event delivered twice", events: all, size: 1, mode: redelivered, cut: true},
		{name: "all events delivered twice, in one batch", events: all, mode: redelivered, cut: true},
		{name: "a crash before the commit of each event", events: all, size: 1, mode: crashBefore, cut: true},
		{name: "a crash before each commit of two events", events: all, size: 2, mode: crashBefore, cut: true},
		{name: "a crash after the commit of each event", events: all, size: 1, mode: crashAfter, cut: true},
		{name: "a crash after each commit of three events", events: all, size: 3, mode: crashAfter, cut: true},
	}
	for n, old := range c.Old {
		variants = append(variants,
			variant{name: fmt.Sprintf("history %d of Old", n), events: old, size: 1},
			variant{name: fmt.Sprintf("history %d of Old, delivered twice", n), events: old, mode: redelivered})
	}
	variants = append(variants,
		variant{name: "gaps in the positions", events: all, size: 1, gaps: true},
		variant{name: "built anew as the next version", events: all, rebuild: true},
		variant{name: "all events in one batch", events: all})
	for size := 2; size < len(all); size += 1 + size/20 { // all sizes; fewer when there are many events
		variants = append(variants, variant{name: fmt.Sprintf("batches of %d events", size), events: all, size: size})
	}
	for _, n := range []int{2, 3, 16} {
		variants = append(variants,
			variant{name: fmt.Sprintf("%d partitions, one after another", n), events: all, partitions: n},
			variant{name: fmt.Sprintf("%d partitions", n), events: all, size: 1, partitions: n},
			variant{name: fmt.Sprintf("%d partitions with crashes", n), events: all, size: 2, partitions: n, mode: crashBefore})
	}
	return variants
}

// plain makes the read model with which the others are compared.
func (c *check) plain() {
	c.Helper()
	var err error
	if c.want, err = c.play(variant{events: c.Events, size: 1}); err != nil {
		c.Fatalf("a plain run with batches of one event: %v", err)
	}
}

// same fails the test unless a variant leads to the same read model.
func (c *check) same(v variant) {
	c.Helper()
	if v.partitions > 1 && c.fixed {
		return
	}
	got, err := c.play(v)
	switch {
	case errors.Is(err, errFixed) && v.rebuild:
		c.Logf("projectiontest: not checked when built anew: the projection leaves Options.Version as it is")
	case errors.Is(err, errFixed):
		c.fixed = true
		c.Logf("projectiontest: not checked with several partitions: the projection leaves Options.Partitions as it is")
	case err != nil:
		c.Fatalf("%s: %v", v.name, err)
	default:
		if diff := cmp.Diff(c.want, got, everything); diff != "" {
			c.Fatalf("%s: the read model is not that of a plain run (-want +got):\n%s", v.name, diff)
		}
	}
}

// missing looks for schemas that the histories do not have.
func (c *check) missing() {
	c.Helper()
	type schema struct {
		name   string
		number int
	}
	has, known := make(map[schema]bool), make(map[string][]int)
	for _, events := range append([][]Event{c.Events}, c.Old...) {
		for _, event := range events {
			has[schema{event.Draft.Type, max(1, event.Draft.Schema)}] = true
			if len(event.schemas) > 0 {
				known[event.Draft.Type] = event.schemas
			}
		}
	}
	for name, schemas := range known {
		for _, number := range schemas {
			if !has[schema{name, number}] {
				c.Fatalf("no history has event type %q at schema %d, which the codec reads: give one in Config.Old", name, number)
			}
		}
	}
}

// unnamed looks for event types of the projection that are neither in a history nor in Ignored, and for unknown types
// in Ignored.
func (c *check) unnamed() {
	c.Helper()
	known := slices.Clone(c.given)
	has := slices.Clone(c.Ignored)
	for _, events := range append([][]Event{c.Events}, c.Old...) {
		for _, event := range events {
			has, known = append(has, event.Draft.Type), append(known, event.Draft.Type)
		}
	}
	for _, name := range c.given {
		if !slices.Contains(has, name) {
			c.Fatalf("no history has event type %q, which a codec of the projection has: add an event to Config.Events, or to "+
				"Config.Old if only earlier releases have stored the type; if the projection ignores the type, name it in Config.Ignored", name)
		}
	}
	for _, name := range c.Ignored {
		if !slices.Contains(known, name) {
			c.Fatalf("event type %q is in Config.Ignored, but neither the projection nor Events has it", name)
		}
	}
}

// types looks for types that make no difference: a handler may have no case for them.
func (c *check) types() {
	c.Helper()
	var types []string
	for _, event := range c.Events {
		if !slices.Contains(types, event.Draft.Type) {
			types = append(types, event.Draft.Type)
		}
	}
	for _, name := range types {
		got, err := c.play(variant{events: without(c.Events, name)})
		differs := err != nil || !cmp.Equal(c.want, got, everything)
		switch ignored := slices.Contains(c.Ignored, name); {
		case !differs && !ignored:
			c.Fatalf("event type %q makes no difference to the read model: if that is right, name it in Config.Ignored", name)
		case differs && ignored:
			c.Fatalf("event type %q makes a difference to the read model: take it out of Config.Ignored", name)
		}
	}
}

// without returns the history with the events of one type replaced by events of an unknown type. So the other events
// keep their streams, versions, positions and times.
func without(events []Event, name string) []Event {
	others := slices.Clone(events)
	for n := range others {
		if others[n].Draft.Type == name {
			others[n].Draft.Type, others[n].Draft.Schema, others[n].Draft.Data = "projectiontest.other", 1, []byte("{}")
		}
	}
	return others
}

// everything compares unexported fields too: read models are plain data.
var everything = cmp.Exporter(func(reflect.Type) bool { return true })

// errFixed means that the projection ignores the option that a variant is about.
var errFixed = errors.New("the option is fixed")

// play runs a variant on a clean database, and returns the read model.
func (c *check) play(v variant) (model any, err error) {
	c.Helper()
	s := &scope{TB: c.TB}
	defer s.end()
	ctx := c.Context()
	r, err := c.rig(ctx, s, v.mode)
	if err != nil {
		return nil, err
	}
	partitions, version := max(1, v.partitions), 1
	build := func() []*projection.Projection {
		all := []*projection.Projection{c.Projection(r.own, projection.Options{Version: 1, Partitions: partitions})}
		if version == 2 {
			all = append(all, c.Projection(r.own, projection.Options{Version: 2, Partitions: partitions}))
		}
		c.given = all[0].Types()
		return all
	}
	h := newHistory(r.store, v.size, c.times)
	fill := func(ctx context.Context) error {
		if v.gaps {
			return appendWithGaps(ctx, r.pool, r.store, v.events)
		}
		return appendAll(ctx, r.store, v.events)
	}
	if err := r.play(ctx, h, fill, build); err != nil {
		return nil, err
	}
	if v.partitions > 1 {
		if taken, err := r.partitions(ctx, h, build()); err != nil {
			return nil, err
		} else if taken != v.partitions {
			return nil, errFixed
		}
	}
	if v.rebuild {
		version = 2
		if all := build(); all[0].Version() == all[1].Version() {
			return nil, errFixed
		}
		if err := r.play(ctx, h, nil, build); err != nil {
			return nil, err
		}
	}
	if v.cut && r.cuts.cuts() == 0 {
		return nil, errors.New("projectiontest: no commit was seen, so none was cut off")
	}
	if model, err = c.ReadModel(ctx, r.pool); err != nil {
		return nil, fmt.Errorf("read the read model: %w", err)
	}
	return model, nil
}

// rig returns a clean database. It is released when the scope ends.
func (c *check) rig(ctx context.Context, s *scope, mode mode) (*rig, error) {
	r := &rig{schema: c.Schema, pool: c.Database(s), cuts: &cutter{mode: mode}}
	var err error
	if r.own, err = r.cuts.pool(ctx, r.pool); err != nil {
		return nil, err
	}
	s.Cleanup(r.own.Close)
	if r.store, err = eventstore.New(r.pool, &eventstore.Config{Schema: c.Schema, PollOnly: true}); err != nil {
		return nil, err
	}
	s.Cleanup(r.store.Close)
	return r, nil
}

// scope is a test whose cleanups are called at the end of a run.
type scope struct {
	testing.TB
	cleanups []func()
}

// Cleanup implements testing.TB.
func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) end() {
	for _, f := range s.cleanups {
		defer f() // all of them run, even if one panics, and the last one first
	}
}
