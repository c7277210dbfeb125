package projection

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// Drop removes a version with its tables and dead letters: an old version that is no longer wanted, or one that is
// being built. A process that runs the version stops running it. Readers see the live version. Drop removes it together
// with the views for readers, but only when it is the only version and no process runs it any more. Otherwise Drop
// returns [ErrRefused].
func (o *Operator) Drop(ctx context.Context, ref Ref) error {
	id, err := numbered("drop", ref)
	if err != nil {
		return err
	}
	for {
		err := o.db.inTx(ctx, func(tx pgx.Tx) error { return o.db.drop(ctx, tx, id) })
		switch {
		case err == nil:
			o.db.announce(ctx)
			return nil
		case pgerr.Is(err, pgerr.Deadlock) && ctx.Err() == nil: // with a batch that parks an event: try again
		default:
			return fmt.Errorf("drop version %d of projection %s: %w", id.Version, id.Name, err)
		}
	}
}

func (d *database) drop(ctx context.Context, tx pgx.Tx, id catalog.ID) error {
	if err := d.catalog.LockToDrop(ctx, tx, id); err != nil {
		return err
	}
	wanted, live, err := d.lockVersions(ctx, tx, id)
	if err != nil {
		return err
	}
	if wanted.Version == live.Version {
		if err := d.hideTables(ctx, tx, id, wanted.Tables); err != nil {
			return err
		}
	}
	for _, t := range wanted.Tables { // before the partitions: batches lock them in the same order
		if _, err := tx.Exec(ctx, "drop table if exists "+physical(t, id.Version)); err != nil {
			return err
		}
	}
	if err := d.catalog.Fence(ctx, tx, id, nil); err != nil {
		return err
	}
	if err := d.catalog.Drop(ctx, tx, id); err != nil {
		return err
	}
	return d.audit(ctx, tx, id, "drop", nil)
}

// hideTables removes the views for readers of a live projection, unless they are still needed.
func (d *database) hideTables(ctx context.Context, tx pgx.Tx, id catalog.ID, tables []string) error {
	versions, owner, err := d.catalog.Users(ctx, tx, id.Name)
	switch {
	case err != nil:
		return err
	case versions > 1:
		return fmt.Errorf("%w: version %d is live: drop the other versions first", ErrRefused, id.Version)
	case owner != "":
		return fmt.Errorf("%w: version %d is live, and process %s runs it: deploy a release without the projection first", ErrRefused, id.Version, owner)
	}
	if err := d.refuseInline(ctx, tx, id); err != nil {
		return err
	}
	for _, t := range tables {
		made, _, err := d.readersView(ctx, tx, t)
		if err == nil && made {
			_, err = tx.Exec(ctx, "drop view "+quote(t))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
