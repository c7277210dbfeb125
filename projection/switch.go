package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

const (
	// switchEvery is how often a version that is being built looks whether it may take over. After it
	// has tried and failed it waits: twice as long each time, up to maxSwitchPause, or the live version
	// would be held again before it has done anything.
	switchEvery    = 200 * time.Millisecond
	maxSwitchPause = 30 * time.Second
	// switchLag is how many positions behind the live version it may be to try, and switchTime how
	// long the live version waits for it then: twice as long each time, up to maxSwitchTime, or a
	// slow one would never reach a busy one.
	switchLag     = 2000
	switchTime    = 250 * time.Millisecond
	maxSwitchTime = 4 * time.Second
)

const lockVersionsSQL = `
select version, phase, state, partitions, tables
  from SCHEMA.projections
 where name = $1
 order by version
   for no key update`

const checkpointsSQL = `
select checkpoint
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2
 order by partition`

const setReasonSQL = `
update SCHEMA.projections
   set reason = $3
 where name = $1
   and version = $2
   and phase = 'building'`

const setPhaseSQL = `
update SCHEMA.projections
   set phase = $3, reason = case when state = 'running' then null else reason end, held_until = null, updated_at = clock_timestamp()
 where name = $1
   and version = $2`

// takeover is how often in a row a version has failed to take over, and when it may try again.
type takeover struct {
	failed int
	next   time.Time
}

// patience is how long the live version waits for one that has failed so often.
func (t *takeover) patience() time.Duration { return min(switchTime<<min(t.failed, 10), maxSwitchTime) }

// noted counts an attempt if the live version was held for it, or somebody has to do something, and returns
// how long to wait.
func (t *takeover) noted(err error) (pause time.Duration) {
	var behind *behindError
	if errors.As(err, &behind) && !behind.tried || errors.Is(err, ErrRefused) {
		return switchEvery
	}
	t.failed++
	return min(switchEvery<<min(t.failed, 10), maxSwitchPause)
}

// switchVersions lets versions that are being built take over when they have caught up.
func (r *Runner) switchVersions(ctx context.Context) {
	takeovers := make(map[versionID]*takeover)
	for ctx.Err() == nil {
		for _, id := range r.ids() {
			if !r.versions[id].rising() {
				delete(takeovers, id)
				continue
			}
			if takeovers[id] == nil {
				takeovers[id] = &takeover{}
			}
			r.takeOver(ctx, id, takeovers[id])
		}
		select {
		case <-time.After(switchEvery):
		case <-ctx.Done():
		}
	}
}

// rising reports whether a version is being built, and this process is the one to let it take over: one is
// enough.
func (v *deployment) rising() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, first := v.owned[0]
	return first && v.phase == phaseBuilding
}

// takeOver lets a version take over if it may, and it is time to try.
func (r *Runner) takeOver(ctx context.Context, id versionID, t *takeover) {
	if time.Now().Before(t.next) {
		return
	}
	err := guarded(func() error { return r.trySwitch(ctx, id.name, id.version, t.patience(), phaseBuilding) })
	if err == nil || ctx.Err() != nil {
		return
	}
	pause := t.noted(err)
	t.next = time.Now().Add(pause)
	var behind *behindError
	if errors.As(err, &behind) || errors.Is(err, ErrRefused) {
		return
	}
	r.engine.logger.WarnContext(ctx, "projection: cannot switch to a new version and will try again",
		"projection", id.name, "version", id.version, "after", pause, "error", err)
	_, _ = r.engine.pool.Exec(ctx, r.engine.sql(setReasonSQL), id.name, id.version, err.Error())
}

// Switch lets another version of a projection take the place of the live one, as soon as it has caught up
// with it: the way back after a new version turned out to be wrong, since the old one is kept, and goes on
// as long as some process runs it. Readers see one or the other, and nothing that they have seen is missing
// from it. It waits for that until ctx is done, and returns [ErrRefused] for a version that is not there or
// does not run. The live version is held while it tries, for seconds at most, and goes on in between.
func (r *Runner) Switch(ctx context.Context, name string, version int) error {
	for t := (takeover{}); ; {
		err := r.trySwitch(ctx, name, version, t.patience(), phaseBuilding, phaseRetired)
		var behind *behindError
		if err == nil || !errors.As(err, &behind) && !pgerr.Is(err, pgerr.LockNotAvailable) { // readers hold the view
			return err
		}
		select {
		case <-time.After(t.noted(err)):
		case <-ctx.Done():
			return fmt.Errorf("switch projection %s to version %d: %w: %w", name, version, context.Cause(ctx), err)
		}
	}
}

// behindError means that a version cannot take over yet.
type behindError struct {
	checkpoints, live []eventstore.Position
	tried             bool // the live version was held for it
}

func (e *behindError) Error() string {
	return fmt.Sprintf("it is at %v, the live version at %v", e.checkpoints, e.live)
}

const holdSQL = `
update SCHEMA.projections
   set held_until = clock_timestamp() + $2::interval
 where name = $1
   and phase = 'live'`

// trySwitch makes a version the live one. The live version is held meanwhile, so that this one, wherever
// it runs, can reach it: for as long as patience, also if this process dies.
func (r *Runner) trySwitch(
	ctx context.Context, name string, version int, patience time.Duration, from ...string,
) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("switch projection %s to version %d: %w", name, version, err)
		}
	}()
	if err := r.near(ctx, name, version); err != nil {
		return err
	}
	held := 0 // the live version
	err = pgx.BeginTxFunc(ctx, r.engine.pool, pgx.TxOptions{BeginQuery: r.engine.beginSQL()}, func(tx pgx.Tx) error {
		held, err = r.holdLive(ctx, tx, name, version, patience, from)
		return err
	})
	if isNothing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.engine.changed.notify()
	r.engine.announce(ctx)
	if err := r.turnWithin(ctx, name, version, held, patience); err != nil {
		_, letGo := r.engine.pool.Exec(context.WithoutCancel(ctx), r.engine.sql(holdSQL), name, time.Duration(0))
		return errors.Join(err, letGo)
	}
	r.engine.announce(ctx)
	r.engine.changed.notify()
	r.engine.logger.InfoContext(ctx, "projection: readers see a new version", "projection", name, "version", version)
	return nil
}

// holdLive holds the live version, unless it is known already that the other one cannot take its place.
func (r *Runner) holdLive(
	ctx context.Context, tx pgx.Tx, name string, version int, patience time.Duration, from []string,
) (held int, err error) {
	next, live, err := r.lockVersions(ctx, tx, name, version)
	switch {
	case err != nil:
		return 0, err
	case next.version == live.version:
		return 0, errNothing
	case live.version == 0: // nobody knows what readers have seen
		return 0, errors.New("no version is live: was it deleted by hand?")
	case !slices.Contains(from, next.phase) || next.state != "running":
		return 0, fmt.Errorf("%w: version %d is %s and %s", ErrRefused, version, next.phase, next.state)
	case len(from) == 1 && next.version < live.version: // nobody has asked for it
		return 0, fmt.Errorf("%w: version %d is live", ErrRefused, live.version)
	}
	if err := r.engine.refuseInline(ctx, tx, name, live.version); err != nil {
		return 0, err
	}
	if err := r.engine.rehearse(ctx, tx, next.tables, version); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, r.engine.sql(holdSQL), name, patience); err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, r.engine.sql(fenceSQL), name, live.version) // also what it has under way
	return live.version, err
}

// turnWithin tries until the version has caught up.
func (r *Runner) turnWithin(
	ctx context.Context, name string, version, held int, patience time.Duration,
) error {
	for deadline := time.Now().Add(patience); ; {
		err := pgx.BeginTxFunc(ctx, r.engine.pool, pgx.TxOptions{BeginQuery: r.engine.beginSQL()}, func(tx pgx.Tx) error {
			return r.turn(ctx, tx, name, version, held)
		})
		var behind *behindError
		if !errors.As(err, &behind) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// turn lets readers see a version, if it has caught up, in one transaction.
func (r *Runner) turn(ctx context.Context, tx pgx.Tx, name string, version, held int) error {
	next, live, err := r.lockVersions(ctx, tx, name, version)
	if err == nil && (live.version != held || next.state != "running") {
		err = fmt.Errorf("%w: version %d is live, and %d is %s", ErrRefused, live.version, version, next.state)
	}
	if err != nil {
		return err
	}
	if err := r.engine.refuseInline(ctx, tx, name, live.version); err != nil { // since it is held
		return err
	}
	if err := r.caughtUp(ctx, tx, name, next, live); err != nil {
		return err
	}
	if err := r.engine.switchTables(ctx, tx, next.tables, version); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, r.engine.sql(setPhaseSQL), name, live.version, phaseRetired); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, r.engine.sql(setPhaseSQL), name, version, phaseLive); err != nil {
		return err
	}
	// What either of them is doing is done again, by what it is now.
	if _, err := tx.Exec(ctx, r.engine.sql(fenceSQL), name, 0); err != nil {
		return err
	}
	return r.engine.audit(ctx, tx, name, version, "switch", map[string]any{"from": live.version})
}

// near returns a behindError when trying would only hold the live version up.
func (r *Runner) near(ctx context.Context, name string, version int) error {
	checkpoints, err := r.checkpoints(ctx, r.engine.pool, name, version)
	if err != nil {
		return err
	}
	var live eventstore.Position
	err = r.engine.pool.QueryRow(ctx, r.engine.sql(checkpointSQL), name).Scan(&live)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if len(checkpoints) > 0 && slices.Min(checkpoints) < live-switchLag {
		return &behindError{checkpoints: checkpoints, live: []eventstore.Position{live}}
	}
	return nil
}

func (r *Runner) checkpoints(
	ctx context.Context, db querier, name string, version int,
) ([]eventstore.Position, error) {
	found, _ := db.Query(ctx, r.engine.sql(checkpointsSQL), name, version)
	return pgx.CollectRows(found, pgx.RowTo[eventstore.Position])
}

// lockedVersion is a row of projections that is locked.
type lockedVersion struct {
	version    int
	phase      string
	state      string
	partitions int
	tables     []string
}

// lockVersions locks the versions of a name, and returns the one asked for and the live one.
func (r *Runner) lockVersions(
	ctx context.Context, tx pgx.Tx, name string, version int,
) (wanted, live lockedVersion, err error) {
	found, _ := tx.Query(ctx, r.engine.sql(lockVersionsSQL), name)
	var v lockedVersion
	columns := []any{&v.version, &v.phase, &v.state, &v.partitions, &v.tables}
	_, err = pgx.ForEachRow(found, columns, func() error {
		if v.version == version {
			wanted = v
		}
		if v.phase == phaseLive {
			live = v
		}
		v.tables = nil
		return nil
	})
	if err == nil && wanted.version == 0 {
		err = fmt.Errorf("%w: %w: there is no version %d of %s", ErrRefused, ErrUnknownProjection, version, name)
	}
	return wanted, live, err
}

// caughtUp returns nil when nothing that readers see is missing from the next version. It locks the
// partitions of the live one.
func (r *Runner) caughtUp(ctx context.Context, tx pgx.Tx, name string, next, live lockedVersion) error {
	found, _ := tx.Query(ctx, r.engine.sql(checkpointsSQL)+"\n   for update", name, live.version)
	held, err := pgx.CollectRows(found, pgx.RowTo[eventstore.Position])
	if err != nil {
		return err
	}
	checkpoints, err := r.checkpoints(ctx, tx, name, next.version)
	if err != nil {
		return err
	}
	if len(checkpoints) == 0 || len(held) == 0 {
		return fmt.Errorf("version %d has %d partitions stored, and the live version %d has %d: were their rows deleted?",
			next.version, len(checkpoints), live.version, len(held))
	}
	if slices.Min(checkpoints) < slices.Max(held) {
		return &behindError{checkpoints, held, true}
	}
	return nil
}
