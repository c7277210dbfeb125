package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

const (
	// switchEvery is how often a version that is being built looks whether it may take over.
	switchEvery = 200 * time.Millisecond
	// switchLag is how many positions behind the live version it may be to try, and switchTime how
	// long the live version waits for it then: twice as long each time, up to maxSwitchTime, or a
	// slow one would never reach a busy one.
	switchLag     = 2000
	switchTime    = 250 * time.Millisecond
	maxSwitchTime = 4 * time.Second
)

const boundSQL = `
select array(select p.checkpoint
               from SCHEMA.projections v
               join SCHEMA.projection_partitions p on (p.projection, p.version) = (v.name, v.version)
              where v.name = $1
                and v.phase = 'live'
              order by p.partition),
       (select own.fencing_token
          from SCHEMA.projection_partitions own
         where (own.projection, own.version, own.partition) = ($1, $2, $3))`

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
   set phase = $3, reason = null, held_until = null, updated_at = clock_timestamp()
 where name = $1
   and version = $2`

// bound returns how far a version with handlers may go that is not live, and waits a moment when that is not farther
// than it is. It stays behind the live one, whose handlers have the effects of the events before. Where partitions of
// the live one are not equally far, both may come to an event first, and [Once] lets one of them have its effects.
func (w *worker) bound(ctx context.Context, to eventstore.Position) (limit eventstore.Position, bounded bool, err error) {
	if w.live || w.table != nil {
		return 0, false, nil
	}
	var token *int64
	err = w.pool.QueryRow(ctx, w.sql(boundSQL), w.name, w.options.Version, w.number).Scan(&w.liveAt, &token)
	switch {
	case err != nil:
		return 0, false, err
	case token == nil || *token != w.token || len(w.liveAt) == 0: // it may be the live one by now
		return 0, false, errFenced
	}
	limit = slices.Max(w.liveAt)
	if limit <= w.read && limit < to {
		limit = w.read
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return limit, true, nil
}

// switchVersions lets versions that are being built take over when they have caught up.
func (r *Runner) switchVersions(ctx context.Context) {
	patience := make(map[versionID]time.Duration)
	for ctx.Err() == nil {
		for _, id := range r.ids() {
			v := r.versions[id]
			v.mu.Lock()
			due := v.phase == phaseBuilding && len(v.owned) > 0
			v.mu.Unlock()
			if !due {
				continue
			}
			patience[id] = max(patience[id], switchTime)
			err := r.trySwitch(ctx, id.name, id.version, patience[id], phaseBuilding)
			var behind *behindError
			if errors.As(err, &behind) && behind.tried {
				patience[id] = min(2*patience[id], maxSwitchTime)
			}
			if err != nil && ctx.Err() == nil && !errors.As(err, &behind) && !errors.Is(err, ErrRefused) {
				r.logger.WarnContext(ctx, "projection: cannot switch to a new version and will try again",
					"projection", id.name, "version", id.version, "error", err)
				_, _ = r.pool.Exec(ctx, r.sql(setReasonSQL), id.name, id.version, err.Error())
			}
		}
		select {
		case <-time.After(switchEvery):
		case <-ctx.Done():
		}
	}
}

// Switch lets another version of a projection take the place of the live one, as soon as it has
// caught up with it: the way back after a new version turned out to be wrong, since the old one is kept, and
// goes on as long as some process runs it. Readers see one or the other, and nothing that they have seen is
// missing from it. It waits for that until ctx is done, and returns [ErrRefused] for a version that is not
// there or does not run.
func (r *Runner) Switch(ctx context.Context, name string, version int) error {
	for patience := switchTime; ; {
		err := r.trySwitch(ctx, name, version, patience, phaseBuilding, phaseRetired)
		var behind *behindError
		if err == nil || !errors.As(err, &behind) {
			return err
		}
		if behind.tried {
			patience = min(2*patience, maxSwitchTime)
		}
		select {
		case <-time.After(switchEvery):
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
func (r *Runner) trySwitch(ctx context.Context, name string, version int, patience time.Duration, from ...string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("switch projection %s to version %d: %w", name, version, err)
		}
	}()
	if err := r.near(ctx, name, version); err != nil {
		return err
	}
	held := 0 // the live version
	err = pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		next, live, err := r.lockVersions(ctx, tx, name, version)
		held = live.version
		switch {
		case err != nil:
			return err
		case next.version == live.version:
			return errNothing
		case !slices.Contains(from, next.phase) || next.state != "running":
			return fmt.Errorf("%w: version %d is %s and %s", ErrRefused, version, next.phase, next.state)
		case len(from) == 1 && next.version < live.version: // nobody has asked for it
			return fmt.Errorf("%w: version %d is live", ErrRefused, live.version)
		}
		if err := r.refuseInline(ctx, tx, name, live.version); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, r.sql(holdSQL), name, patience); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, r.sql(fenceSQL), name, live.version) // also what it has under way
		return err
	})
	if isNothing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.changed.notify()
	r.announce(ctx)
	for deadline := time.Now().Add(patience); ; {
		err = pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error { return r.turn(ctx, tx, name, version, held) })
		var behind *behindError
		if !errors.As(err, &behind) || time.Now().After(deadline) {
			break
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	if err != nil {
		_, letGo := r.pool.Exec(context.WithoutCancel(ctx), r.sql(holdSQL), name, time.Duration(0))
		return errors.Join(err, letGo)
	}
	r.announce(ctx)
	r.changed.notify()
	r.logger.InfoContext(ctx, "projection: readers see a new version", "projection", name, "version", version)
	return nil
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
	if err := r.caughtUp(ctx, tx, name, next, live); err != nil {
		return err
	}
	// Readers that come while somebody reads for long would have to wait behind us.
	if _, err := tx.Exec(ctx, `set local lock_timeout = '50ms'`); err != nil {
		return err
	}
	if err := showTables(ctx, tx, next.tables, version); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `set local lock_timeout = 0`); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, r.sql(setPhaseSQL), name, live.version, phaseRetired); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, r.sql(setPhaseSQL), name, version, phaseLive); err != nil {
		return err
	}
	// What either of them is doing is done again, by what it is now.
	if _, err := tx.Exec(ctx, r.sql(fenceSQL), name, 0); err != nil {
		return err
	}
	return r.audit(ctx, tx, name, version, "switch", map[string]any{"from": live.version})
}

// near returns a behindError when trying would only hold the live version up.
func (r *Runner) near(ctx context.Context, name string, version int) error {
	checkpoints, err := r.checkpoints(ctx, r.pool, name, version)
	if err != nil {
		return err
	}
	var live eventstore.Position
	if err := r.pool.QueryRow(ctx, r.sql(checkpointSQL), name).Scan(&live); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if len(checkpoints) > 0 && slices.Min(checkpoints) < live-switchLag {
		return &behindError{checkpoints: checkpoints, live: []eventstore.Position{live}}
	}
	return nil
}

func (r *Runner) checkpoints(ctx context.Context, db querier, name string, version int) ([]eventstore.Position, error) {
	found, _ := db.Query(ctx, r.sql(checkpointsSQL), name, version)
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
func (r *Runner) lockVersions(ctx context.Context, tx pgx.Tx, name string, version int) (wanted, live lockedVersion, err error) {
	found, _ := tx.Query(ctx, r.sql(lockVersionsSQL), name)
	var v lockedVersion
	_, err = pgx.ForEachRow(found, []any{&v.version, &v.phase, &v.state, &v.partitions, &v.tables}, func() error {
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
	held, err := r.lockCheckpoints(ctx, tx, name, live.version)
	if err != nil {
		return err
	}
	checkpoints, err := r.checkpoints(ctx, tx, name, next.version)
	if err != nil {
		return err
	}
	if slices.Min(checkpoints) < slices.Max(held) {
		return &behindError{checkpoints, held, true}
	}
	return nil
}

func (r *Runner) lockCheckpoints(ctx context.Context, tx pgx.Tx, name string, version int) ([]eventstore.Position, error) {
	found, _ := tx.Query(ctx, r.sql(checkpointsSQL)+"\n   for update", name, version)
	return pgx.CollectRows(found, pgx.RowTo[eventstore.Position])
}

// showTables makes readers see the tables of a version. They keep their rights.
func showTables(ctx context.Context, tx pgx.Tx, tables []string, version int) error {
	for _, t := range tables {
		if err := showTable(ctx, tx, quote(t), physical(t, version)); err != nil {
			return fmt.Errorf("let %s show version %d: %w", t, version, err)
		}
	}
	return nil
}

// grantsSQL makes the statements that give everybody the rights on a view again.
const grantsSQL = `
select coalesce(string_agg(format('grant %s on %s to %s', a.privilege_type, c.oid::regclass,
                                  case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end ||
                                  case when a.is_grantable then ' with grant option' else '' end), '; '), '')
  from pg_class c,
       aclexplode(c.relacl) a
 where c.oid = to_regclass($1)
   and a.grantee <> c.relowner`

func showTable(ctx context.Context, tx pgx.Tx, view, table string) error {
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err = savepoint.Exec(ctx, "create or replace view "+view+" as select * from "+table); err == nil {
		return savepoint.Commit(ctx)
	}
	if rollback := savepoint.Rollback(ctx); rollback != nil || !strings.Contains(err.Error(), "42P16") {
		return err
	}
	// The columns are others: a new view, with the rights of the old one.
	var grants string
	if err := tx.QueryRow(ctx, grantsSQL, view).Scan(&grants); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "drop view "+view+"; create view "+view+" as select * from "+table+"; "+grants)
	return err
}

// Drop removes a version that is not live, with its tables and dead letters: an old one that nobody wants back, or
// one that is being built. A process that runs it forgets it. Dropping the live version is refused with [ErrRefused].
func (r *Runner) Drop(ctx context.Context, name string, version int) error {
	for {
		err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error { return r.drop(ctx, tx, name, version) })
		switch {
		case err == nil:
			r.announce(ctx)
			r.changed.notify()
			return nil
		case pgerr.Is(err, pgerr.Deadlock) && ctx.Err() == nil: // with a batch that parks an event
		default:
			return fmt.Errorf("drop version %d of projection %s: %w", version, name, err)
		}
	}
}

const lockToDropSQL = `
select
  from SCHEMA.projections
 where name = $1
   and version = $2
   for update`

func (r *Runner) drop(ctx context.Context, tx pgx.Tx, name string, version int) error {
	// Before anything else, like those who renew leases.
	if _, err := tx.Exec(ctx, r.sql(lockToDropSQL), name, version); err != nil {
		return err
	}
	wanted, live, err := r.lockVersions(ctx, tx, name, version)
	if err != nil {
		return err
	}
	if wanted.version == live.version {
		return fmt.Errorf("%w: version %d is live", ErrRefused, version)
	}
	for _, t := range wanted.tables { // before the partitions, as batches lock them
		if _, err := tx.Exec(ctx, "drop table if exists "+physical(t, version)); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, r.sql(fenceSQL), name, version); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, r.sql(dropSQL), name, version); err != nil {
		return err
	}
	return r.audit(ctx, tx, name, version, "drop", nil)
}

const dropSQL = `
delete from SCHEMA.projections
 where name = $1
   and version = $2`
