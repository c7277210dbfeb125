package projection_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// TestDefinitionsRefuse: a definition that cannot work panics, and the text names the option and its value.
func TestDefinitionsRefuse(t *testing.T) {
	t.Parallel()
	type row struct {
		ID string `db:"id,key"`
	}
	handler := func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil }
	effect := func(context.Context, eventstore.Event[counted]) error { return nil }
	key := func(eventstore.Event[counted]) string { return "a" }
	fold := func(*row, eventstore.Event[counted]) projection.Op { return projection.Put }
	retired := codec.New(codec.Retired[counted]("gone"))
	const ddl = `create table {a} (id text primary key)`
	of := func(o projection.Options) func() {
		return func() { projection.New("a", &o, projection.On(counting, handler)) }
	}
	table := func(name string, o projection.Options) func() {
		return func() { projection.NewTable(name, &o, projection.Fold(counting, key, fold)) }
	}
	subscription := func(o projection.Options) func() {
		return func() { projection.NewSubscription("a", &o, projection.Effect(counting, effect)) }
	}
	for _, test := range []struct {
		want   string
		define func()
	}{
		{`On: the codec is nil`, func() { projection.On(nil, handler) }},
		{`On: the codec has no event type`, func() { projection.On(retired, handler) }},
		{`On: event types ["counted"]: the handler is nil`, func() { projection.On[counted](counting, nil) }},
		{`OnKeyed: event types ["counted"]: the key is nil`, func() { projection.OnKeyed(counting, nil, handler) }},
		{`OnKeyed: event types ["counted"]: the handler is nil`, func() { projection.OnKeyed(counting, key, nil) }},
		{`Fold: the codec is nil`, func() { projection.Fold(nil, key, fold) }},
		{`Fold: the codec has no event type`, func() { projection.Fold(retired, key, fold) }},
		{`Fold: event types ["counted"]: the key is nil`, func() { projection.Fold(counting, nil, fold) }},
		{`Fold: event types ["counted"]: the fold is nil`, func() { projection.Fold[row](counting, key, nil) }},
		{`Effect: the codec is nil`, func() { projection.Effect(nil, effect) }},
		{`Effect: event types ["counted"]: the effect is nil`, func() { projection.Effect(counting, nil) }},
		{`EffectAll: the effect is nil`, func() { projection.EffectAll(nil) }},
		{`New: projection "": the name is empty`, func() { projection.New("", nil, projection.On(counting, handler)) }},
		{"New: projection \"a\\x00\": the name \"a\\x00\" contains a control character", func() { projection.New("a\x00", nil, projection.On(counting, handler)) }},
		{`… has 251 bytes`, func() { projection.New(strings.Repeat("x", 251), nil, projection.On(counting, handler)) }},
		{`New: projection "a": there is no source`, func() { projection.New("a", nil) }},
		{`New: projection "a": source 1 of 1 is empty`, func() { projection.New("a", nil, projection.HandlerSource{}) }},
		{`New: projection "a": two sources have the event type "counted"`, func() { projection.New("a", nil, projection.On(counting, handler), projection.On(counting, handler)) }},
		{`New: projection "a": Options.Version is -1`, of(projection.Options{Version: -1})},
		{`New: projection "a": Options.Version is 2147483648`, of(projection.Options{Version: 1 << 31})},
		{`New: projection "a": Options.Partitions is -1`, of(projection.Options{Partitions: -1})},
		{`New: projection "a": Options.Partitions is 1025`, of(projection.Options{Partitions: 1025})},
		{`New: projection "a": Options.Timeout is -1s`, of(projection.Options{Timeout: -time.Second})},
		{`New: projection "a": Options.Timeout is 1ns`, of(projection.Options{Timeout: 1})},
		{`New: projection "a": Options.Timeout is 2562047h47m16.8`, of(projection.Options{Timeout: 1<<63 - 1})},
		{`New: projection "a": Options.MaxAttempts is -1`, of(projection.Options{MaxAttempts: -1})},
		{`New: projection "a": Options.MaxParked is -1`, of(projection.Options{MaxParked: -1})},
		{`New: projection "a": Options.StopAfter is -1`, of(projection.Options{StopAfter: -1})},
		{`New: projection "a": Options.Tables is ["a"], but Options.DDL`, of(projection.Options{Tables: []string{"a"}})},
		{`New: projection "a": Options.DDL is given, but Options.Tables`, of(projection.Options{DDL: ddl})},
		{`New: projection "a": Options.DDL does not make {b}`, of(projection.Options{DDL: ddl, Tables: []string{"b"}})},
		{`New: projection "a": Options.Tables has "a" twice`, of(projection.Options{DDL: ddl, Tables: []string{"a", "a"}})},
		{`New: projection "a": Options.Tables has ""`, of(projection.Options{DDL: ddl, Tables: []string{""}})},
		{`New: projection "a": Options.Tables has "a.b.c"`, of(projection.Options{DDL: `create table {a.b.c} ()`, Tables: []string{"a.b.c"}})},
		{`NewTable: projection "": the name is empty`, table("", projection.Options{DDL: ddl, Tables: []string{"a"}})},
		{`NewTable: projection "a": Options.Partitions is -1`, table("a", projection.Options{DDL: ddl, Partitions: -1})},
		{`NewTable: projection "a": Options.DDL is empty`, table("a", projection.Options{})},
		{`NewTable: projection "a": Options.Tables is ["a" "b"]`, table("a", projection.Options{DDL: ddl, Tables: []string{"a", "b"}})},
		{`NewTable: projection "a": Options.FromNow is true`, table("a", projection.Options{DDL: ddl, FromNow: true})},
		{`NewTable: projection "a": there is no source`, func() { projection.NewTable[row]("a", &projection.Options{DDL: ddl}) }},
		{`NewTable: projection "a": source 1 of 1 is empty`, func() { projection.NewTable("a", &projection.Options{DDL: ddl}, projection.FoldSource[row]{}) }},
		{`NewSubscription: projection "a": Options.Version is 2`, subscription(projection.Options{Version: 2})},
		{`NewSubscription: projection "a": Options.Tables is ["a"]`, subscription(projection.Options{DDL: ddl, Tables: []string{"a"}})},
		{`NewSubscription: projection "a": Options.MaxAttempts is -2`, subscription(projection.Options{MaxAttempts: -2})},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "projection.") || !strings.Contains(got, test.want) {
					t.Errorf("panic %q, want one that says %q", got, test.want)
				}
			}()
			test.define()
		})
	}
}

// TestConstructorsRefuse: a constructor that cannot work returns an error that names the field and its value.
func TestConstructorsRefuse(t *testing.T) {
	t.Parallel()
	pool, log := pgtest.Pool(t), eventstoretest.NewMemory()
	handler := func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil }
	a := projection.New("a", nil, projection.On(counting, handler))
	several := projection.New("several", &projection.Options{Partitions: 2}, projection.On(counting, handler))
	effects := projection.NewSubscription("effects", nil, projection.Effect(counting, func(context.Context, eventstore.Event[counted]) error { return nil }))
	runner := func(c projection.Config, all ...*projection.Projection) func() error {
		return func() error { _, err := projection.NewRunner(pool, log, &c, all...); return err }
	}
	inline := func(schema string, all ...*projection.Projection) func() error {
		return func() error { _, err := projection.NewInline(schema, all...); return err }
	}
	for want, construct := range map[string]func() error{
		`NewRunner: the pool is nil`:                       func() error { _, err := projection.NewRunner(nil, log, nil); return err },
		`NewRunner: the log is nil`:                        func() error { _, err := projection.NewRunner(pool, nil, nil); return err },
		`NewRunner: the log is nil: pass`:                  func() error { _, err := projection.NewRunner(pool, (*eventstore.Store)(nil), nil); return err },
		`NewRunner: schema "A"`:                            runner(projection.Config{Schema: "A"}),
		`NewRunner: Config.BatchSize is -1`:                runner(projection.Config{BatchSize: -1}),
		`NewRunner: Config.Concurrency is -1`:              runner(projection.Config{Concurrency: -1}),
		`NewRunner: Config.Lease is -1s`:                   runner(projection.Config{Lease: -time.Second}),
		`NewRunner: Config.Lease is 1ms`:                   runner(projection.Config{Lease: time.Millisecond}),
		`NewRunner: Config.Lease is 25h0m0s`:               runner(projection.Config{Lease: 25 * time.Hour}),
		`NewRunner: Config.MaxBackoff is -1s`:              runner(projection.Config{MaxBackoff: -time.Second}),
		`NewRunner: Config.MaxBackoff is 25h0m0s`:          runner(projection.Config{MaxBackoff: 25 * time.Hour}),
		`NewRunner: Config.StallLag is -1`:                 runner(projection.Config{StallLag: -1}),
		`NewRunner: Config.Parked is -1`:                   runner(projection.Config{Parked: -1}),
		`NewRunner: Config.StallAfter is -1s`:              runner(projection.Config{StallAfter: -time.Second}),
		`NewRunner: projection 2 of 2 is nil`:              runner(projection.Config{}, a, nil),
		`NewRunner: projection 1 of 1 is nil or empty`:     runner(projection.Config{}, &projection.Projection{}),
		`NewRunner: two projections are named "a"`:         runner(projection.Config{}, a, a),
		`NewInline: schema "A"`:                            inline("A", a),
		`NewInline: there is no projection`:                inline(""),
		`NewInline: projection 2 of 2 is nil`:              inline("", a, nil),
		`NewInline: projection 1 of 1 is nil or empty`:     inline("", &projection.Projection{}),
		`NewInline: two projections are named "a"`:         inline("", a, a),
		`NewInline: projection "several": Options.Partit`:  inline("", several),
		`NewInline: projection "effects" is a subscriptio`: inline("", effects),
	} {
		if err := construct(); err == nil || !strings.HasPrefix(err.Error(), "projection."+want) {
			t.Errorf("%v, want an error that says %q", err, want)
		}
	}
	r, err := projection.NewRunner(pool, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	effect := func(context.Context, eventstore.Event[counted]) error { return nil }
	for want, sources := range map[string][]projection.EffectSource{
		"there is no source":                {},
		"source 1 of 1 is empty":            {{}},
		`two sources have the event type "`: {projection.Effect(counting, effect), projection.Effect(counting, effect)},
	} {
		if _, err := r.Subscribe(t.Context(), sources...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("subscribe: %v, want an error that says %q", err, want)
		}
	}
}

// TestPoolOfOne: Run refuses a pool of one connection, because a batch would wait for a connection that it holds
// itself.
func TestPoolOfOne(t *testing.T) {
	t.Parallel()
	f := setup(t)
	pool := f.pool
	one := pool.Config()
	one.MaxConns, one.MinConns = 1, 0
	narrow, err := pgxpool.NewWithConfig(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(narrow.Close)
	f.pool = narrow
	if err := f.runErr(f.store, record("a", nil)); err == nil || !strings.Contains(err.Error(), "the pool can have 1 connection") {
		t.Errorf("%v, want an error that names the number of connections", err)
	}
}
