package projection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pause"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/signal"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// maxCounted bounds how much of a log is counted while other processes wait for their registration. If the log ends at
// a higher position, the planner of Postgres estimates the number of events.
const maxCounted = 100_000

// ChangedError means that a projection differs from the one that is stored under its name and version.
type ChangedError struct {
	Projection string
	Version    int
	What       string // the difference
	advice     string // "" means: raise the version
}

// Error names the projection and the difference, and says what to do.
func (e *ChangedError) Error() string {
	advice := cmp.Or(e.advice, "raise Options.Version to rebuild it, while the present version stays")
	return fmt.Sprintf("projection %s: %s; %s", e.Projection, e.What, advice)
}

// deployment is one version of a projection as this process runs it.
type deployment struct {
	projection *Projection
	engine     *engine

	notRunHere atomic.Bool  // this process does not run the version: it does not know all stored types, for example, or the version is not stored
	left       atomic.Bool  // the other processes have been told
	refused    error        // why Run could not register the version; set before the version runs
	generation atomic.Int64 // raised when the values that workers remember of their partitions become invalid

	mu      sync.Mutex
	phase   string           // as of the last plan
	owned   map[int]progress // the partitions that this process runs
	failing map[int]error    // why some of these partitions make no progress
	away    error            // why this process runs no partition of the version
	unable  error            // why this process cannot run the version, although others may be able to; nil if it may try
	until   time.Time        // when this process tries again even if others run the version
	others  bool             // other processes run the version, as of the last plan
	moved   *signal.Signal   // shared by all versions of the name
}

// progress is how far a partition is, and whether readers see its version.
type progress struct {
	at   eventstore.Position
	live bool
}

// registerFor is how long registering a version is tried again after errors that pass.
const registerFor = 10 * time.Second

// registerPatiently is register. It tries again after a deadlock, a serialization failure or a lock timeout.
func (v *deployment) registerPatiently(ctx context.Context, log uuid.UUID) error {
	for began := time.Now(); ; {
		err := v.register(ctx, log)
		said := err
		if ddl := (*ddlError)(nil); errors.As(err, &ddl) {
			said = ddl.err
		}
		passes := pgerr.Is(said, pgerr.LockNotAvailable, pgerr.Deadlock, pgerr.SerializationFailure)
		if !passes || time.Since(began) > registerFor {
			return err
		}
		v.engine.logger.WarnContext(ctx, "projection: cannot be registered and will be tried again",
			"projection", v.projection.name, "version", v.projection.options.Version, "error", err)
		if pause.Sleep(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}

// register creates the stored state of a version that a runner needs, or checks that the stored state fits. log is the
// identity of the runner's log.
func (v *deployment) register(ctx context.Context, log uuid.UUID) error {
	err := v.engine.db.inTx(ctx, func(tx pgx.Tx) error {
		if err := v.engine.catalog.LockName(ctx, tx, v.projection.name); err != nil {
			return err
		}
		rows, err := v.engine.catalog.Versions(ctx, tx, v.projection.name)
		if err != nil {
			return err
		}
		if n := slices.IndexFunc(rows, func(s catalog.Version) bool { return s.Log != log }); n >= 0 {
			return &ChangedError{Projection: v.projection.name, Version: rows[n].Version, advice: "give it another name to build it from this log",
				What: fmt.Sprintf("its checkpoints are positions of log %s, and the runner's log is %s", rows[n].Log, log)}
		}
		if n := slices.IndexFunc(rows, func(s catalog.Version) bool { return s.Version == v.projection.options.Version }); n >= 0 {
			return v.check(ctx, tx, rows[n])
		}
		phase := catalog.Live
		if n := slices.IndexFunc(rows, func(s catalog.Version) bool { return s.Phase == catalog.Live }); n >= 0 {
			phase = catalog.Building
			if rows[n].Version > v.projection.options.Version {
				v.notRunHere.Store(true)
				v.engine.logger.WarnContext(ctx,
					"projection is not run: a higher version is live, and this version is not stored any more",
					"projection", v.projection.name, "version", v.projection.options.Version, "live", rows[n].Version)
				return nil
			}
		}
		return v.create(ctx, tx, phase, log)
	})
	if pgerr.NotMigrated(err) {
		return fmt.Errorf("projection %s: %w: call migrations.Up first: %w", v.projection.name, eventstore.ErrNotMigrated, err)
	}
	if err != nil {
		return fmt.Errorf("projection %s: register version %d: %w", v.projection.name, v.projection.options.Version, err)
	}
	return nil
}

// create stores a new version, and makes its tables.
func (v *deployment) create(ctx context.Context, tx pgx.Tx, phase string, log uuid.UUID) error {
	o := v.projection.options
	if err := v.claimTables(ctx, tx); err != nil {
		return err
	}
	total, end, err := v.total(ctx, tx, phase)
	if err != nil {
		return err
	}
	var at eventstore.Mark
	if o.FromNow {
		if at, err = v.engine.db.log.in(tx).end(ctx); err != nil {
			return err
		}
	}
	err = v.engine.catalog.Register(ctx, tx, v.projection.name, catalog.NewVersion{
		Version: catalog.Version{
			Version: o.Version, Phase: phase, Partitions: o.Partitions, Types: v.projection.stored,
			Definition: v.projection.definition(), Kind: v.projection.kind(), Log: log,
		},
		Tables: append([]string{}, o.Tables...), Total: total, TotalAt: end,
	})
	if err != nil {
		return err
	}
	if err := v.engine.catalog.AddPartitions(ctx, tx, v.projection.id(), o.Partitions, at); err != nil {
		return err
	}
	if o.DDL != "" {
		if _, err := tx.Exec(ctx, v.projection.names.sql(v.projection.options.DDL)); err != nil {
			return &ddlError{err}
		}
	}
	if phase == catalog.Live {
		if err := v.engine.db.showTables(ctx, tx, o.Tables, o.Version); err != nil {
			return &ddlError{err}
		}
	}
	details := map[string]any{"phase": phase, "partitions": o.Partitions}
	return v.engine.db.audit(ctx, tx, v.projection.id(), "create", details)
}

// total returns about how many events must be handled until a version has been built, and where the log ends.
func (v *deployment) total(ctx context.Context, tx pgx.Tx, phase string) (total int64, end eventstore.Position, err error) {
	if phase != catalog.Building {
		return 0, 0, nil
	}
	log, types := v.engine.db.log.in(tx), v.projection.filter()
	if end, err = log.Tidemark(ctx); err != nil {
		return 0, 0, err
	}
	if end <= maxCounted {
		total, _, err = log.count(ctx, 0, end, types, math.MaxInt64)
	} else {
		total, err = log.estimate(ctx, end, types)
	}
	return total, end, err
}

// ddlError wraps an error of the DDL: an undefined table of the application must not look like a missing migration.
type ddlError struct{ err error }

func (e *ddlError) Error() string {
	if pgerr.Duplicate(e.err) {
		return "make its tables: " + e.err.Error() + ": it may be left over from a projection that was deleted by hand: drop or rename it"
	}
	return "make its tables: " + e.err.Error()
}

// check compares a projection with its stored version. Types that the stored version does not have yet are added: from
// now on, the processes that know these types handle them.
func (v *deployment) check(ctx context.Context, tx pgx.Tx, s catalog.Version) error {
	switch {
	case s.Partitions != v.projection.options.Partitions:
		return v.changed(s, fmt.Sprintf("it has %d partitions, not %d", s.Partitions, v.projection.options.Partitions))
	case s.Kind != "" && s.Kind != v.projection.kind():
		return v.changed(s, fmt.Sprintf("the stored projection is made of %s, and this one of %s: give one of them another name", s.Kind, v.projection.kind()))
	case s.Definition != v.projection.definition():
		return v.changed(s, difference(s.Definition, v.projection.definition()))
	}
	var added []string
	for _, t := range v.projection.stored {
		if !slices.Contains(s.Types, t) && !slices.Contains(s.Types, allTypes) {
			added = append(added, t)
		}
	}
	if len(added) == 0 {
		return nil
	}
	return v.addTypes(ctx, tx, s, added)
}

func (v *deployment) changed(s catalog.Version, what string) error {
	return &ChangedError{Projection: v.projection.name, Version: s.Version, What: what}
}

// addTypes adds types that a version handles from now on.
func (v *deployment) addTypes(ctx context.Context, tx pgx.Tx, s catalog.Version, types []string) error {
	id := v.projection.id()
	if _, err := v.engine.catalog.LockVersions(ctx, tx, id.Name); err != nil {
		return err
	}
	// Processes that do not know the types must not continue. The fence keeps the checkpoints where they are.
	if err := v.engine.catalog.Fence(ctx, tx, id, nil); err != nil {
		return err
	}
	passed, err := v.engine.catalog.Farthest(ctx, tx, id)
	if err != nil {
		return err
	}
	missed, err := v.missed(ctx, tx, types, passed)
	if err != nil {
		return err
	}
	added := make(map[string]eventstore.Position)
	for _, t := range missed {
		added[t] = passed
	}
	if len(added) > 0 {
		v.engine.logger.WarnContext(ctx,
			"projection handles new event types, from its checkpoint on: raise its version to have the earlier ones",
			"projection", v.projection.name, "version", s.Version, "types", added)
	}
	all := slices.Concat(s.Types, types)
	slices.Sort(all)
	newTypes := slices.ContainsFunc(types, func(t string) bool { return slices.Contains(v.projection.types, t) })
	changed, err := v.engine.catalog.ChangeTypes(ctx, tx, id, all, added, newTypes)
	if err != nil {
		return err
	}
	if !changed { // writers of the old release would continue to append these types
		return v.changed(s, "it is kept inline, with fewer event types: call RunnerOperator.StopInline before types are added")
	}
	return v.engine.db.audit(ctx, tx, id, "add types", map[string]any{"types": types, "missed": added})
}

// missedWithin bounds the search for events of added types. There is no index by type.
const missedWithin = 2 * time.Second

// missed returns the new types that have events up to a position. It also returns types that may have some, if the
// search took too long.
func (v *deployment) missed(ctx context.Context, tx pgx.Tx, types []string, passed eventstore.Position) ([]string, error) {
	types = slices.DeleteFunc(slices.Clone(types), func(t string) bool {
		return !slices.Contains(v.projection.types, t) // a new schema of a known type: no event has it yet
	})
	if passed == 0 || len(types) == 0 || slices.Contains(types, allTypes) {
		return types, nil
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	limit := fmt.Sprintf(`set local statement_timeout = %d`, missedWithin.Milliseconds())
	if _, err := savepoint.Exec(ctx, limit); err != nil {
		return nil, err
	}
	began := time.Now()
	inTime := func() bool { return time.Since(began) < missedWithin }
	found, err := v.engine.db.log.in(savepoint).typesUpTo(ctx, types, passed, inTime)
	if pgerr.Is(err, pgerr.Canceled) {
		err = nil // found includes the types that were not searched to the end
	}
	return found, errors.Join(err, savepoint.Rollback(ctx)) // the rollback also resets the timeout
}

// allTypes stands for all event types. [EffectAll] uses it.
const allTypes = "*"

// covers reports whether this process knows all types and schemas that the projection handles. If it does not, a newer
// release runs beside it, and this process would pass over events.
func (v *deployment) covers(types []string) bool {
	return v.projection.known[allTypes] || !slices.ContainsFunc(types, func(t string) bool { return !v.projection.known[t] })
}

// reached notes the checkpoint of a partition that this process runs, and wakes the calls that wait for it. generation
// is the generation in which the worker has read the partition. A call with an older generation has no effect.
func (v *deployment) reached(partition int, at eventstore.Position, live bool, generation int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if generation != v.generation.Load() {
		return
	}
	v.owned[partition] = progress{at, live}
	v.moved.Notify()
}

// failed notes why a partition makes no progress.
func (v *deployment) failed(partition int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failing[partition] = err
}

// recovered notes that a partition makes progress again.
func (v *deployment) recovered(partition int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.failing, partition)
}

// trouble returns why the version makes no progress: the failure of its first failing partition, or why this process
// runs none of its partitions.
func (v *deployment) trouble() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, partition := range slices.Sorted(maps.Keys(v.failing)) {
		return v.failing[partition]
	}
	return v.away
}

// disowned notes that this process no longer runs a partition.
func (v *deployment) disowned(partition int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.owned, partition)
	delete(v.failing, partition)
	v.moved.Notify()
}

// local returns the position that the version has reached, if this process runs all its partitions.
func (v *deployment) local() (at eventstore.Position, all bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.owned) < v.projection.options.Partitions {
		return 0, false
	}
	at = math.MaxInt64
	for _, r := range v.owned {
		if !r.live {
			return 0, false
		}
		at = min(at, r.at)
	}
	return at, true
}

// disownAll forgets how far the partitions are, because an operator has changed it. Calls that wait then ask the
// database.
func (v *deployment) disownAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.generation.Add(1) // after the commit of the change: a worker that reads its partition from now on sees the change
	clear(v.owned)
	v.moved.Notify()
}
