package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// errNothing ends an operation that had nothing to do.
var errNothing = errors.New("nothing to do")

func isNothing(err error) bool { return errors.Is(err, errNothing) }

// refuseInline refuses what cannot be done to a projection that appends keep.
func (e *engine) refuseInline(ctx context.Context, db catalog.DB, id catalog.ID) error {
	inline, err := e.catalog.KeptInline(ctx, db, id)
	if err == nil && inline {
		err = fmt.Errorf("%w: it is kept inline: call StopInline first", ErrRefused)
	}
	return err
}

// Pause halts a projection in all processes until [Runner.Resume]; version 0 means all its versions. When it
// returns, nothing that was under way is committed any more. The reason is for the status; who did it, in
// the audit table, is the actor in the context's metadata, see [eventstore.WithMetadata], or the role of
// Postgres.
func (r *Runner) Pause(ctx context.Context, name string, version int, reason string) error {
	return r.setState(ctx, name, version, "pause", catalog.Paused, reason)
}

// Stop is [Runner.Pause] for a projection with which something is wrong: its status is not healthy.
func (r *Runner) Stop(ctx context.Context, name string, version int, reason string) error {
	return r.setState(ctx, name, version, "stop", catalog.Stopped, reason)
}

// Resume lets a projection go on that was paused, or has stopped.
func (r *Runner) Resume(ctx context.Context, name string, version int) error {
	return r.setState(ctx, name, version, "resume", catalog.Running, "")
}

func (r *Runner) setState(ctx context.Context, name string, version int, action, state, reason string) error {
	id := catalog.ID{Name: name, Version: version}
	return r.engine.operate(ctx, action, id, func(tx pgx.Tx) (map[string]any, error) {
		if state != catalog.Running {
			if err := r.engine.refuseInline(ctx, tx, id); err != nil {
				return nil, err
			}
		}
		found, err := r.engine.catalog.SetState(ctx, tx, id, state, reason)
		if err == nil && !found {
			err = ErrUnknownProjection
		}
		if err == nil && state == catalog.Running {
			err = r.engine.catalog.ClearErrors(ctx, tx, id)
		}
		return map[string]any{"reason": reason}, err
	})
}

// operate runs an operator's change of a version, or of all with version 0, in one transaction: it raises the
// fencing tokens, so that batches under way fail and are done again, makes the change, records it in the audit
// table, and then notifies all runners.
//
// Batches lock tables and rows before the partition, and operate the other way round. A change that needs a lock
// on a whole table takes it in one of the functions first; a change that meets a batch in a row may end in a
// deadlock, and is tried again.
func (e *engine) operate(ctx context.Context, action string, id catalog.ID,
	do func(pgx.Tx) (map[string]any, error), first ...func(pgx.Tx) error) error {
	return e.operateOn(ctx, action, id, nil, do, first...)
}

// operateOn is operate for some partitions of a version, which alone are fenced, or for all with nil.
func (e *engine) operateOn(ctx context.Context, action string, id catalog.ID, partitions []int32,
	do func(pgx.Tx) (map[string]any, error), first ...func(pgx.Tx) error) error {
	err := pgx.BeginTxFunc(ctx, e.pool, pgx.TxOptions{BeginQuery: e.beginSQL()}, func(tx pgx.Tx) error {
		for _, f := range first {
			if err := f(tx); err != nil {
				return err
			}
		}
		if _, err := e.catalog.LockVersions(ctx, tx, id.Name); err != nil {
			return err
		}
		if err := e.catalog.Fence(ctx, tx, id, partitions); err != nil {
			return err
		}
		details, err := do(tx)
		if err != nil {
			return err
		}
		return e.audit(ctx, tx, id, action, details)
	})
	if err != nil {
		return fmt.Errorf("%s projection %s: %w", action, id.Name, err)
	}
	e.announce(ctx)
	e.changed.Notify()
	return nil
}

// find returns a version that this process knows; 0 means the live one.
func (r *Runner) find(ctx context.Context, name string, number int) (*deployment, error) {
	if number == 0 {
		var err error
		if number, err = r.engine.catalog.LiveVersion(ctx, r.engine.pool, name); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
	}
	v, ok := r.versions[catalog.ID{Name: name, Version: number}]
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
	id, types := v.projection.id(), v.projection.stored
	return r.engine.operate(ctx, "accept", id, func(tx pgx.Tx) (map[string]any, error) {
		return map[string]any{"types": types}, r.engine.catalog.Accept(ctx, tx, id, types)
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
	id := v.projection.id()
	defer v.disownAll()
	return r.engine.operate(ctx, "reset", id, func(tx pgx.Tx) (map[string]any, error) {
		return map[string]any{"position": to}, r.reset(ctx, tx, v, to)
	}, func(tx pgx.Tx) error {
		if v.projection.table == nil {
			return nil
		}
		_, err := tx.Exec(ctx, "truncate "+physical(v.projection.options.Tables[0], id.Version))
		return err
	})
}

func (r *Runner) reset(ctx context.Context, tx pgx.Tx, v *deployment, to eventstore.Position) error {
	id, tables := v.projection.id(), r.engine.catalog
	if err := r.engine.refuseInline(ctx, tx, id); err != nil {
		return err
	}
	tidemark, _, err := tables.Tidemark(ctx, tx)
	if err != nil {
		return err
	}
	if to < 0 || to > tidemark || to > 0 && v.projection.table != nil {
		return fmt.Errorf("%w: to position %d: the log ends at %d, and a table can only begin at 0", ErrRefused, to, tidemark)
	}
	if err := tables.Reset(ctx, tx, id, to); err != nil {
		return err
	}
	if to == 0 { // then the read model will have all events of all types
		if err := tables.NothingAdded(ctx, tx, id); err != nil {
			return err
		}
	}
	return tables.DropLetters(ctx, tx, id)
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

// Audit returns what was done to a projection, by operators and by itself, the latest first.
func (r *Runner) Audit(ctx context.Context, name string, limit int) ([]AuditEntry, error) {
	if limit < 1 || limit > maxList {
		return nil, fmt.Errorf("%w: limit %d: want from 1 to %d", ErrRefused, limit, maxList)
	}
	rows, err := r.engine.catalog.AuditList(ctx, r.engine.pool, name, limit)
	if err != nil {
		return nil, fmt.Errorf("read the audit of projection %s: %w", name, err)
	}
	entries := make([]AuditEntry, len(rows))
	for n, row := range rows {
		entries[n] = AuditEntry(row)
	}
	return entries, nil
}
