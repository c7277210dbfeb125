package projection

import (
	"cmp"
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

// askAfter is how often a waiting call asks how far a projection is that other processes run.
const askAfter = 10 * time.Millisecond

// family is the versions of one projection that this process runs.
type family struct {
	versions []*deployment
	moved    *signal.Signal

	asking chan struct{} // has room for one: whoever comes meanwhile gets the same answer
	asked  time.Time
	at     atomic.Int64 // the answer

	made time.Time
	told atomic.Int64 // how long after it was made it was last logged that a call waits in vain, in nanoseconds
}

func newFamily() *family {
	return &family{moved: signal.New(), asking: make(chan struct{}, 1), made: time.Now()}
}

// Wait returns when all the named projections, or all there are if none is named, have every
// event up to position in the read models that readers see, except those that are parked as dead
// letters. Position 0 is reached when their tables are there: a service waits for it before it answers
// queries. When ctx is done first Wait returns a [WaitError]; after a second it is logged why that may become of it, such
// as that no process runs the projection. Wait waits only for projections of this runner, whichever process advances
// them.
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

// wait is woken by this process's own progress, and looks after that of others.
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
	// vainAfter is how long a call waits until it is logged why it may wait in vain, and tellEvery how often that is logged.
	vainAfter = time.Second
	tellEvery = 10 * time.Second
)

// tellVain logs that a call waits for a projection that no process runs, or that makes no progress: the caller may
// have no deadline.
func (r *Runner) tellVain(ctx context.Context, n *family, name string) {
	last, now := n.told.Load(), int64(time.Since(n.made))
	if last > 0 && now-last < int64(tellEvery) || !n.told.CompareAndSwap(last, now) {
		return
	}
	if reason := r.reason(ctx, n, name); reason != nil {
		r.engine.logger.WarnContext(ctx, "projection: a call waits for a projection that makes no progress", "projection", name, "reason", reason)
	}
}

// ask reads how far the live version is.
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

// local returns how far the live version is, if this process runs all of it.
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
		return fmt.Errorf("process %s, which runs it, was not heard of for %s: another one takes its place in %s",
			live.Owner, live.Silent.Round(100*time.Millisecond), live.Left.Round(100*time.Millisecond))
	}
	return nil
}

// silentAfter is how long a lease may not be renewed, if that is half of it, until its owner may have died.
const silentAfter = time.Second

// trouble returns why a version that this process runs makes no progress.
func (n *family) trouble() error {
	for _, v := range n.versions {
		v.mu.Lock()
		err := cmp.Or(v.trouble, v.away)
		v.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
