package projection

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

// foldBatch folds items into rows, and writes the rows when there are enough of them.
func (w *worker) foldBatch(ctx context.Context, items []item, to eventstore.Position, backlogged bool) error {
	if w.pending.items == 0 {
		w.since = time.Now()
	}
	b := &batch{worker: w, to: to, durable: !backlogged, began: w.since}
	kept, keys := make([]int, 0, len(items)), make([]string, 0, len(items))
	for n := range items {
		if i := &items[n]; !b.divert(i) {
			kept, keys = append(kept, n), i.appendKey(keys)
		}
	}
	err := w.engine.answered(ctx, func(ctx context.Context) error { return w.rows.Load(ctx, w.engine.pool, keys) })
	if pgerr.KindOf(err) == pgerr.Data || errors.Is(err, rowset.ErrOtherKey) { // a key is not a value of the column's type
		return &failure{-1, err}
	} else if err != nil {
		return err
	}
	for k, n := range kept {
		if w.unsettled(items, kept, k) { // the rows of the items before it are written first
			to, backlogged = items[n].raw.Position-1, false
			b.cut(to)
			break
		}
		began := w.begin()
		err := items[n].foldInto(w.rows)
		w.tellEvent(&items[n], began, err)
		if err != nil {
			return &failure{n, err}
		}
		b.handled.add(&items[n])
	}
	b.handled.addAll(w.pending)
	if backlogged && len(b.letters) == 0 && w.rows.Dirty() < w.engine.cached && time.Since(w.since) < w.flushAfter() {
		w.read, w.pending = to, b.handled
		return nil
	}
	// w.read stays where it was until the rows are committed: when a worker ends, it saves read as the checkpoint, and
	// the table must have all rows up to there.
	if err := w.engine.answered(ctx, b.flush); err != nil {
		return err
	}
	w.rows.Flushed()
	w.committed(b)
	return nil
}

// unsettled reports whether one of the items of an event cannot be folded yet. The k-th item is the first of the event.
func (w *worker) unsettled(items []item, kept []int, k int) bool {
	at := items[kept[k]].raw.Position
	if k > 0 && items[kept[k-1]].raw.Position == at {
		return false // the first item of the event was checked for all of them
	}
	for ; k < len(kept) && items[kept[k]].raw.Position == at; k++ {
		if !items[kept[k]].isSettled(w.rows) {
			return true
		}
	}
	return false
}

// flushAfter is how long rows are folded before they are written, while there is a backlog. The time is longer if there
// are many rows, because many of them are written again each time.
func (w *worker) flushAfter() time.Duration {
	return min(max(batchTime, time.Duration(w.rows.Dirty())*10*rowTime), maxFlushAfter)
}

// flush writes the rows and the checkpoint.
func (b *batch) flush(ctx context.Context) (err error) {
	conn, err := b.worker.engine.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	defer func() {
		if err != nil && conn.Conn().IsClosed() {
			err = Transient(err)
		}
	}()
	tx, err := conn.Conn().BeginTx(ctx, pgx.TxOptions{BeginQuery: b.beginSQL()})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // without effect after the commit
	if err := b.worker.rows.Flush(ctx, tx); err != nil {
		return &failure{-1, err}
	}
	return b.finish(ctx, tx, nil)
}

// keysOf returns the keys of the rows that items are folded into.
func keysOf(items ...item) (keys []string) {
	for n := range items {
		keys = items[n].appendKey(keys)
	}
	return keys
}

// appendKey appends the key of the item's row, if the item can be folded into one.
func (i *item) appendKey(keys []string) []string {
	if i.meaning.err != nil {
		return keys
	}
	return append(keys, i.keyText())
}

// isSettled reports whether the item can be folded into its row now.
func (i *item) isSettled(rows rowset.Rows) bool {
	return i.meaning.err != nil || rows.Settled(i.keyText())
}

// foldInto folds the item into its row.
func (i *item) foldInto(rows rowset.Rows) error {
	if i.meaning.err != nil {
		return i.meaning.err
	}
	return rows.Fold(i.keyText(), i)
}

// Apply implements [rowset.Change].
func (i *item) Apply(row any, done func(rowset.Outcome, error) error) error {
	return i.source.fold(row, i.meaning, done)
}
