package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// errNothing ends an operation that had nothing to do.
var errNothing = errors.New("nothing to do")

func isNothing(err error) bool { return errors.Is(err, errNothing) }

const keptInlineSQL = `
select exists (
       select
         from SCHEMA.projections
        where name = $1
          and ($2 = 0 or version = $2)
          and inline is not null)`

// refuseInline refuses what cannot be done to a projection that appends keep.
func (e *engine) refuseInline(ctx context.Context, db querier, name string, version int) error {
	found, err := db.Query(ctx, e.sql(keptInlineSQL), name, version)
	if err != nil {
		return err
	}
	inline, err := pgx.CollectExactlyOneRow(found, pgx.RowTo[bool])
	if err != nil {
		return err
	}
	if inline {
		return fmt.Errorf("%w: it is kept inline: call StopInline first", ErrRefused)
	}
	return nil
}

const setStateSQL = `
update SCHEMA.projections
   set state = $3, reason = $4, updated_at = clock_timestamp()
 where name = $1
   and ($2 = 0 or version = $2)`

const clearErrorsSQL = `
update SCHEMA.projection_partitions
   set error = null, error_at = null, failing_since = null, advanced_at = clock_timestamp()
 where projection = $1
   and ($2 = 0 or version = $2)`

const liveVersionSQL = `
select version
  from SCHEMA.projections
 where name = $1
   and phase = 'live'`

const resetSQL = `
update SCHEMA.projection_partitions
   set checkpoint = $3, parked = 0, handled = case when $3::bigint = 0 then 0 else handled end,
       error = null, error_at = null, failing_since = null, advanced_at = clock_timestamp()
 where projection = $1
   and version = $2`

const dropLettersSQL = `
delete from SCHEMA.dead_letters
 where projection = $1
   and version = $2`

const nothingAddedSQL = `
update SCHEMA.projections
   set added = '{}'
 where name = $1
   and version = $2`

const acceptSQL = `
update SCHEMA.projections
   set types = $3, added = '{}', updated_at = clock_timestamp()
 where name = $1
   and version = $2`

// Pause halts a projection in all processes until [Runner.Resume]; version 0 means all its versions. When it
// returns, nothing that was under way is committed any more. The reason is for the status; who did it, in
// the audit table, is the actor in the context's metadata, see [eventstore.WithMetadata], or the role of
// Postgres.
func (r *Runner) Pause(ctx context.Context, name string, version int, reason string) error {
	return r.setState(ctx, name, version, "pause", "paused", reason)
}

// Stop is [Runner.Pause] for a projection with which something is wrong: its status is not healthy.
func (r *Runner) Stop(ctx context.Context, name string, version int, reason string) error {
	return r.setState(ctx, name, version, "stop", "stopped", reason)
}

// Resume lets a projection go on that was paused, or has stopped.
func (r *Runner) Resume(ctx context.Context, name string, version int) error {
	return r.setState(ctx, name, version, "resume", "running", "")
}

func (r *Runner) setState(ctx context.Context, name string, version int, action, state, reason string) error {
	return r.engine.operate(ctx, action, name, version, func(tx pgx.Tx) (map[string]any, error) {
		if state != "running" {
			if err := r.engine.refuseInline(ctx, tx, name, version); err != nil {
				return nil, err
			}
		}
		done, err := tx.Exec(ctx, r.engine.sql(setStateSQL), name, version, state, reason)
		if err == nil && done.RowsAffected() == 0 {
			err = ErrUnknownProjection
		}
		if err == nil && state == "running" {
			_, err = tx.Exec(ctx, r.engine.sql(clearErrorsSQL), name, version)
		}
		return map[string]any{"reason": reason}, err
	})
}

// operate does what an operator wants of a projection: what is under way there must be done again after it,
// all runners are told, and it is written down.
//
// Batches lock tables and rows before the partition, and this the other way round. What needs a lock on a
// whole table takes it in one of the functions first; what meets a batch in a row may end in a deadlock, and
// is tried again.
func (e *engine) operate(ctx context.Context, action, name string, version int,
	do func(pgx.Tx) (map[string]any, error), first ...func(pgx.Tx) error) error {
	return e.operateOn(ctx, action, name, version, nil, do, first...)
}

// fenceOnlySQL is fenceSQL for some of the partitions, or for all with null.
const fenceOnlySQL = `
update SCHEMA.projection_partitions p
   set fencing_token = fencing_token + 1
  from (select projection, version, partition
          from SCHEMA.projection_partitions
         where projection = $1
           and ($2 = 0 or version = $2)
           and ($3::int[] is null or partition = any ($3))
         order by version, partition
           for update) locked
 where (p.projection, p.version, p.partition) = (locked.projection, locked.version, locked.partition)`

// operateOn is operate for some partitions of a version, which are all that are fenced, or for all with nil.
func (e *engine) operateOn(ctx context.Context, action, name string, version int, partitions []int32,
	do func(pgx.Tx) (map[string]any, error), first ...func(pgx.Tx) error) error {
	// Everybody needs what it locks. If this process is stopped in the middle, Postgres ends it, like a
	// batch.
	err := pgx.BeginTxFunc(ctx, e.pool, pgx.TxOptions{BeginQuery: e.beginSQL()}, func(tx pgx.Tx) error {
		for _, f := range first {
			if err := f(tx); err != nil {
				return err
			}
		}
		// Before the partitions, like a switch.
		if _, err := tx.Exec(ctx, e.sql(lockVersionsSQL), name); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, e.sql(fenceOnlySQL), name, version, partitions); err != nil {
			return err
		}
		details, err := do(tx)
		if err != nil {
			return err
		}
		return e.audit(ctx, tx, name, version, action, details)
	})
	if err != nil {
		return fmt.Errorf("%s projection %s: %w", action, name, err)
	}
	e.announce(ctx)
	e.changed.notify()
	return nil
}

// find returns a version that this process knows; 0 means the live one.
func (r *Runner) find(ctx context.Context, name string, number int) (*deployment, error) {
	if number == 0 {
		if err := r.engine.pool.QueryRow(ctx, r.engine.sql(liveVersionSQL), name).Scan(&number); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
	}
	v, ok := r.versions[versionID{name, number}]
	if !ok {
		return nil, fmt.Errorf("projection %s, version %d: %w to this process", name, number, ErrUnknownProjection)
	}
	return v, nil
}

// Accept makes the event types that this process handles those of the projection: it stops reporting types
// that were added later, and, after some were taken out of the code on purpose, lets processes run it that
// do not know them.
func (r *Runner) Accept(ctx context.Context, name string, version int) error {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return err
	}
	return r.engine.operate(ctx, "accept", name, v.projection.options.Version, func(tx pgx.Tx) (map[string]any, error) {
		_, err := tx.Exec(ctx, r.engine.sql(acceptSQL), name, v.projection.options.Version, v.projection.stored)
		return map[string]any{"types": v.projection.stored}, err
	})
}

// Reset makes a projection handle all events after a position again, or not handle those before it. Its dead
// letters are forgotten. The rows of a [NewTable] projection are deleted, and the position must be 0; what
// handlers have written is theirs to overwrite. Readers see the read model as it is made: to make it anew
// beside the one they see, raise [Options.Version]. Effects guarded by [Once] do not happen again.
func (r *Runner) Reset(ctx context.Context, name string, version int, to eventstore.Position) error {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return err
	}
	number := v.projection.options.Version
	defer v.disownAll()
	return r.engine.operate(ctx, "reset", name, number, func(tx pgx.Tx) (map[string]any, error) {
		if err := r.engine.refuseInline(ctx, tx, name, number); err != nil {
			return nil, err
		}
		var tidemark, end eventstore.Position
		if err := tx.QueryRow(ctx, r.engine.sql(tidemarkSQL)).Scan(&tidemark, &end); err != nil {
			return nil, err
		}
		if to < 0 || to > tidemark || to > 0 && v.projection.table != nil {
			return nil, fmt.Errorf("%w: to position %d: the log ends at %d, and a table can only begin at 0",
				ErrRefused, to, tidemark)
		}
		if _, err := tx.Exec(ctx, r.engine.sql(resetSQL), name, number, to); err != nil {
			return nil, err
		}
		if to == 0 { // then the read model will have all events of all types
			if _, err := tx.Exec(ctx, r.engine.sql(nothingAddedSQL), name, number); err != nil {
				return nil, err
			}
		}
		_, err := tx.Exec(ctx, r.engine.sql(dropLettersSQL), name, number)
		return map[string]any{"position": to}, err
	}, func(tx pgx.Tx) error {
		if v.projection.table == nil {
			return nil
		}
		_, err := tx.Exec(ctx, "truncate "+physical(v.projection.options.Tables[0], number))
		return err
	})
}

// AuditEntry is something that was done to a projection.
type AuditEntry struct {
	Projection string
	Version    int    // 0 for all of them
	Action     string // such as pause, retry, skip, or switch
	Actor      string // as the application says, see eventstore.Metadata
	Role       string // of Postgres that was logged in; a service cannot write another one
	Details    map[string]any
	RecordedAt time.Time
}

const auditListSQL = `
select projection, version, action, actor, role, details, recorded_at
  from SCHEMA.projection_audit
 where projection = $1
 order by id desc
 limit $2`

// Audit returns what was done to a projection, by operators and by itself, the latest first.
func (r *Runner) Audit(ctx context.Context, name string, limit int) ([]AuditEntry, error) {
	if limit < 1 || limit > maxList {
		return nil, fmt.Errorf("%w: limit %d: want from 1 to %d", ErrRefused, limit, maxList)
	}
	found, _ := r.engine.pool.Query(ctx, r.engine.sql(auditListSQL), name, limit)
	entries, err := pgx.CollectRows(found, pgx.RowToStructByPos[AuditEntry])
	if err != nil {
		return nil, fmt.Errorf("read the audit of projection %s: %w", name, err)
	}
	return entries, nil
}
