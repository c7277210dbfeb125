package projection

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

// RebuildKey folds one row of a [NewTable] projection from all events of its key, beginning with a new row, and
// replaces the stored row. The key's dead letters are handled with it. If one of the events cannot be folded, nothing
// is changed. If one of the events was parked under its stream, because it had no key then, RebuildKey returns
// [ErrRefused]: call [RunnerOperator.Retry] first. RebuildKey reads the whole log. The live projection continues during
// most of that time.
func (o *RunnerOperator) RebuildKey(ctx context.Context, ref Ref, key string) error {
	v, err := o.find(ctx, "rebuild key", ref)
	if err != nil {
		return err
	}
	if v.projection.table == nil {
		return fmt.Errorf("projection %s: %w: only the rows of a table can be rebuilt one by one", ref.Name, ErrRefused)
	}
	if err := o.db.refuseInline(ctx, o.db.pool, v.projection.id()); err != nil {
		return err
	}
	for {
		err := v.rebuildKey(ctx, key)
		if !pgerr.Is(err, pgerr.Deadlock) && !errors.Is(err, errChanged) || ctx.Err() != nil {
			return err
		}
	}
}

func (v *deployment) rebuildKey(ctx context.Context, key string) error {
	b := &keyRebuild{deployment: v, projection: v.projection, engine: v.engine, key: key, rows: v.projection.table.Open(1, true)}
	if err := b.refold(ctx, v.engine.db.log, v.engine.pool, nil); err != nil {
		return fmt.Errorf("rebuild key %s of projection %s: %w", key, v.projection.name, err)
	}
	finish := func(tx pgx.Tx) (map[string]any, error) { return map[string]any{"key": key}, b.finish(ctx, tx) }
	partition := []int32{int32(v.projection.partitionOf(key))}
	return v.engine.db.operateOn(ctx, "rebuild key", v.projection.id(), partition, finish)
}

// finish folds the remaining events, while no worker can move the checkpoint, and writes the row.
func (b *keyRebuild) finish(ctx context.Context, tx pgx.Tx) error {
	// Appends may have begun to keep the projection during refold.
	if err := b.engine.db.refuseInline(ctx, tx, b.projection.id()); err != nil {
		return err
	}
	types, err := b.engine.catalog.Types(ctx, tx, b.projection.id())
	if err != nil {
		return err
	}
	if !b.deployment.covers(types) { // the row would lose the changes from the events of other types
		return fmt.Errorf("%w: a newer release handles more event types than this one: %q", ErrRefused, types)
	}
	if err := b.deployment.allowIdle(ctx, tx); err != nil {
		return err
	}
	// Use the transaction's connection: all other connections of the pool may wait for the partition.
	if err := b.refold(ctx, b.engine.db.log.in(tx), tx, tx); err != nil {
		return err
	}
	if err := b.write(ctx, tx); err != nil {
		return err
	}
	return b.deployment.deleteLetters(ctx, tx, b.key, b.letters, 0)
}

// keyRebuild folds one row from the beginning.
type keyRebuild struct {
	deployment *deployment
	projection *Projection
	engine     *engine
	key        string
	rows       rowset.Rows
	at         eventstore.Position // the position up to which events are folded
	written    bool                // the row has replaced the stored one
	letters    []int64             // positions of the key's dead letters that are folded
}

// write replaces the stored row.
func (b *keyRebuild) write(ctx context.Context, tx pgx.Tx) error {
	if b.written {
		return b.rows.Flush(ctx, tx)
	}
	b.written = true
	return b.rows.Replace(ctx, tx, b.key)
}

// refold folds the events of the key up to the partition's checkpoint. Without a transaction it stops at an event
// before which the row must be written.
func (b *keyRebuild) refold(ctx context.Context, log reader, db catalog.DB, tx pgx.Tx) error {
	to, err := b.engine.catalog.Checkpoint(ctx, db, b.projection.id(), b.projection.partitionOf(b.key))
	if err == nil && to < b.at { // the partition was reset
		err = errChanged
	}
	if err != nil {
		return err
	}
	concerned, err := b.engine.catalog.Concerned(ctx, db, b.projection.id(), b.key)
	if err != nil {
		return err
	}
	parked := make(map[itemID]bool)
	for _, l := range concerned {
		parked[itemID{l.Position, l.Key}] = true
	}
	for b.at < to {
		p, err := log.Next(ctx, eventstore.After(b.at), eventstore.Filter{Types: b.projection.types}, b.engine.config.BatchSize)
		if err != nil {
			return err
		}
		pg := feed.NewPage(0, p)
		for _, i := range b.projection.items(pg, b.at, b.projection.partitionOf(b.key)) {
			if i.keyText() != b.key || i.raw.Position > to {
				continue
			}
			if err := b.fold(ctx, db, tx, &i, parked); errors.Is(err, errUnwritten) {
				b.at = i.raw.Position - 1
				return nil
			} else if err != nil {
				return err
			}
		}
		b.at = min(p.Through, to)
	}
	return nil
}

// errUnwritten means that the row must be written before more events can be folded into it.
var errUnwritten = errors.New("the row is not written yet")

// fold folds an event of the key. It refuses a dead letter of the event's stream, because Retry would fold the event
// again.
func (b *keyRebuild) fold(ctx context.Context, db catalog.DB, tx pgx.Tx, i *item, parked map[itemID]bool) error {
	if err := b.rows.Load(ctx, db, keysOf(*i)); err != nil {
		return err
	}
	if !i.isSettled(b.rows) {
		if tx == nil {
			return errUnwritten
		}
		if err := b.write(ctx, tx); err != nil {
			return err
		}
		b.rows.Flushed()
		if err := b.rows.Load(ctx, tx, keysOf(*i)); err != nil {
			return err
		}
	}
	stream := i.raw.Stream.String()
	switch at := i.raw.Position; {
	case parked[itemID{at, b.key}]:
		b.letters = append(b.letters, int64(at))
	case parked[itemID{at, stream}]:
		return fmt.Errorf("%w: its event at position %d is parked under its stream, %s: retry that key first",
			ErrRefused, at, stream)
	}
	if err := i.foldInto(b.rows); err != nil {
		return b.projection.handlerError(i, err)
	}
	return nil
}
