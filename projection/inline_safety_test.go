package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

// setupHandler starts a projection that appends keep inline. Its handler writes each event into the model and calls
// hook.
func setupHandler(
	t *testing.T, timeout time.Duration, hook func(context.Context, pgx.Tx, int) error,
) *inlined {
	f := &inlined{fixture: setup(t)}
	f.keep(projection.New("written", &projection.Options{Timeout: timeout}, projection.On(counting,
		func(ctx context.Context, tx pgx.Tx, event eventstore.Event[counted]) error {
			_, err := tx.Exec(ctx, `insert into model values ('written', $1, $2)`, event.Position, event.Data.N)
			if err == nil && hook != nil {
				err = hook(ctx, tx, event.Data.N)
			}
			return err
		})))
	if err := f.runner.Operator().StartInline(t.Context(), projection.Ref{Name: "written", Version: projection.Live}); err != nil {
		t.Fatal(err)
	}
	return f
}

// checkWritten compares the model with the log. It sorts the model, because appends do not commit in the order of
// positions.
func (f *inlined) checkWritten(name string) {
	f.Helper()
	written := f.model(name)
	slices.Sort(written)
	if diff := cmp.Diff(f.log("counted"), written); diff != "" {
		f.Errorf("written by %s (-log +model):\n%s", name, diff)
	}
}

// putMany appends numbers concurrently. The appends of negative numbers must fail. Each other append must be stored
// once.
func (f *inlined) putMany(negative ...int) {
	f.Helper()
	before := len(f.log("counted"))
	var stored atomic.Int64
	var writers sync.WaitGroup
	for n := range 12 {
		writers.Go(func() {
			for i := range 4 {
				number := i
				if n < len(negative) && i%2 == 0 {
					number = negative[n]
				}
				err := f.put(f.aware, fmt.Sprint("k", n), number)
				if err == nil {
					stored.Add(1)
				}
				if (number < 0) != (err != nil) || errors.Is(err, eventstore.ErrUnknownOutcome) {
					f.Errorf("append of %d: %v", number, err)
				}
			}
		})
	}
	writers.Wait()
	if n := len(f.log("counted")) - before; n != int(stored.Load()) {
		f.Errorf("%d events are stored of %d appends", n, stored.Load())
	}
}

// TestInlineSlow: a handler that takes longer than the timeout fails its append. No append has an unknown outcome.
func TestInlineSlow(t *testing.T) {
	t.Parallel()
	// The timeout is for good events too, and they can be slow on a busy machine.
	f := setupHandler(t, time.Second, func(ctx context.Context, tx pgx.Tx, n int) error {
		if n >= 0 {
			return nil
		}
		_, err := tx.Exec(ctx, `select pg_sleep(60)`)
		return err
	})
	f.putMany(-1, -1)
	f.checkWritten("written")
}

// TestInlineEnds: the handler's transaction is that of the appends. A handler that ends it fails only its own append.
func TestInlineEnds(t *testing.T) {
	t.Parallel()
	ends := [][]string{{"commit"}, {"commit", "begin"}, {"rollback"}, {"rollback", "begin"}, {"commit; begin"}}
	f := setupHandler(t, 0, func(ctx context.Context, tx pgx.Tx, n int) error {
		if n >= 0 {
			return nil
		}
		for _, end := range ends[-n-1] {
			_, _ = tx.Exec(ctx, end) // the handler ignores the error
		}
		return nil
	})
	for n := range ends {
		f.putMany(-n - 1)
	}
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.put(f.aware.WithTx(tx), "in-tx", -1); err == nil {
		t.Error("a handler that commits the caller's transaction was accepted")
	}
	_ = tx.Rollback(t.Context())
	f.putMany()
	f.checkWritten("written")
}

// TestInlineIsolation: an append in a transaction above read committed is refused, because the transaction may not see
// that a projection is kept inline.
func TestInlineIsolation(t *testing.T) {
	t.Parallel()
	f := setupHandler(t, 0, nil)
	if err := f.runner.Operator().StopInline(t.Context(), projection.Ref{Name: "written", Version: projection.Live}); err != nil {
		t.Fatal(err)
	}
	var olds []pgx.Tx
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		for range 2 {
			tx, err := f.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.Background()) }()
			if _, err := tx.Exec(t.Context(), `select from tidemark.projections`); err != nil {
				t.Fatal(err)
			}
			olds = append(olds, tx)
		}
	}
	if err := f.runner.Operator().StartInline(t.Context(), projection.Ref{Name: "written", Version: projection.Live}); err != nil {
		t.Fatal(err)
	}
	for n, tx := range olds {
		store := []*eventstore.Store{f.store, f.aware}[n%2]
		err := f.put(store.WithTx(tx), fmt.Sprint("old", n), make([]int, 1+n/2)...)
		if !pgerr.Is(err, pgerr.UnknownInline) || !strings.Contains(err.Error(), "isolation level") {
			t.Errorf("append: %v, want it refused for its isolation level", err)
		}
		_ = tx.Commit(t.Context())
	}
	f.checkWritten("written")
}

// TestInlineDefaultIsolation: stores keep projections inline even when the default isolation level of their connections
// is repeatable read.
func TestInlineDefaultIsolation(t *testing.T) {
	t.Parallel()
	f := setupHandler(t, 0, nil)
	config := f.pool.Config()
	config.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := f.put(f.newStore(pool, nil), "unaware", 1); !pgerr.Is(err, pgerr.UnknownInline) {
		t.Errorf("append: %v, want it refused", err)
	}
	f.aware = f.newStore(pool, f.inline)
	stop := f.putAlways(func(int) *eventstore.Store { return f.aware })
	for range 10 {
		if err := f.runner.Operator().StopInline(t.Context(), projection.Ref{Name: "written", Version: projection.Live}); err != nil {
			t.Error(err)
		}
		if err := f.runner.Operator().StartInline(t.Context(), projection.Ref{Name: "written", Version: projection.Live}); err != nil {
			t.Error(err)
		}
	}
	stop()
	f.checkWritten("written")
}

// putAlways appends from several goroutines until stop is called. A goroutine for which store returns nil appends
// events that the projections do not handle.
func (f *inlined) putAlways(store func(n int) *eventstore.Store) (stop func()) {
	ctx, cancel := context.WithCancel(f.Context())
	var writers sync.WaitGroup
	for n := range 6 {
		writers.Go(func() {
			for ctx.Err() == nil {
				var err error
				if s := store(n); s != nil {
					err = f.put(s, fmt.Sprint("k", n), 1)
				} else {
					id := eventstore.StreamID{Category: "other", Key: fmt.Sprint(n)}
					draft := eventstore.Draft{Type: "other", Data: []byte("{}")}
					_, err = f.store.Append(f.Context(), id, eventstore.Any, draft)
				}
				if err != nil {
					f.Error(err)
				}
			}
		})
	}
	return func() { cancel(); writers.Wait() }
}

// TestInlineAddsTypes: a release that adds event types to a projection does not run while appends keep the projection
// without these types.
func TestInlineAddsTypes(t *testing.T) {
	t.Parallel()
	f := setupHandler(t, 0, nil)
	ignore := func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil }
	newer := projection.New("written", nil, projection.On(counting, ignore), projection.On(other, ignore))
	run := func() error {
		r, err := projection.NewRunner(f.pool, f.store, quiet, newer)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return r.Run(ctx)
	}
	var changed *projection.ChangedError
	if err := run(); !errors.As(err, &changed) || !strings.Contains(err.Error(), "StopInline") {
		t.Errorf("Run: %v, want it to say that StopInline must be called", err)
	}
	f.append(other, 1) // accepted: the projection that is kept inline does not handle this type
	if err := f.runner.Operator().StopInline(t.Context(), projection.Ref{Name: "written", Version: projection.Live}); err != nil {
		t.Fatal(err)
	}
	if err := run(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := f.runner.Operator().StartInline(t.Context(), projection.Ref{Name: "written", Version: projection.Live}); !errors.Is(err, projection.ErrRefused) {
		t.Errorf("start inline from the older release: %v, want ErrRefused", err)
	}
}

// TestInlineBusy: StartInline and StopInline finish while appends continue, of events that the projection handles and
// of others.
func TestInlineBusy(t *testing.T) {
	t.Parallel()
	f := setupInline(t)
	stores := []*eventstore.Store{f.aware, nil, f.newStore(f.pool, f.inline)}
	stop := f.putAlways(func(n int) *eventstore.Store { return stores[n%len(stores)] })
	limited, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	names := []string{"streams", "all", "written"}
	for range 3 {
		for _, name := range names {
			if err := f.runner.Operator().StartInline(limited, projection.Ref{Name: name, Version: projection.Live}); err != nil {
				t.Error(err)
			}
		}
		for _, name := range names {
			if err := f.runner.Operator().StopInline(limited, projection.Ref{Name: name, Version: projection.Live}); err != nil {
				t.Error(err)
			}
		}
	}
	stop()
	f.startInline()
	f.check()
}

// TestInlineNames: a projection can be kept inline when its name has special characters.
func TestInlineNames(t *testing.T) {
	t.Parallel()
	const name = `a,b"{}\ c`
	f := &inlined{fixture: setup(t)}
	f.keep(record(name, nil))
	if err := f.runner.Operator().StartInline(t.Context(), projection.Ref{Name: name, Version: projection.Live}); err != nil {
		t.Fatal(err)
	}
	if err := f.put(f.aware, "a", 1, 2); err != nil {
		t.Error(err)
	}
	f.checkWritten(name)
}

// TestInlineRole: the rights of a service's role are enough for its appends to keep a projection inline. Only an
// operator's role can call StartInline, because it makes the database refuse writers that do not know the projection.
func TestInlineRole(t *testing.T) {
	t.Parallel()
	f := setup(t)
	database := f.pool.Config().ConnConfig.Database
	roles := migrations.Roles{App: database + "_app", Operator: database + "_operator"}
	if err := migrations.CreateRoles(t.Context(), f.pool, nil, roles); err != nil {
		t.Fatal(err)
	}
	f.exec(`grant all on model to ` + roles.App)
	f.exec(`grant all on sequence model_written_seq to ` + roles.App)
	t.Cleanup(func() {
		for _, name := range []string{roles.App, roles.Operator} {
			_, _ = f.pool.Exec(context.Background(), "drop owned by "+name)
			_, _ = f.pool.Exec(context.Background(), "drop role "+name)
		}
	})
	as := func(role string) *inlined {
		config := f.pool.Config()
		config.ConnConfig.RuntimeParams["role"] = role
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		i := &inlined{fixture: &fixture{T: t, pool: pool}}
		i.store = i.newStore(pool, nil)
		return i
	}
	service, operator := as(roles.App), as(roles.Operator)
	service.keep(record("served", nil))
	runner, err := projection.NewRunner(operator.pool, operator.store, quiet, record("served", nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := service.runner.Operator().StartInline(t.Context(), projection.Ref{Name: "served", Version: projection.Live}); err == nil {
		t.Error("StartInline with the service's role succeeded, want an error")
	}
	if err := runner.Operator().StartInline(t.Context(), projection.Ref{Name: "served", Version: projection.Live}); err != nil {
		t.Error(err)
	}
	if err := service.put(service.aware, "a", 1); err != nil {
		t.Error(err)
	}
	service.checkWritten("served")
	if err := runner.Operator().StopInline(t.Context(), projection.Ref{Name: "served", Version: projection.Live}); err != nil {
		t.Error(err)
	}
}
