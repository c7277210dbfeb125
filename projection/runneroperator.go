package projection

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// RunnerOperator is an [Operator] that has the code of a [Runner]'s projections. It can therefore also have events
// handled, and compare stored state with the code. The runner need not run.
type RunnerOperator struct {
	*Operator
	runner *Runner
}

// Operator returns an operator of the projections of this runner, and of all other projections of the schema.
func (r *Runner) Operator() *RunnerOperator {
	return &RunnerOperator{Operator: &Operator{db: r.engine.db, monitor: r.monitor}, runner: r}
}

// find returns a version of which this process has the code.
func (o *RunnerOperator) find(ctx context.Context, action string, ref Ref) (*deployment, error) {
	id, err := o.Operator.find(ctx, action, ref)
	if err != nil {
		return nil, err
	}
	d, ok := o.runner.versions[id]
	if !ok {
		return nil, fmt.Errorf("%s: projection %s, version %d: %w to this process", action, id.Name, id.Version, ErrUnknownProjection)
	}
	return d, nil
}

// AcceptTypes stores the event types that this process handles as the types of the projection. The status then stops
// reporting types that were added later. After types were removed from the code on purpose, processes that do not know
// them may run the projection.
func (o *RunnerOperator) AcceptTypes(ctx context.Context, ref Ref) error {
	return untilUnchanged(ctx, func() error {
		d, err := o.find(ctx, "accept", ref)
		if err != nil {
			return err
		}
		id, types := d.projection.id(), d.projection.stored
		return o.db.operate(ctx, "accept", id, func(tx pgx.Tx) (map[string]any, error) {
			if err := o.still(ctx, tx, ref, id); err != nil {
				return nil, err
			}
			return map[string]any{"types": types}, o.db.catalog.Accept(ctx, tx, id, types)
		})
	})
}

// Reset makes a projection handle all events after a position again, or leave out the events up to it. The projection's
// dead letters are deleted. For a [NewTable] projection the rows are deleted too, and the position must be 0. Handlers
// must overwrite the rows that they have written before. Readers see the read model while it is built again. To rebuild
// it beside the version that readers see, raise [Options.Version] instead. Effects guarded by [Once] do not happen
// again.
func (o *RunnerOperator) Reset(ctx context.Context, ref Ref, to eventstore.Position) error {
	return untilUnchanged(ctx, func() error {
		d, err := o.find(ctx, "reset", ref)
		if err != nil {
			return err
		}
		id := d.projection.id()
		defer d.disownAll()
		return o.db.operate(ctx, "reset", id, func(tx pgx.Tx) (map[string]any, error) {
			if err := o.still(ctx, tx, ref, id); err != nil {
				return nil, err
			}
			return map[string]any{"position": to}, o.reset(ctx, tx, d, to)
		}, func(tx pgx.Tx) error {
			if d.projection.table == nil {
				return nil
			}
			_, err := tx.Exec(ctx, "truncate "+physical(d.projection.options.Tables[0], id.Version))
			return err
		})
	})
}

func (o *RunnerOperator) reset(ctx context.Context, tx pgx.Tx, d *deployment, to eventstore.Position) error {
	id := d.projection.id()
	if err := o.db.refuseInline(ctx, tx, id); err != nil {
		return err
	}
	tidemark, err := o.db.log.in(tx).Tidemark(ctx)
	if err != nil {
		return err
	}
	if to < 0 || to > tidemark || to > 0 && d.projection.table != nil {
		return fmt.Errorf("%w: to position %d: the log ends at %d, and a table can only begin at 0", ErrRefused, to, tidemark)
	}
	if err := o.db.catalog.Reset(ctx, tx, id, to); err != nil {
		return err
	}
	if to == 0 { // from 0 the read model gets all events of all types
		if err := o.db.catalog.NothingAdded(ctx, tx, id); err != nil {
			return err
		}
	}
	return o.db.catalog.DropLetters(ctx, tx, id)
}
