package projection

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// RebuildKey folds one row of a [NewTable] projection from the events of its key, as when it was new, and puts it in the place of the
// one that is there. Its dead letters are handled with it. If one of the events cannot be folded nothing is changed.
// The whole log is read, most of it beside the live projection. Version 0 is the live one.
func (r *Runner) RebuildKey(ctx context.Context, name string, version int, key string) error {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return err
	}
	if v.table == nil {
		return fmt.Errorf("projection %s: %w: only the rows of a table can be rebuilt one by one", name, ErrRefused)
	}
	if err := r.refuseInline(ctx, r.pool, name, v.options.Version); err != nil {
		return err
	}
	for {
		if err := r.rebuildKey(ctx, v, key); !pgerr.Is(err, pgerr.Deadlock) || ctx.Err() != nil {
			return err
		}
	}
}

func (r *Runner) rebuildKey(ctx context.Context, v *version, key string) error {
	name, rows := v.name, v.table.open(1, true)
	at, err := v.refold(ctx, r.log, r.pool, rows, key, 0, func() (to eventstore.Position, err error) {
		return to, r.pool.QueryRow(ctx, r.sql(partitionAtSQL), name, v.options.Version, v.partitionOf(key)).Scan(&to)
	})
	if err != nil {
		return fmt.Errorf("rebuild key %s of projection %s: %w", key, name, err)
	}
	return r.operate(ctx, "rebuild key", name, v.options.Version, func(tx pgx.Tx) (map[string]any, error) {
		// The rest, now that nobody moves the checkpoint: operate has locked it.
		log := r.log
		if store, ok := r.log.(*eventstore.Store); ok { // on the connection there is: others may wait for the partition with all the rest
			log = store.WithTx(tx)
		}
		_, err := v.refold(ctx, log, tx, rows, key, at, func() (to eventstore.Position, err error) {
			return to, tx.QueryRow(ctx, r.sql(partitionAtSQL), name, v.options.Version, v.partitionOf(key)).Scan(&to)
		})
		if err != nil {
			return nil, err
		}
		if err := rows.replace(ctx, tx, key); err != nil {
			return nil, err
		}
		_, err = tx.Exec(ctx, r.sql(deleteKeySQL), name, v.options.Version, key, v.partitionOf(key))
		return map[string]any{"key": key}, err
	})
}

const partitionAtSQL = `
select checkpoint
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2
   and partition = $3`

const deleteKeySQL = `
with gone as (
    delete from SCHEMA.dead_letters
     where projection = $1
       and version = $2
       and key = $3
    returning 1)
update SCHEMA.projection_partitions
   set parked = parked - (select count(*) from gone)
 where projection = $1
   and version = $2
   and partition = $4`

// refold folds the events of a key after a position, up to the partition's checkpoint.
func (v *version) refold(ctx context.Context, log Log, db querier, rows rows, key string, after eventstore.Position, end func() (eventstore.Position, error)) (eventstore.Position, error) {
	to, err := end()
	for err == nil && after < to {
		var p eventstore.Page
		if p, err = log.Next(ctx, after, eventstore.Filter{Types: v.types}, v.config.BatchSize); err != nil {
			break
		}
		for _, i := range v.items(&page{Page: p, decoded: make(map[any][]decoded)}, after, v.partitionOf(key)) {
			if i.keyText() != key || i.raw.Position > to {
				continue
			}
			if err := rows.load(ctx, db, []item{i}, []int{0}); err != nil {
				return 0, err
			}
			if err := rows.fold(&i); err != nil {
				return 0, &HandlerError{Projection: v.name, Stream: i.raw.Stream, Position: i.raw.Position, Type: i.raw.Type, Err: err}
			}
		}
		after = min(p.Through, to)
	}
	return to, err
}
