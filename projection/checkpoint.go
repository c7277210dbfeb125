package projection

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// Makes the row of a projection that runs for the first time.
const createSQL = `
insert into SCHEMA.projections (name)
values ($1)
on conflict (name) do nothing`

const loadSQL = `
select checkpoint
  from SCHEMA.projections
 where name = $1`

// The lock on the row is what makes two processes with the same projection take turns: the
// second one waits here and then sees the checkpoint that the first one left.
const lockSQL = loadSQL + `
   for update`

const saveSQL = `
update SCHEMA.projections
   set checkpoint = $2, updated_at = clock_timestamp()
 where name = $1`

// errMoved means that the checkpoint is not where it was: another process has advanced it, or
// somebody has reset the projection.
var errMoved = errors.New("the checkpoint has moved")

// checkpoints keeps the checkpoints in the table projections.
type checkpoints struct {
	pool                     *pgxpool.Pool
	create, load, lock, save string
}

func newCheckpoints(pool *pgxpool.Pool, schema string) *checkpoints {
	return &checkpoints{
		pool:   pool,
		create: pgschema.In(schema, createSQL),
		load:   pgschema.In(schema, loadSQL),
		lock:   pgschema.In(schema, lockSQL),
		save:   pgschema.In(schema, saveSQL),
	}
}

// get returns a projection's checkpoint, 0 for a new one.
func (c *checkpoints) get(ctx context.Context, name string) (at eventstore.Position, err error) {
	if _, err = c.pool.Exec(ctx, c.create, name); err == nil {
		err = c.pool.QueryRow(ctx, c.load, name).Scan(&at)
	}
	if pgerr.NotMigrated(err) {
		return 0, fmt.Errorf("projection %s: %w: call migrations.Up first: %w", name, eventstore.ErrNotMigrated, err)
	}
	if err != nil {
		return 0, fmt.Errorf("projection %s: read its checkpoint: %w", name, err)
	}
	return at, nil
}

// advance runs apply and moves the checkpoint in one transaction, or returns errMoved and does
// neither.
func (c *checkpoints) advance(ctx context.Context, name string, from, to eventstore.Position, apply func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		var at eventstore.Position
		err := tx.QueryRow(ctx, c.lock, name).Scan(&at)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("projection %s: lock its checkpoint: %w", name, err)
		}
		if err != nil || at != from {
			return errMoved
		}
		if err := apply(tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, c.save, name, to); err != nil {
			return fmt.Errorf("projection %s: save its checkpoint: %w", name, err)
		}
		return nil
	})
}
