package projection_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// TestRefs: each method refuses the versions that it does not take, and changes nothing. Every method refuses a Ref
// without a version.
func TestRefs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, record("a", nothing))
	f.wait(r, f.append(counting, 1))
	o := r.Operator()
	type method struct {
		call      func(context.Context, projection.Ref) error
		live, all bool // whether it takes Live and AllVersions
	}
	methods := map[string]method{
		"Pause":  {func(ctx context.Context, ref projection.Ref) error { return o.Pause(ctx, ref, "a test") }, true, true},
		"Stop":   {func(ctx context.Context, ref projection.Ref) error { return o.Stop(ctx, ref, "a test") }, true, true},
		"Resume": {o.Resume, true, true},
		"Switch": {o.Switch, false, false},
		"Drop":   {o.Drop, false, false},
		"DeadLetters": {func(ctx context.Context, ref projection.Ref) error {
			_, err := o.DeadLetters(ctx, ref, "", 0, 10)
			return err
		}, true, false},
		"DeadLetterGroups": {func(ctx context.Context, ref projection.Ref) error {
			_, err := o.DeadLetterGroups(ctx, ref)
			return err
		}, true, false},
		"AcceptTypes": {o.AcceptTypes, true, false},
		"Reset":       {func(ctx context.Context, ref projection.Ref) error { return o.Reset(ctx, ref, 0) }, true, false},
		"Retry":       {func(ctx context.Context, ref projection.Ref) error { _, err := o.Retry(ctx, ref); return err }, true, false},
		"Edit": {func(ctx context.Context, ref projection.Ref) error {
			_, err := o.Edit(ctx, ref, "k", 1, []byte(`{}`))
			return err
		}, true, false},
		"Skip": {func(ctx context.Context, ref projection.Ref) error {
			_, err := o.Skip(ctx, ref, "k", 1, "a test")
			return err
		}, true, false},
		"RebuildKey":  {func(ctx context.Context, ref projection.Ref) error { return o.RebuildKey(ctx, ref, "k") }, true, false},
		"StartInline": {o.StartInline, true, false},
		"StopInline":  {o.StopInline, true, false},
	}
	for name, m := range methods {
		for version, takes := range map[int]bool{0: false, projection.Live: m.live, projection.AllVersions: m.all, -3: false, -1 << 31: false} {
			if takes {
				continue // TestOperatorWithoutCode and other tests do it
			}
			err := m.call(t.Context(), projection.Ref{Name: "a", Version: version})
			if !errors.As(err, new(*eventstore.InvalidError)) || !strings.Contains(err.Error(), "Ref.Version") {
				t.Errorf("%s of version %d: %v, want an InvalidError that names Ref.Version", name, version, err)
			}
		}
		unknown := m.call(t.Context(), projection.Ref{Name: "nobody", Version: 1})
		if !errors.Is(unknown, projection.ErrUnknownProjection) {
			t.Errorf("%s of an unknown projection: %v, want ErrUnknownProjection", name, unknown)
		}
	}
	if p := f.status(r, "a"); p.State != projection.StateRunning || p.Phase != projection.PhaseLive {
		t.Errorf("after the refusals the projection is %s and %s, want live and running", p.Phase, p.State)
	}
}

// TestOperatorWithoutCode: an Operator has only a pool, and another process runs the projection. The methods of
// Operator work. Drop of a running version and Switch to an unknown version are refused.
func TestOperatorWithoutCode(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, record("a", func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return errors.New("broken") }))
	last := f.append(counting, 1)
	f.wait(r, last)
	o, err := projection.NewOperator(f.pool, quietOperator)
	if err != nil {
		t.Fatal(err)
	}
	live := projection.Ref{Name: "a", Version: projection.Live}
	letters, err := o.DeadLetters(t.Context(), live, "", 0, 10)
	if err != nil || len(letters) != 1 || letters[0].Position != last {
		t.Errorf("dead letters: %+v, %v", letters, err)
	}
	groups, err := o.DeadLetterGroups(t.Context(), projection.Ref{Name: "a", Version: 1})
	if err != nil || len(groups) != 1 || groups[0].Count != 1 {
		t.Errorf("groups: %+v, %v", groups, err)
	}
	for _, ref := range []projection.Ref{live, {Name: "a", Version: 1}, {Name: "a", Version: projection.AllVersions}} {
		if err := o.Pause(t.Context(), ref, "a test"); err != nil {
			t.Errorf("pause %s: %v", ref, err)
		}
		status, err := o.Status(t.Context())
		if err != nil || len(status.Projections) != 1 || status.Projections[0].State != projection.StatePaused || status.Projections[0].Parked != 1 {
			t.Errorf("status: %+v, %v", status, err)
		}
		if err := o.Resume(t.Context(), ref); err != nil {
			t.Errorf("resume %s: %v", ref, err)
		}
	}
	next := f.append(other, 1)
	f.wait(r, next) // it runs again
	if err := o.Drop(t.Context(), projection.Ref{Name: "a", Version: 1}); !errors.Is(err, projection.ErrRefused) {
		t.Errorf("drop of a running version: %v, want ErrRefused", err)
	}
	if err := o.Switch(t.Context(), projection.Ref{Name: "a", Version: 2}); !errors.Is(err, projection.ErrRefused) {
		t.Errorf("switch to an unknown version: %v, want ErrRefused", err)
	}
}

// meanwhile calls do once, after the first query for the live version.
type meanwhile struct {
	once sync.Once
	do   func()
}

type isLiveVersion struct{}

func (m *meanwhile) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, isLiveVersion{}, strings.Contains(data.SQL, "phase = 'live'"))
}

func (m *meanwhile) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if ctx.Value(isLiveVersion{}) == true {
		m.once.Do(m.do)
	}
}

// TestLiveChanges: another version becomes live after an operator has looked up the live version. Then the operator's
// change is made to the new live version.
func TestLiveChanges(t *testing.T) {
	t.Parallel()
	f := setup(t)
	version := func(n int) *projection.Projection {
		return projection.New("a", &projection.Options{Version: n}, projection.On(counting, nothing))
	}
	first, stop := f.start(quiet, f.store, version(1))
	last := f.append(counting, 1)
	f.wait(first, last)
	stop()
	r, _ := f.start(quiet, f.store, version(1), version(2))
	f.until("version 2 is live", func() bool { return f.status(r, "a").Phase == projection.PhaseRetired })
	hook := &meanwhile{do: func() {
		if err := r.Operator().Switch(context.Background(), projection.Ref{Name: "a", Version: 1}); err != nil {
			t.Error(err)
		}
	}}
	pool := pgtest.Connect(t, f.pool.Config().ConnString(), func(c *pgxpool.Config) { c.ConnConfig.Tracer = hook })
	o, err := projection.NewOperator(pool, quietOperator)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Pause(t.Context(), projection.Ref{Name: "a", Version: projection.Live}, "a test"); err != nil {
		t.Fatal(err)
	}
	status, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range status.Projections {
		if live := p.Phase == projection.PhaseLive; live != (p.Version == 1) || live != (p.State == projection.StatePaused) {
			t.Errorf("version %d is %s and %s, want version 1 live and paused, and 2 running", p.Version, p.Phase, p.State)
		}
	}
}
