package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// handleBatch gives items to their handlers.
func (w *worker) handleBatch(ctx context.Context, items []item, to eventstore.Position, full bool) error {
	b := &batch{worker: w, to: to, durable: !full || w.effects}
	handle := b.handle
	if w.effects {
		handle = b.effect
	}
	err := b.watched(ctx, func(ctx context.Context, conn *pgxpool.Conn) error { return handle(ctx, conn, items) })
	var f *failure
	if w.effects && !b.done && errors.Is(err, errAbandoned) && errors.As(err, &f) {
		if noted := w.happened(ctx, items, f.at); noted != nil {
			b = noted
		}
	}
	if b.done {
		w.committed(b)
	}
	return err
}

// happened notes the effects of the items before one that is abandoned; nil if there are none.
func (w *worker) happened(ctx context.Context, items []item, at int) *batch {
	for at > 0 && items[at-1].raw.Position == items[at].raw.Position {
		at-- // all items of an event, or none
	}
	if at == 0 {
		return nil
	}
	b := &batch{worker: w, to: items[at-1].raw.Position, durable: true}
	for n := range items[:at] {
		if !b.divert(&items[n]) {
			b.handled++
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return b.advance(ctx, tx, nil) }); err != nil {
		return nil
	}
	b.done = true
	return b
}

// watched runs a batch on a connection of its own, in a goroutine that is abandoned when a handler
// does not return although its time is over: then its connection is cut.
func (b *batch) watched(ctx context.Context, run func(context.Context, *pgxpool.Conn) error) error {
	conn, err := b.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.watchdog = time.AfterFunc(time.Hour, func() { cancel(ErrTimeout) })
	defer b.watchdog.Stop()
	wire := conn.Conn().PgConn().Conn()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, conn)
		if err != nil && conn.Conn().IsClosed() && ctx.Err() == nil {
			err = Transient(err)
		}
		conn.Release()
		done <- err
	}()
	select {
	case err = <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err = <-done:
		return err
	case <-time.After(abandonAfter):
		_ = wire.Close()
		return &failure{int(b.at.Load()), fmt.Errorf("%w, and %w", context.Cause(ctx), errAbandoned)}
	}
}

// foldBatch folds items into rows, and writes these when there are enough of them.
func (w *worker) foldBatch(ctx context.Context, items []item, to eventstore.Position, full bool) error {
	b := &batch{worker: w, to: to, durable: !full}
	kept := make([]int, 0, len(items))
	for n := range items {
		if !b.divert(&items[n]) {
			kept = append(kept, n)
		}
	}
	if err := w.rows.load(ctx, w.pool, items, kept); pgerr.BadData(err) || errors.Is(err, errOtherKey) { // of a key that is none of the column's type
		return &failure{-1, err}
	} else if err != nil {
		return err
	}
	for _, n := range kept {
		if err := w.rows.fold(&items[n]); err != nil {
			return &failure{n, err}
		}
		b.handled++
	}
	if w.pending == 0 {
		w.since = time.Now()
	}
	b.handled += w.pending
	if full && len(b.letters) == 0 && w.rows.dirty() < w.cached && time.Since(w.since) < w.flushAfter() || b.handled == 0 && len(b.letters) == 0 {
		w.read, w.pending = to, b.handled
		return nil
	}
	// Until it is committed it has not been read: a worker that ends saves how far it has.
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	start := time.Now()
	if err := b.flush(ctx, conn); err != nil {
		if conn.Conn().IsClosed() {
			err = Transient(err)
		}
		return &failure{-1, err}
	}
	w.flushTook = time.Since(start)
	w.rows.flushed()
	w.committed(b)
	return nil
}

// flushAfter is how long rows are folded before they are written, while there is a backlog: longer if it takes long, since
// many rows are written again each time.
func (w *worker) flushAfter() time.Duration {
	return max(batchTime, min(10*w.flushTook, maxFlushAfter))
}

// flush writes the rows and the checkpoint.
func (b *batch) flush(ctx context.Context, conn *pgxpool.Conn) error {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{
		BeginQuery: fmt.Sprintf("begin isolation level read committed; set local idle_in_transaction_session_timeout = %d; set local synchronous_commit = %s",
			b.config.Lease.Milliseconds(), commitMode(b.durable)),
	})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // of no effect after the commit
	if err := b.rows.flush(ctx, tx); err != nil {
		return err
	}
	return b.finish(ctx, tx, nil)
}
