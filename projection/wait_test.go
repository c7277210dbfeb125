package projection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestWaitTogether: each Wait keeps its own deadline, even while another Wait asks the database and gets no answer.
func TestWaitTogether(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.start(quiet, f.store, record("a", nil))
	r, err := projection.NewRunner(f.pool, f.store, quiet, record("a", nil)) // does not run, so its Wait asks the database
	if err != nil {
		t.Fatal(err)
	}
	last := f.append(counting, 1)
	f.wait(r, last)
	stuck, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stuck.Exec(t.Context(), `lock table tidemark.projections`); err != nil {
		t.Fatal(err)
	}
	patient := make(chan error, 1)
	go func() { patient <- r.Wait(t.Context(), last+1) }()
	f.until("the first Wait asks the database", func() bool {
		return f.isBlocked(`query like '%having count%'`)
	})
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	unlock := time.AfterFunc(5*time.Second, func() { _ = stuck.Rollback(context.Background()) })
	if err := r.Wait(ctx, last+1); err == nil || time.Since(start) > 2*time.Second {
		t.Errorf("Wait took %s with a deadline of 50ms: %v", time.Since(start), err)
	}
	if unlock.Stop() {
		_ = stuck.Rollback(t.Context())
	}
	f.append(counting, 1)
	if err := <-patient; err != nil {
		t.Error(err)
	}
}

// TestWaitSaysWhy: the error of Wait says that the projection is paused, or that the runner has ended. When the runner
// has ended, Health returns an error too.
func TestWaitSaysWhy(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store, record("a", nil))
	f.wait(r, f.put("a", 0))
	if err := r.Operator().Pause(t.Context(), projection.Ref{Name: "a", Version: projection.AllVersions}, "for lunch"); err != nil {
		t.Fatal(err)
	}
	last := f.put("a", 1)
	why := func(r *projection.Runner) string {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return fmt.Sprint(r.Wait(ctx, last))
	}
	if got := why(r); !strings.Contains(got, "it is paused: for lunch") {
		t.Errorf("paused: %s", got)
	}
	options := &projection.Options{Partitions: 2}
	changed := projection.New("a", options, projection.On(counting, func(context.Context, pgx.Tx, eventstore.Event[counted]) error { return nil }))
	r, err := projection.NewRunner(f.pool, f.store, quiet, changed)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Health(t.Context()); err != nil {
		t.Errorf("health before Run: %v", err)
	}
	if err := r.Run(t.Context()); err == nil {
		t.Fatal("Run: nil, want it refused")
	}
	for _, got := range []string{why(r), fmt.Sprint(r.Health(t.Context()))} {
		if !strings.Contains(got, "the runner has ended") || !strings.Contains(got, "2") {
			t.Errorf("after Run has failed: %s", got)
		}
	}
}

// TestHealthOfOthers: when no process runs the live version, Health returns an error for runners of other versions of
// the same name.
func TestHealthOfOthers(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config := *quiet
	config.StallAfter = 10 * time.Millisecond
	r, stop := f.rollProcess(&config, rollTable(projection.Options{Version: 1}, nil))
	f.wait(r, f.rollHistory(3, 1))
	stop()
	_, stop = f.rollProcess(&config, rollTable(projection.Options{Version: 1}, nil), rollTable(projection.Options{Version: 2}, nil))
	f.rollPhase(2, "live")
	stop()
	r, _ = f.rollProcess(&config, rollTable(projection.Options{Version: 1}, nil)) // the release with version 2 was taken back
	f.rollHistory(3, 1)
	f.until("unhealthy", func() bool {
		err := r.Health(t.Context())
		return err != nil && strings.Contains(err.Error(), "version 2: stalled")
	})
}

// TestWaitBeforeRun: when calls wait without a deadline for a projection that no process runs, the reason is logged,
// once for all of them.
func TestWaitBeforeRun(t *testing.T) {
	t.Parallel()
	f := setup(t)
	config, said := talking()
	r, err := projection.NewRunner(f.pool, f.store, config, record("a", nil))
	if err != nil {
		t.Fatal(err)
	}
	position := f.put("a", 1)
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			if err := r.Wait(ctx, position); !errors.Is(err, context.Canceled) {
				t.Errorf("%v, want context.Canceled", err)
			}
		})
	}
	f.until("the log says why", func() bool { return said.has("call Runner.Run") })
	cancel()
	waiting.Wait()
	if n := strings.Count(said.text.String(), "\n"); n != 1 {
		t.Errorf("%d lines are logged, want one", n)
	}
}

// TestWaitForTables: Wait for position 0 returns when the tables exist, and not before.
func TestWaitForTables(t *testing.T) {
	t.Parallel()
	f := setup(t)
	lock, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback(context.Background()) }() // does nothing after the commit
	if _, err := lock.Exec(t.Context(), `lock table tidemark.projections in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	r, _ := f.start(quiet, f.store, rollTable(projection.Options{}, nil))
	waited := make(chan error, 1)
	go func() { waited <- r.Wait(context.WithoutCancel(t.Context()), 0) }()
	f.until("the runner waits for the lock", func() bool {
		return f.isBlocked(`true`)
	})
	select {
	case err := <-waited:
		t.Fatalf("Wait did not wait for the tables: %v", err)
	default:
	}
	if err := lock.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	f.rollNumber(`select count(*) from tally`)
}
