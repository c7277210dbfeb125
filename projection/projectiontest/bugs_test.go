package projectiontest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/projection/projectiontest"
)

// maker makes a projection that has a bug.
type maker = func(*pgxpool.Pool, projection.Options) *projection.Projection

// folding returns a maker of a table whose fold does something else for some events.
func folding(wrong func(row *account, e eventstore.Event[event]) (projection.Op, bool)) maker {
	return ofTable(func(row *account, e eventstore.Event[event]) projection.Op {
		if op, done := wrong(row, e); done {
			return op
		}
		return fold(row, e)
	})
}

// deposits returns a maker of handlers that handle deposits wrongly. of is called for each process.
func deposits(of func(*pgxpool.Pool) func(ctx context.Context, tx pgx.Tx, table string, e eventstore.Event[event], amount int64) error) maker {
	return func(pool *pgxpool.Pool, o projection.Options) *projection.Projection {
		wrong := of(pool)
		return ofHandler(func(ctx context.Context, tx pgx.Tx, e eventstore.Event[event]) error {
			if data, ok := e.Data.(deposited); ok {
				return wrong(ctx, tx, fmt.Sprintf("accounts_v%d", o.Version), e, data.Amount)
			}
			return handle(ctx, tx, e)
		})(pool, o)
	}
}

// bugs are projections that pass a test in which nothing fails, each with the text that Check must report.
var bugs = map[string]struct {
	make maker
	want string
}{
	"adds up in a variable": {deposits(func(*pgxpool.Pool) func(context.Context, pgx.Tx, string, eventstore.Event[event], int64) error {
		sums := make(map[string]int64)
		return func(ctx context.Context, tx pgx.Tx, table string, e eventstore.Event[event], amount int64) error {
			sums[e.Stream.Key] += amount
			_, err := tx.Exec(ctx, `update `+table+` set balance = $2 where account = $1`, e.Stream.Key, sums[e.Stream.Key])
			return err
		}
	}), "each event delivered twice"},
	"remembers in a variable": {func(pool *pgxpool.Pool, o projection.Options) *projection.Projection {
		open := make(map[string]bool)
		return ofHandler(func(ctx context.Context, tx pgx.Tx, e eventstore.Event[event]) error {
			switch e.Data.(type) {
			case opened:
				open[e.Stream.Key] = true
			case deposited:
				if !open[e.Stream.Key] {
					return nil
				}
			}
			return handle(ctx, tx, e)
		})(pool, o)
	}, "a crash before the commit of each event"},
	"flushes every second deposit": {deposits(func(*pgxpool.Pool) func(context.Context, pgx.Tx, string, eventstore.Event[event], int64) error {
		waiting := make(map[string]int64)
		n := 0
		return func(ctx context.Context, tx pgx.Tx, table string, e eventstore.Event[event], amount int64) error {
			waiting[e.Stream.Key] += amount
			if n++; n%2 == 1 {
				return nil
			}
			for key, sum := range waiting {
				if _, err := tx.Exec(ctx, `update `+table+` set balance = balance + $2 where account = $1`, key, sum); err != nil {
					return err
				}
			}
			clear(waiting)
			return nil
		}
	}), "delivered twice"},
	"needs a transaction for each event": {deposits(func(*pgxpool.Pool) func(context.Context, pgx.Tx, string, eventstore.Event[event], int64) error {
		return func(ctx context.Context, tx pgx.Tx, table string, e eventstore.Event[event], amount int64) error {
			_, err := tx.Exec(ctx, `update `+table+` set balance = balance + $2 where account = $1 and xmin::text <> pg_current_xact_id()::text`, e.Stream.Key, amount)
			return err
		}
	}), "batch"},
	"writes past its transaction": {deposits(func(pool *pgxpool.Pool) func(context.Context, pgx.Tx, string, eventstore.Event[event], int64) error {
		return func(ctx context.Context, _ pgx.Tx, table string, e eventstore.Event[event], amount int64) error {
			_, err := pool.Exec(ctx, `update `+table+` set balance = balance + $2 where account = $1`, e.Stream.Key, amount)
			return err
		}
	}), "each event delivered twice"},
	"swallows an error": {deposits(func(*pgxpool.Pool) func(context.Context, pgx.Tx, string, eventstore.Event[event], int64) error {
		return func(ctx context.Context, tx pgx.Tx, table string, e eventstore.Event[event], amount int64) error {
			_, _ = tx.Exec(ctx, `update `+table+` set balances = balances + $2 where account = $1`, e.Stream.Key, amount)
			return nil
		}
	}), "a failed statement"},
	"counts with positions": {deposits(func(*pgxpool.Pool) func(context.Context, pgx.Tx, string, eventstore.Event[event], int64) error {
		return func(ctx context.Context, tx pgx.Tx, table string, e eventstore.Event[event], _ int64) error {
			_, err := tx.Exec(ctx, `update `+table+` set balance = balance + $2 where account = $1`, e.Stream.Key, int64(e.Position))
			return err
		}
	}), "gaps in the positions"},
	"names the table of a version": {deposits(func(*pgxpool.Pool) func(context.Context, pgx.Tx, string, eventstore.Event[event], int64) error {
		return func(ctx context.Context, tx pgx.Tx, _ string, e eventstore.Event[event], amount int64) error {
			_, err := tx.Exec(ctx, `update accounts_v1 set balance = balance + $2 where account = $1`, e.Stream.Key, amount)
			return err
		}
	}), "built anew"},
	"needs the events of other keys": {deposits(func(*pgxpool.Pool) func(context.Context, pgx.Tx, string, eventstore.Event[event], int64) error {
		return func(ctx context.Context, tx pgx.Tx, table string, e eventstore.Event[event], amount int64) error {
			_, err := tx.Exec(ctx, `
				insert into `+table+` values ('all', $1, 0)
				on conflict (account) do update set owner = md5(`+table+`.owner || excluded.owner)`, fmt.Sprint(e.Stream.Key, amount))
			return err
		}
	}), "partitions"},
	"looks at the clock": {folding(func(row *account, e eventstore.Event[event]) (projection.Op, bool) {
		if data, ok := e.Data.(renamed); ok {
			row.Owner = data.Owner + time.Now().Format(time.RFC3339Nano)
			return projection.Put, true
		}
		return projection.Op{}, false
	}), "the same again"},
	"keeps the order of a map": {folding(func(row *account, e eventstore.Event[event]) (projection.Op, bool) {
		if data, ok := e.Data.(opened); ok {
			row.Owner, row.Tags = data.Owner, nil
			for tag := range map[string]bool{"a": true, "b": true, "c": true, "d": true, "e": true, "f": true, "g": true, "h": true, "i": true} {
				row.Tags = append(row.Tags, tag)
			}
			return projection.Put, true
		}
		return projection.Op{}, false
	}), "the read model is not that"},
	"changes the event": {folding(func(_ *account, e eventstore.Event[event]) (projection.Op, bool) {
		if data, ok := e.Data.(opened); ok {
			data.Tags[0] += "!"
		}
		return projection.Op{}, false
	}), "each event delivered twice"},
	"leaves out an old schema": {folding(func(_ *account, e eventstore.Event[event]) (projection.Op, bool) {
		return projection.Skip, e.Type == "opened" && e.Schema == 1
	}), "history 0 of Old"},
	"forgets a type": {folding(func(_ *account, e eventstore.Event[event]) (projection.Op, bool) {
		return projection.Skip, e.Type == "renamed"
	}), `event type "renamed" makes no difference`},
	"forgets a type in a handler": {ofHandler(func(ctx context.Context, tx pgx.Tx, e eventstore.Event[event]) error {
		if _, ok := e.Data.(renamed); ok {
			return nil
		}
		return handle(ctx, tx, e)
	}), `event type "renamed" makes no difference`},
	"puts the row as it is for a type": {folding(func(_ *account, e eventstore.Event[event]) (projection.Op, bool) {
		return projection.Put, e.Type == "renamed"
	}), `event type "renamed" makes no difference`},
	"is given a type that no history has": {func(_ *pgxpool.Pool, o projection.Options) *projection.Projection {
		return projection.NewTable("accounts", options(o), projection.Fold(wider, key, fold))
	}, `no history has event type "frozen"`},
	"is given an old name that no history has": {func(_ *pgxpool.Pool, o projection.Options) *projection.Projection {
		return projection.NewTable("accounts", options(o), projection.Fold(older, key, fold))
	}, `no history has event type "paid in"`},
	"is given a type by its second source": {func(_ *pgxpool.Pool, o projection.Options) *projection.Projection {
		return projection.New("accounts", options(o), projection.On(ledger, handle), projection.On(apart,
			func(context.Context, pgx.Tx, eventstore.Event[event]) error { return nil }))
	}, `no history has event type "frozen"`},
}

type frozen struct{}

func (frozen) isEvent() {}

// Codecs with one type, or one name, more than the histories have.
var (
	isFrozen = codec.Of("frozen", func(e frozen) event { return e })
	all      = []codec.Type[event]{
		codec.Of("opened", func(e openedV1) event { return opened{Owner: e.Name, Tags: []string{"new"}} }),
		codec.Of("opened", func(e opened) event { return e }).WithSchema(2),
		codec.Of("deposited", func(e deposited) event { return e }),
		codec.Of("renamed", func(e renamed) event { return e }),
	}
	wider = codec.New(append(slices.Clone(all), isFrozen)...)
	older = codec.New(append(slices.Clone(all), codec.Renamed[event]("paid in", "deposited"))...)
	apart = codec.New(isFrozen)
)

// few returns a configuration with few events, but with each type.
func few(c projectiontest.Config) projectiontest.Config {
	c.Events, c.Old = c.Events[:7], [][]projectiontest.Event{c.Old[0][:7]}
	return c
}

// TestIgnored: a type in Ignored needs no event. A type that the projection does not have, or that makes a difference,
// must not be in Ignored.
func TestIgnored(t *testing.T) {
	t.Parallel()
	of := func(ledger *codec.Codec[event]) maker {
		return func(_ *pgxpool.Pool, o projection.Options) *projection.Projection {
			return projection.NewTable("accounts", options(o), projection.Fold(ledger, key, fold))
		}
	}
	versions := func(_ *pgxpool.Pool, o projection.Options) *projection.Projection { // of the last deposit
		return projection.NewTable("accounts", options(o), projection.Fold(ledger, key,
			func(row *account, e eventstore.Event[event]) projection.Op {
				row.Tags = []string{}
				if _, ok := e.Data.(deposited); ok {
					row.Balance = int64(e.Version)
				}
				return projection.Put
			}))
	}
	for name, test := range map[string]struct {
		make    maker
		ignored []string
		want    string // "" for nothing
	}{
		"is in no history":               {of(wider), []string{"frozen"}, ""},
		"is not there":                   {of(ledger), []string{"frozen"}, `"frozen" is in Config.Ignored, but neither`},
		"makes a difference":             {of(ledger), []string{"renamed"}, `"renamed" makes a difference`},
		"and others keep their versions": {versions, nil, `makes no difference`},
		"all others keep their versions": {versions, []string{"opened", "renamed"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := record(t, func(t testing.TB) {
				c := few(config(test.make))
				c.Ignored = test.ignored
				projectiontest.Check(t, c)
			})
			if got := strings.Join(r.errors, "\n"); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("reported is %q, want %q", got, test.want)
			}
		})
	}
}

func TestCheckFindsBugs(t *testing.T) {
	t.Parallel()
	for name, bug := range bugs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := record(t, func(t testing.TB) { projectiontest.Check(t, few(config(bug.make))) })
			if len(r.errors) != 1 || !strings.Contains(r.errors[0], bug.want) {
				t.Errorf("reported is %q, want one that says %q", r.errors, bug.want)
			}
		})
	}
}

// TestCheckFindsRepeatedEffect: Check reports an effect in the database that happens twice because it does not call
// Once.
func TestCheckFindsRepeatedEffect(t *testing.T) {
	t.Parallel()
	c := greeted(func(pool *pgxpool.Pool, o projection.Options) *projection.Projection {
		return projection.NewSubscription("greeter", &projection.Options{Partitions: o.Partitions}, projection.Effect(ledger, inTx(pool, greet)))
	})
	r := record(t, func(t testing.TB) { projectiontest.Check(t, c) })
	if len(r.errors) != 1 || !strings.Contains(r.errors[0], "each event delivered twice") {
		t.Errorf("reported is %q, want that events are delivered twice", r.errors)
	}
}

// TestCheckFindsWeakness: Check fails if its configuration does not let it find bugs.
func TestCheckFindsWeakness(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		weaken func(*projectiontest.Config)
		want   string
	}{
		"no old schema": {func(c *projectiontest.Config) { c.Old = nil }, `no history has event type "opened" at schema 1`},
		"no events":     {func(c *projectiontest.Config) { c.Events = nil }, "must be given"},
		"blank": {func(c *projectiontest.Config) {
			c.ReadModel = func(context.Context, *pgxpool.Pool) (any, error) { return nil, nil }
		}, "makes no difference"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config(ofTable(fold))
			test.weaken(&c)
			r := record(t, func(t testing.TB) { projectiontest.Check(t, c) })
			if len(r.errors) != 1 || !strings.Contains(r.errors[0], test.want) {
				t.Errorf("reported is %q, want one that says %q", r.errors, test.want)
			}
		})
	}
}
