package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// handleBatch gives items to their handlers.
func (w *worker) handleBatch(ctx context.Context, items []item, to eventstore.Position, full bool) error {
	b := &batch{worker: w, to: to, durable: !full || w.projection.effects}
	handle := b.handle
	if w.projection.effects {
		handle = b.effect
	}
	err := b.watched(ctx, func(ctx context.Context, conn *pgx.Conn) error { return handle(ctx, conn, items) })
	if errors.Is(err, errAbandoned) { // the batch is still that of another goroutine
		var f *failure
		if w.projection.effects && errors.As(err, &f) {
			w.happened(ctx, items, f.at)
		}
		return err
	}
	if b.done {
		w.committed(b)
	}
	return err
}

// happened notes the effects of the items before one that is abandoned.
func (w *worker) happened(ctx context.Context, items []item, at int) {
	if at == 0 {
		return
	}
	b := &batch{worker: w, to: items[at-1].raw.Position, durable: true}
	for n := range items[:at] {
		if !b.divert(&items[n]) {
			b.handled++
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := pgx.BeginFunc(ctx, w.engine.pool, func(tx pgx.Tx) error { return b.store(ctx, tx, nil) }); err == nil {
		w.committed(b)
	}
}

// watched runs a batch on a connection of its own, in a goroutine that is abandoned when a handler
// does not return although its time is over: then its connection is cut, and no longer the pool's.
func (b *batch) watched(ctx context.Context, run func(context.Context, *pgx.Conn) error) error {
	conn, err := b.worker.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.watchdog = time.AfterFunc(time.Hour, func() { cancel(ErrTimeout) })
	defer b.watchdog.Stop()
	done := make(chan error, 1)
	go func() { done <- guarded(func() error { return run(ctx, conn.Conn()) }) }()
	late := make(chan struct{})
	defer context.AfterFunc(ctx, func() { time.AfterFunc(abandonAfter, func() { close(late) }) })()
	select {
	case err = <-done:
	case <-late:
		pgpool.Cut(conn.Hijack())
		return &failure{int(b.at.Load()), fmt.Errorf("%w, and %w", context.Cause(ctx), errAbandoned)}
	}
	defer conn.Release()
	var f *failure
	var said *pgconn.PgError
	if blamed := errors.As(err, &f) && (f.at >= 0 || errors.As(err, &said)); err != nil && conn.Conn().IsClosed() && !blamed {
		return Transient(err)
	}
	return err
}

// connect takes a connection that answers.
func (w *worker) connect(ctx context.Context) (conn *pgpool.Conn, err error) {
	err = w.engine.answered(ctx, func(ctx context.Context) error {
		conn, err = w.engine.pool.Acquire(ctx)
		return err
	})
	return conn, err
}

// minSilence and maxSilence bound how long Postgres may take for what it does without the application's code,
// so that a partition is not held up by a dead connection while its lease is renewed on another one.
const (
	minSilence = 5 * time.Second
	maxSilence = 15 * time.Second
)

func (e *engine) silence() time.Duration {
	return min(max(6*e.config.Lease, minSilence), maxSilence)
}

// answered does something that has to do with Postgres alone, and gives up when that does not answer.
func (e *engine) answered(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.silence(), pgpool.ErrNoAnswer)
	defer cancel()
	err := do(ctx)
	if err != nil && errors.Is(context.Cause(ctx), pgpool.ErrNoAnswer) {
		return Transient(fmt.Errorf("%w: %w", pgpool.ErrNoAnswer, err))
	}
	return err
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
	err := w.engine.answered(ctx, func(ctx context.Context) error { return w.rows.load(ctx, w.engine.pool, items, kept) })
	if pgerr.KindOf(err) == pgerr.Data || errors.Is(err, errOtherKey) { // of a key that is none of the column's type
		return &failure{-1, err}
	} else if err != nil {
		return err
	}
	for k, n := range kept {
		if w.unsettled(items, kept, k) { // what is before it is written first
			to, full = items[n].raw.Position-1, false
			b.cut(to)
			break
		}
		if err := w.rows.fold(&items[n]); err != nil {
			return &failure{n, err}
		}
		b.handled++
	}
	if w.pending == 0 {
		w.since = time.Now()
	}
	b.handled += w.pending
	if full && len(b.letters) == 0 && w.rows.dirty() < w.engine.cached && time.Since(w.since) < w.flushAfter() {
		w.read, w.pending = to, b.handled
		return nil
	}
	// Until it is committed it has not been read: a worker that ends saves how far it has.
	if err := w.engine.answered(ctx, b.flush); err != nil {
		return err
	}
	w.rows.flushed()
	w.committed(b)
	return nil
}

// unsettled reports whether one of the items that an event has, of which the k-th is the first, cannot be folded yet.
func (w *worker) unsettled(items []item, kept []int, k int) bool {
	at := items[kept[k]].raw.Position
	if k > 0 && items[kept[k-1]].raw.Position == at {
		return false // the first one has been asked
	}
	for ; k < len(kept) && items[kept[k]].raw.Position == at; k++ {
		if !w.rows.settled(&items[kept[k]]) {
			return true
		}
	}
	return false
}

// flushAfter is how long rows are folded before they are written, while there is a backlog: longer if there are
// many, which are written again each time.
func (w *worker) flushAfter() time.Duration {
	return min(max(batchTime, time.Duration(w.rows.dirty())*10*rowTime), maxFlushAfter)
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
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // of no effect after the commit
	if err := b.worker.rows.flush(ctx, tx); err != nil {
		return &failure{-1, err}
	}
	return b.finish(ctx, tx, nil)
}
