package projectiontest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// Run appends the events to the store in the schema "tidemark" of a database that has been migrated. It runs the
// projection until it has handled all events of that store, and stops it. Run may be called again, with further events.
// The test fails when an event cannot be handled, or when the projection stops.
func Run(t testing.TB, pool *pgxpool.Pool, p *projection.Projection, events ...Event) {
	t.Helper()
	if p == nil {
		t.Fatal("projectiontest.Run: the projection is nil: pass one that projection.New, NewTable or NewSubscription returned")
	}
	r := &rig{pool: pool, own: pool, cuts: &cutter{}}
	var err error
	if r.store, err = eventstore.New(pool, &eventstore.Config{PollOnly: true}); err != nil {
		t.Fatal(err)
	}
	defer r.store.Close()
	h := newHistory(r.store, 0, nil)
	err = r.play(t.Context(), h, func(ctx context.Context) error { return appendAll(ctx, r.store, events) },
		func() []*projection.Projection { return []*projection.Projection{p} })
	if err != nil {
		t.Fatal(err)
	}
}

const (
	// lookAfter is how often the test looks whether a projection has stopped.
	lookAfter = 50 * time.Millisecond
	// patience is how long a projection may make no progress, unless the test has less time.
	patience = 20 * time.Second
)

// rig is a database, with everything that runs projections over its log.
type rig struct {
	schema string
	pool   *pgxpool.Pool // the test's, which is never cut
	own    *pgxpool.Pool // the projections', which is cut
	cuts   *cutter
	store  *eventstore.Store
}

// play runs projections until they have handled a history. When a process crashes, another one continues. The events
// are appended when the first process has registered the projections.
func (r *rig) play(ctx context.Context, h *history, fill func(context.Context) error, projections func() []*projection.Projection) error {
	for crashed := true; crashed; {
		var err error
		if crashed, err = r.process(ctx, h, fill, projections()); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) runner(pool *pgxpool.Pool, h *history, projections []*projection.Projection) (*projection.Runner, error) {
	return projection.NewRunner(pool, h, &projection.Config{
		Schema: r.schema, BatchSize: h.batchSize(), Concurrency: 1, MaxBackoff: time.Millisecond,
		PollOnly: true, Logger: slog.New(slog.DiscardHandler),
	}, projections...)
}

// process runs projections until they have handled the history, or the process crashes.
func (r *rig) process(ctx context.Context, h *history, fill func(context.Context) error, projections []*projection.Projection) (crashed bool, err error) {
	runner, err := r.runner(r.own, h, projections)
	if err != nil {
		return false, err
	}
	operator, err := r.runner(r.pool, h, projections)
	if err != nil {
		return false, err
	}
	crash := r.cuts.begin()
	begun := make(chan struct{}, 1)
	h.asked = func() {
		r.cuts.arm()
		select {
		case begun <- struct{}{}:
		default:
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	stop := func() error {
		cancel()
		return <-ended
	}
	select {
	case <-begun:
	case err := <-ended:
		cancel()
		return false, errors.Join(err, ctx.Err())
	}
	select {
	case <-h.ready: // an earlier process has appended the events
	default:
		if err = fill(ctx); err == nil {
			err = h.load(ctx)
		}
		if err != nil {
			return false, errors.Join(err, stop())
		}
	}
	done := make(chan error, 1)
	go func() { done <- r.await(ctx, h, runner, operator, projections) }()
	select {
	case <-crash:
		crashed = true
	case err = <-done:
	}
	return crashed, errors.Join(err, stop())
}

// await returns nil when the newest version of the projections is live and has handled the history. It returns an error
// when this will never happen.
func (r *rig) await(ctx context.Context, h *history, runner, operator *projection.Runner, projections []*projection.Projection) error {
	newest := projections[len(projections)-1]
	ours := make(map[int]bool)
	for _, p := range projections {
		ours[p.Version()] = true
	}
	waited := make(chan error, 1)
	go func() { waited <- runner.Wait(ctx, h.end(), newest.Name()) }()
	look := time.NewTicker(lookAfter)
	defer look.Stop()
	progress, since, handled := "", time.Now(), false
	for {
		select {
		case err := <-waited:
			if err != nil {
				return err
			}
			handled = true
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		s, err := operator.Status(ctx)
		if err != nil {
			return err
		}
		s.Projections = slices.DeleteFunc(s.Projections, func(p projection.ProjectionStatus) bool { return !ours[p.Version] })
		done, at := handled, ""
		var problems []string
		for _, p := range s.Projections {
			if p.State != "running" {
				return fmt.Errorf("projection %s, version %d, has %s: %s", p.Name, p.Version, p.State, p.Reason)
			}
			if p.Version == newest.Version() {
				done = done && p.Phase == "live"
			}
			at += fmt.Sprint(p.Version, p.Phase, p.Checkpoint, p.Handled, p.Parked, " ")
			problems = append(problems, p.Problem())
		}
		if done {
			return r.letters(ctx, s, operator)
		}
		if at != progress {
			progress, since = at, time.Now()
		}
		if time.Since(since) > patience {
			return fmt.Errorf("projection %s makes no progress: %s", newest.Name(), strings.Join(problems, "; "))
		}
	}
}

// letters returns an error that names the events that could not be handled.
func (r *rig) letters(ctx context.Context, s projection.Status, operator *projection.Runner) error {
	var all []error
	for _, p := range s.Projections {
		if p.Parked == 0 {
			continue
		}
		letters, err := operator.Operator().DeadLetters(ctx, projection.Ref{Name: p.Name, Version: p.Version}, "", 0, 10)
		if err != nil {
			return err
		}
		for _, l := range letters {
			all = append(all, fmt.Errorf("projection %s cannot handle event %q at position %d of stream %s, with %d events of its key behind it: %s",
				p.Name, l.Type, l.Position, l.Stream, l.Waiting, l.Error))
		}
	}
	return errors.Join(all...)
}

// partitions returns how many partitions the projections have.
func (r *rig) partitions(ctx context.Context, h *history, projections []*projection.Projection) (int, error) {
	operator, err := r.runner(r.pool, h, projections)
	if err != nil {
		return 0, err
	}
	s, err := operator.Status(ctx)
	if err != nil || len(s.Projections) == 0 {
		return 0, err
	}
	return len(s.Projections[0].Partitions), nil
}
