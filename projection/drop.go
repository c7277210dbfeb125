package projection

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// Drop removes a version that is not live, with its tables and dead letters: an old one that nobody wants
// back, or one that is being built. A process that runs it forgets it. Dropping the live version is refused
// with [ErrRefused].
func (r *Runner) Drop(ctx context.Context, name string, version int) error {
	for {
		err := pgx.BeginTxFunc(ctx, r.pool, pgx.TxOptions{BeginQuery: r.begin()}, func(tx pgx.Tx) error {
			return r.drop(ctx, tx, name, version)
		})
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
