package projection

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// Drop removes a version with its tables and dead letters: an old one that nobody wants back, or one that is
// being built. A process that runs it forgets it. The live version is what readers see: Drop removes it, with the views
// for readers, when it is the only one and no process runs it any more, and otherwise returns [ErrRefused].
func (r *Runner) Drop(ctx context.Context, name string, version int) error {
	for {
		err := pgx.BeginTxFunc(ctx, r.engine.pool, pgx.TxOptions{BeginQuery: r.engine.beginSQL()}, func(tx pgx.Tx) error {
			return r.drop(ctx, tx, name, version)
		})
		switch {
		case err == nil:
			r.engine.announce(ctx)
			r.engine.changed.notify()
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
	if _, err := tx.Exec(ctx, r.engine.sql(lockToDropSQL), name, version); err != nil {
		return err
	}
	wanted, live, err := r.lockVersions(ctx, tx, name, version)
	if err != nil {
		return err
	}
	if wanted.version == live.version {
		if err := r.hideTables(ctx, tx, name, version, wanted.tables); err != nil {
			return err
		}
	}
	for _, t := range wanted.tables { // before the partitions, as batches lock them
		if _, err := tx.Exec(ctx, "drop table if exists "+physical(t, version)); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, r.engine.sql(fenceSQL), name, version); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, r.engine.sql(dropSQL), name, version); err != nil {
		return err
	}
	return r.engine.audit(ctx, tx, name, version, "drop", nil)
}

const usedSQL = `
select (select count(*) from SCHEMA.projections where name = $1),
       coalesce((select min(m.owner)
                   from SCHEMA.projection_members m
                  where m.projection = $1
                    and m.expires between clock_timestamp() and clock_timestamp() + m.length),
                (select min(p.lease_owner)
                   from SCHEMA.projection_partitions p
                  where p.projection = $1
                    and ` + leased + `), '')`

// hideTables removes the views for readers of a projection that is live, unless somebody needs it.
func (r *Runner) hideTables(ctx context.Context, tx pgx.Tx, name string, version int, tables []string) error {
	var versions int
	var owner string
	if err := tx.QueryRow(ctx, r.engine.sql(usedSQL), name).Scan(&versions, &owner); err != nil {
		return err
	}
	switch {
	case versions > 1:
		return fmt.Errorf("%w: version %d is live: drop the other versions first", ErrRefused, version)
	case owner != "":
		return fmt.Errorf("%w: version %d is live, and process %s runs it: deploy a release without the projection first", ErrRefused, version, owner)
	}
	if err := r.engine.refuseInline(ctx, tx, name, version); err != nil {
		return err
	}
	for _, t := range tables {
		made, _, err := r.engine.readersView(ctx, tx, t)
		if err == nil && made {
			_, err = tx.Exec(ctx, "drop view "+quote(t))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const dropSQL = `
delete from SCHEMA.projections
 where name = $1
   and version = $2`
