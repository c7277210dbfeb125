package projection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// statusNow returns the whole status, and that of the first projection.
func (f *fixture) statusNow(r *projection.Runner) (projection.Status, projection.ProjectionStatus) {
	f.Helper()
	var s projection.Status
	f.until("the projection is registered", func() (there bool) {
		var err error
		if s, err = r.Status(f.Context()); err != nil {
			f.Fatal(err)
		}
		return len(s.Projections) > 0
	})
	return s, s.Projections[0]
}

// TestStatusHeld: while a transaction holds the tidemark back, the status names it.
func TestStatusHeld(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, record("a", nil))
	f.wait(r, f.append(counting, 2))
	config := f.pool.Config()
	config.ConnConfig.RuntimeParams["application_name"] = "importer"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	draft, err := counting.Encode(counted{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.WithTx(tx).Append(t.Context(), eventstore.StreamID{Category: "counter", Key: "held"}, eventstore.Any, draft); err != nil {
		t.Fatal(err)
	}
	end := f.append(counting, 1)
	s, p := f.statusNow(r)
	if s.Tidemark >= s.LogEnd || s.LogEnd != end {
		t.Errorf("the tidemark is %d, the log ends at %d; want it held below %d", s.Tidemark, s.LogEnd, end)
	}
	if s.Held == nil || s.Held.PID != int32(tx.Conn().PgConn().PID()) || s.Held.ApplicationName != "importer" || s.Held.Age <= 0 {
		t.Errorf("held by %+v, want importer with pid %d", s.Held, tx.Conn().PgConn().PID())
	}
	if p.Lag != 0 || p.Stalled {
		t.Errorf("lag %d, stalled %t: events after the tidemark must not count as lag", p.Lag, p.Stalled)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(r, end)
	if s, _ = f.statusNow(r); s.Held != nil || s.Tidemark != end {
		t.Errorf("after the transaction's end: held by %+v, tidemark %d, want %d", s.Held, s.Tidemark, end)
	}
}

// TestStatusWhileRegistered: the status has a projection with all its partitions, or does not have it.
func TestStatusWhileRegistered(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const projections, partitions = 40, 2
	var defined []*projection.Projection
	for i := range projections {
		defined = append(defined, projection.New(fmt.Sprint("p", i), &projection.Options{Partitions: partitions}, projection.On(counting, nothing)))
	}
	r, _ := f.start(quiet, f.store, defined...)
	f.until("all of them are registered", func() bool {
		s, err := r.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Projections {
			if len(p.Partitions) != partitions {
				t.Errorf("%s has %d partitions, want %d", p.Name, len(p.Partitions), partitions)
			}
		}
		return len(s.Projections) == projections
	})
}

// TestStatusLag: the status of a paused projection says how far it is behind. The projection is healthy.
func TestStatusLag(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, record("a", nil))
	f.wait(r, f.append(counting, 2))
	ctx := eventstore.WithMetadata(t.Context(), eventstore.Metadata{Actor: "ada"})
	if err := r.Operator().Pause(ctx, projection.Ref{Name: "a", Version: projection.AllVersions}, "a look at it"); err != nil {
		t.Fatal(err)
	}
	last := f.append(counting, 5)
	_, p := f.statusNow(r)
	if p.State != "paused" || p.Reason != "a look at it" || p.Lag != 5 || p.LagTime <= 0 || p.Checkpoint != 2 || p.Handled != 2 {
		t.Errorf("status %+v", p)
	}
	if err := r.Health(t.Context()); err != nil {
		t.Errorf("health: %v", err)
	}
	if err := r.Operator().Resume(ctx, projection.Ref{Name: "a", Version: projection.AllVersions}); err != nil {
		t.Fatal(err)
	}
	f.wait(r, last)
	if _, p = f.statusNow(r); p.State != "running" || p.Reason != "" || p.Lag != 0 || p.Handled != 7 || p.Rate <= 0 {
		t.Errorf("after Resume: %+v", p)
	}
	entries, err := r.Operator().Audit(t.Context(), "a", 2)
	if err != nil || len(entries) != 2 || entries[0].Action != "resume" || entries[1].Action != "pause" || entries[1].Actor != "ada" {
		t.Errorf("audit %+v, %v", entries, err)
	}
}

// TestStalled: a projection is stalled when it is more than StallLag events behind and has made no progress for
// StallAfter.
func TestStalled(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var fixed atomic.Bool
	stuck := func(context.Context, pgx.Tx, eventstore.Event[counted]) error {
		if fixed.Load() {
			return nil
		}
		return projection.Transient(errors.New("stuck"))
	}
	config := *quiet
	config.StallAfter, config.StallLag = 20*time.Millisecond, 2
	r, _ := f.start(&config, f.store, record("a", stuck))
	f.append(counting, 2)
	lenient := config
	lenient.StallAfter = time.Hour
	patient, err := projection.NewRunner(f.pool, f.store, &lenient, record("a", stuck))
	if err != nil {
		t.Fatal(err)
	}
	f.until("it fails for some time", func() bool {
		_, p := f.statusNow(r)
		return p.LagTime > 10*config.StallAfter && p.Partitions[0].Error != ""
	})
	if _, p := f.statusNow(r); p.Stalled {
		t.Errorf("stalled with a lag of %d, which StallLag allows", p.Lag)
	}
	last := f.append(counting, 1)
	if _, p := f.statusNow(r); !p.Stalled || p.Lag != 3 || !strings.Contains(p.Problem(), "stalled: 3 events behind") || !strings.Contains(p.Problem(), "stuck") {
		t.Errorf("stalled %t with a lag of %d: %s", p.Stalled, p.Lag, p.Problem())
	}
	if err := r.Health(t.Context()); err == nil || !strings.Contains(err.Error(), "stalled") {
		t.Errorf("health: %v", err)
	}
	if _, p := f.statusNow(patient); p.Stalled {
		t.Error("stalled before StallAfter")
	}
	fixed.Store(true)
	f.wait(r, last)
	if _, p := f.statusNow(r); p.Stalled || p.Problem() != "" {
		t.Errorf("after the handler was fixed: %+v", p)
	}
}
