package projection

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/signal"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// askAfter is how often a waiting call asks for the checkpoint of a projection that other processes run.
const askAfter = 10 * time.Millisecond

// family is the versions of one projection that this process runs.
type family struct {
	versions []*deployment
	moved    *signal.Signal

	asking chan struct{} // has room for one call: the calls that wait for it share its answer
	asked  time.Time
	at     atomic.Int64 // the answer

	made time.Time
	told atomic.Int64 // when it was last logged that a call waits in vain, in nanoseconds after made
}

func newFamily() *family {
	return &family{moved: signal.New(), asking: make(chan struct{}, 1), made: time.Now()}
}

// Wait returns when the named projections, or all projections of the runner if none is named, have every event up to
// position in the read models that readers see. Parked events are the exception. Position 0 is reached when the tables
// of the projections exist: a service waits for it before it answers queries. If ctx is done before that, Wait returns
// a [WaitError]. After one second, Wait logs why it may not succeed, for example that no process runs the projection.
// Wait waits only for projections of this runner. It does not matter which process advances them.
func (r *Runner) Wait(ctx context.Context, position eventstore.Position, projections ...string) error {
	if len(projections) == 0 {
		projections = slices.Sorted(maps.Keys(r.names))
	}
	for _, name := range projections {
		n, ok := r.names[name]
		if !ok {
			return fmt.Errorf("wait for projection %q: %w", name, ErrUnknownProjection)
		}
		if err := r.wait(ctx, position, n, name); err != nil {
			return err
		}
	}
	return nil
}

// wait is woken by the progress of this process, and asks the database for the progress of other processes.
func (r *Runner) wait(ctx context.Context, position eventstore.Position, n *family, name string) error {
	for start := time.Now(); ; {
		moved := n.moved.Wait()
		at, all := n.local()
		if all && at >= position {
			return nil
		}
		var poll <-chan time.Time
		if !all {
			var err error
			at, err = r.ask(ctx, n, name)
			if err == nil && at >= position {
				return nil
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, pgx.ErrNoRows) {
				r.engine.logger.WarnContext(ctx, "projection: cannot read a checkpoint that a call waits for",
					"projection", name, "error", err)
			}
			poll = time.After(askAfter)
			if time.Since(start) > vainAfter {
				r.tellVain(ctx, n, name)
			}
		}
		select {
		case <-moved:
		case <-poll:
		case <-ctx.Done():
			return &WaitError{
				Projection: name, Checkpoint: at, Position: position, Reason: r.reason(ctx, n, name), Err: context.Cause(ctx),
			}
		}
	}
}

const (
	// vainAfter is how long a call waits before the log says why it may wait in vain. tellEvery is how often the log
	// says so.
	vainAfter = time.Second
	tellEvery = 10 * time.Second
)

// tellVain logs that a call waits for a projection that no process runs, or that makes no progress. The caller may have
// no deadline, and would never learn the reason.
func (r *Runner) tellVain(ctx context.Context, n *family, name string) {
	last, now := n.told.Load(), int64(time.Since(n.made))
	if last > 0 && now-last < int64(tellEvery) || !n.told.CompareAndSwap(last, now) {
		return
	}
	if reason := r.reason(ctx, n, name); reason != nil {
		r.engine.logger.WarnContext(ctx, "projection: a call waits for a projection that makes no progress", "projection", name, "reason", reason)
	}
}

// ask reads the checkpoint of the live version.
func (r *Runner) ask(ctx context.Context, n *family, name string) (eventstore.Position, error) {
	last := func() eventstore.Position { return eventstore.Position(n.at.Load()) }
	select {
	case n.asking <- struct{}{}:
		defer func() { <-n.asking }()
	case <-ctx.Done():
		return last(), ctx.Err()
	}
	if time.Since(n.asked) < askAfter/2 {
		return last(), nil
	}
	at, err := r.engine.catalog.LiveCheckpoint(ctx, r.engine.pool, name)
	if err != nil {
		return last(), err
	}
	n.at.Store(int64(at))
	n.asked = time.Now()
	return at, nil
}

// local returns how far the live version is, if this process runs all its partitions.
func (n *family) local() (eventstore.Position, bool) {
	for _, v := range n.versions {
		if at, all := v.local(); all {
			return at, true
		}
	}
	return 0, false
}

// reason returns why a projection makes no progress, if that is known.
func (r *Runner) reason(ctx context.Context, n *family, name string) error {
	if err := r.failure.Load(); err != nil {
		return fmt.Errorf("the runner has ended: %w", *err)
	}
	if err := n.trouble(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	live, err := r.engine.catalog.LiveState(ctx, r.engine.pool, name)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("no process has run it yet: call Runner.Run")
	case err != nil:
		return nil
	case live.State != catalog.Running:
		return fmt.Errorf("it is %s: %s", live.State, live.Reason)
	case !live.Leased:
		return errors.New("no process runs it: call Runner.Run")
	case live.Silent > silentAfter && live.Silent > (live.Left+live.Silent)/2:
		return fmt.Errorf("process %s runs it, and has not renewed its lease for %s: another process takes over in %s",
			live.Owner, live.Silent.Round(100*time.Millisecond), live.Left.Round(100*time.Millisecond))
	}
	return nil
}

// silentAfter is how long a lease must not have been renewed before its owner may have died. At least half of the lease
// must have passed too.
const silentAfter = time.Second

// trouble returns why a version that this process runs makes no progress.
func (n *family) trouble() error {
	for _, v := range n.versions {
		if err := v.trouble(); err != nil {
			return err
		}
	}
	return nil
}
