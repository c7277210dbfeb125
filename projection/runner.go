package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// Config adjusts a [Runner]. Nil and the zero value are the defaults.
type Config struct {
	// Schema is the Postgres schema the store was migrated into; empty means "tidemark".
	Schema string
	// BatchSize is how many events of the log one transaction covers at most; 0 means 500.
	BatchSize int
	// MaxBackoff bounds the pause after a failure, which starts at 100 ms; 0 means 30 s.
	MaxBackoff time.Duration
	// Logger is told about failures; nil means slog.Default().
	Logger *slog.Logger
}

// ErrUnknownProjection means that a runner has no projection of that name.
var ErrUnknownProjection = errors.New("unknown projection")

// Status tells how a projection is doing.
type Status struct {
	Name string
	// Checkpoint is the position up to which all events are in the read model, as far as this
	// process knows.
	Checkpoint eventstore.Position
	// Err is why the last attempt failed, nil if it did not; FailingSince is when that began.
	Err          error
	FailingSince time.Time
}

// WaitError says that a projection did not reach a position in time. It unwraps to the context's
// error and, if the projection is failing, to the reason.
type WaitError struct {
	Status   Status
	Position eventstore.Position
	Err      error
}

func (e *WaitError) Error() string {
	text := fmt.Sprintf("projection %s is at position %d and did not reach %d: %v",
		e.Status.Name, e.Status.Checkpoint, e.Position, e.Err)
	if e.Status.Err != nil {
		text += fmt.Sprintf(" (it is failing: %v)", e.Status.Err)
	}
	return text
}

// Unwrap returns the errors behind it.
func (e *WaitError) Unwrap() []error { return []error{e.Err, e.Status.Err} }

// Runner runs projections in this process.
type Runner struct {
	workers map[string]*worker
	started sync.Once
}

// NewRunner returns a runner of the given projections over a log, whose read models and
// checkpoints are in the database of pool. Names must differ.
func NewRunner(pool *pgxpool.Pool, log Log, config *Config, projections ...*Projection) (*Runner, error) {
	if pool == nil || log == nil {
		return nil, errors.New("projection.NewRunner: pool and log must be given")
	}
	c := config.withDefaults()
	schema, err := pgschema.Name(c.Schema)
	if err != nil {
		return nil, fmt.Errorf("projection.NewRunner: %w", err)
	}
	if c.BatchSize < 1 || c.MaxBackoff < 0 {
		return nil, errors.New("projection.NewRunner: BatchSize and MaxBackoff must not be negative")
	}
	var types []string
	for _, p := range projections {
		types = append(types, p.types...)
	}
	slices.Sort(types)
	feed := newFeed(log, eventstore.Filter{Types: slices.Compact(types)}, c.BatchSize)

	r := &Runner{workers: make(map[string]*worker)}
	for _, p := range projections {
		if _, taken := r.workers[p.name]; taken {
			return nil, fmt.Errorf("projection.NewRunner: two projections are named %q", p.name)
		}
		r.workers[p.name] = &worker{
			Projection:  p,
			checkpoints: newCheckpoints(pool, schema),
			feed:        feed,
			logger:      c.Logger,
			maxBackoff:  c.MaxBackoff,
			status:      Status{Name: p.name},
			moved:       make(chan struct{}),
		}
	}
	return r, nil
}

func (c *Config) withDefaults() Config {
	var d Config
	if c != nil {
		d = *c
	}
	if d.BatchSize == 0 {
		d.BatchSize = 500
	}
	if d.MaxBackoff == 0 {
		d.MaxBackoff = 30 * time.Second
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return d
}

// Run runs the projections until ctx is done and then returns nil; a batch under way is rolled
// back and done again next time. It returns an error at once when the checkpoints cannot be
// read, such as [eventstore.ErrNotMigrated]; later failures are retried. Run may be called once.
func (r *Runner) Run(ctx context.Context) error {
	first := false
	r.started.Do(func() { first = true })
	if !first {
		return errors.New("projection: a runner runs once: make another one")
	}
	for _, w := range r.workers {
		if err := w.start(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	var running sync.WaitGroup
	for _, w := range r.workers {
		running.Go(func() { w.run(ctx) })
	}
	running.Wait()
	return nil
}

// Wait returns when all the named projections, or all there are if none is named, have every
// event up to position in their read models. When ctx is done first it returns a [WaitError].
// It waits only for projections of this runner, whichever process advances them.
func (r *Runner) Wait(ctx context.Context, position eventstore.Position, projections ...string) error {
	if len(projections) == 0 {
		projections = slices.Collect(maps.Keys(r.workers))
	}
	for _, name := range projections {
		w, ok := r.workers[name]
		if !ok {
			return fmt.Errorf("wait for projection %q: %w", name, ErrUnknownProjection)
		}
		if err := w.wait(ctx, position); err != nil {
			return err
		}
	}
	return nil
}

// Status returns how each projection is doing, sorted by name.
func (r *Runner) Status() []Status {
	var all []Status
	for _, name := range slices.Sorted(maps.Keys(r.workers)) {
		status, _ := r.workers[name].now()
		all = append(all, status)
	}
	return all
}
