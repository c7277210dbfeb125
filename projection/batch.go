package projection

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/panics"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

const (
	// batchTime is how long a batch takes before it is committed although more events are ready.
	batchTime = time.Second
	// maxFlushAfter is the same bound for a batch with many rows. rowTime is about how long writing one row takes.
	maxFlushAfter = 5 * time.Second
	rowTime       = 10 * time.Microsecond
	// abandonAfter is how long a handler has to return after its context is done.
	abandonAfter = time.Second
)

// batch is what a partition does in one transaction.
type batch struct {
	worker  *worker
	to      eventstore.Position // the checkpoint after the batch
	handled amount
	letters []catalog.NewLetter
	parking map[string]bool // keys that this batch parks
	durable bool            // the commit waits for the disk
	began   time.Time       // zero if nothing is handled

	watchdog *time.Timer  // ends the context when an event takes too long
	at       atomic.Int32 // the item that is being handled, or the first of several
	several  atomic.Bool
	done     bool // committed
}

// failure is why a batch cannot be committed, and the index of the item that failed; -1 if that item is not known.
type failure struct {
	at  int
	err error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// divert parks the item if the item is poison or its key is parked already. It reports whether it has parked the item.
func (b *batch) divert(i *item) bool {
	if len(b.worker.poison) == 0 && len(b.worker.parked) == 0 && len(b.parking) == 0 {
		return false
	}
	key := i.keyText()
	poison, isPoison := b.worker.poison[itemID{i.raw.Position, key}]
	switch {
	case b.worker.parked[key] || b.parking[key]:
		b.letters = append(b.letters, catalog.NewLetter{Key: key, Position: i.raw.Position, Stream: i.raw.Stream.String(), Type: i.raw.Type})
	case isPoison:
		reason := letterText(poison.err)
		b.letters = append(b.letters, catalog.NewLetter{
			Key: key, Position: i.raw.Position, Stream: i.raw.Stream.String(), Type: i.raw.Type, Error: &reason, Attempts: poison.attempts,
		})
		if b.parking == nil {
			b.parking = make(map[string]bool)
		}
		b.parking[key] = true
	default:
		return false
	}
	return true
}

// cut ends the batch at a position, and forgets the dead letters after it.
func (b *batch) cut(to eventstore.Position) {
	b.to, b.durable = to, true
	all := b.letters
	b.letters, b.parking = nil, nil
	for _, l := range all {
		if l.Position > to {
			continue
		}
		b.letters = append(b.letters, l)
		if l.Error != nil {
			if b.parking == nil {
				b.parking = make(map[string]bool)
			}
			b.parking[l.Key] = true
		}
	}
}

// beginSQL begins the transaction of a batch. While there is a backlog, the commit does not wait for the disk. A crash
// then loses the batch together with its checkpoint, and the batch is done again.
func (b *batch) beginSQL() string {
	if b.durable {
		return b.worker.engine.db.beginSQL()
	}
	return b.worker.engine.db.beginSQL() + "; set local synchronous_commit = off"
}

// handle gives the items to their handlers, in a transaction that also moves the checkpoint. It may stop early when the
// batch takes long: then b.to is the position of the last item that was handled.
func (b *batch) handle(ctx context.Context, conn *pgx.Conn, items []item) error {
	id := uuid.New()
	var tx pgx.Tx
	begin := b.beginSQL() + "; " + b.worker.engine.catalog.GuardText(id)
	err := b.worker.engine.answered(ctx, func(ctx context.Context) (err error) {
		tx, err = conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
		return err
	})
	if err != nil {
		return &failure{-1, err}
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // without effect after the commit
	start := time.Now()
	info := &batchInfo{projection: b.worker.projection, live: b.worker.live, liveAt: b.worker.liveAt, catalog: b.worker.engine.catalog, pool: b.worker.engine.pool}
	hctx := context.WithValue(ctx, batchKey{}, info)
	var slowest idler
	for n := 0; n < len(items); {
		said := newSaying()
		next, at, err := b.handleNext(hctx, tx, items, n, said)
		if said.idle > slowest.idle {
			slowest = idler{b.current(), said.idle}
		}
		if err != nil {
			return b.orIdle(&failure{at, err}, conn, slowest)
		}
		if n = next; n < len(items) && time.Since(start) > batchTime && items[n].raw.Position > items[n-1].raw.Position {
			b.to = items[n-1].raw.Position
			break
		}
	}
	b.watchdog.Stop()
	err = b.worker.engine.answered(ctx, func(ctx context.Context) error { return b.finish(ctx, tx, &id) })
	return b.orIdle(err, conn, slowest)
}

// handleNext gives the n-th item to its handler or effect, together with the following items if they are handled in one
// batch. next is the index of the first item after them. On an error, at is the index of the item that failed, and the
// effects of the items before it have happened; at is -1 if that item is not known.
func (b *batch) handleNext(ctx context.Context, tx pgx.Tx, items []item, n int, said *saying) (next, at int, err error) {
	i, info := &items[n], infoOf(ctx)
	if i.source.batch != nil {
		info.item = nil
		b.startItem(n, true)
		g, err := b.gather(items, n)
		if err != nil {
			return 0, g.next, err
		}
		b.startItem(max(n, g.only()), g.only() < 0)
		began := b.worker.begin()
		at, err = info.projection.handleTogether(ctx, tx, &g, said)
		b.worker.tellBatch(&g, items, began, at, err)
		if err == nil {
			b.handled.addAll(g.handled)
		}
		return g.next, at, err
	}
	if b.divert(i) {
		return n + 1, n, nil
	}
	b.startItem(n, false)
	info.item = i
	began := b.worker.begin()
	err = info.projection.handleAlone(ctx, tx, i, said)
	b.worker.tellEvent(i, began, err)
	if err == nil {
		b.handled.add(i)
	}
	return n + 1, n, err
}

// handleAlone gives an item to its handler, or calls its effect.
func (p *Projection) handleAlone(ctx context.Context, tx pgx.Tx, i *item, said *saying) error {
	if p.effects {
		return callEffect(ctx, i)
	}
	return p.handleItem(ctx, tx, i, said)
}

// handleTogether is handleAlone for the items of a [Batch]. It returns at like [gathered.call].
func (p *Projection) handleTogether(ctx context.Context, tx pgx.Tx, g *gathered, said *saying) (at int, err error) {
	if p.effects {
		return g.call(ctx, nil)
	}
	at, err = g.call(ctx, handlerTx{tx, p.names, said})
	return at, p.orEnded(ctx, tx, said, err)
}

// startItem notes which item is handled now, or which is the first of several, and restarts the watchdog with
// [Options.Timeout].
func (b *batch) startItem(n int, several bool) {
	b.at.Store(int32(n))
	b.several.Store(several)
	b.watchdog.Reset(b.worker.projection.options.Timeout)
}

// current returns the index of the item that is being handled, -1 if there are several.
func (b *batch) current() int {
	if b.several.Load() {
		return -1
	}
	return int(b.at.Load())
}

// idler is the item of a batch whose handler has left the transaction idle for the longest time.
type idler struct {
	item int
	idle time.Duration
}

// orIdle returns err, or errIdle for the slowest item if Postgres has ended the transaction because it was idle for the
// length of a lease. The next statement of the transaction either returns Postgres's error, or finds the connection
// closed.
func (b *batch) orIdle(err error, conn *pgx.Conn, slowest idler) error {
	told := pgerr.Is(err, pgerr.IdleInTransaction) && slowest.idle > b.worker.engine.config.Lease/3 // a third is enough: the items before it may have been idle too
	found := conn.IsClosed() && slowest.idle > b.worker.engine.config.Lease && classify(err) == transient && !errors.As(err, new(*pgconn.PgError))
	if !told && !found {
		return err
	}
	// The original error is text only, because it is about no event.
	return &failure{slowest.item, fmt.Errorf("%w: for %s: %v", errIdle, slowest.idle.Round(time.Millisecond), err)}
}

// handleItem calls the handler of an item, and checks that the transaction has survived it.
func (p *Projection) handleItem(ctx context.Context, tx pgx.Tx, i *item, said *saying) error {
	if i.meaning.err != nil {
		return i.meaning.err
	}
	// Events that the handler appends were caused by this event.
	err := call(eventstore.WithCause(eventstore.WithoutKey(ctx), *i.raw), handlerTx{tx, p.names, said}, i)
	return p.orEnded(ctx, tx, said, err)
}

// orEnded returns why a handler that returned err has failed. It can return an error for a nil err, because the handler
// may have ended or aborted the transaction.
func (p *Projection) orEnded(ctx context.Context, tx pgx.Tx, said *saying, err error) error {
	said.speak()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if isUnsent(err) {
		return err
	}
	if tx.Conn().IsClosed() {
		return Transient(fmt.Errorf("the connection was lost: %w", said.aborted(err)))
	}
	switch tx.Conn().PgConn().TxStatus() {
	case 'I':
		return errors.Join(errEnded, err)
	case 'E':
		return said.aborted(err)
	}
	return err
}

func call(ctx context.Context, tx pgx.Tx, i *item) (err error) {
	defer panics.Recover(&err)
	return i.source.handle(ctx, tx, i.meaning)
}

// finish writes the dead letters and the checkpoint, and commits.
func (b *batch) finish(ctx context.Context, tx pgx.Tx, id *uuid.UUID) error {
	if err := b.store(ctx, tx, id); err != nil {
		return &failure{-1, err}
	}
	if err := tx.Commit(ctx); err != nil {
		return &failure{-1, err}
	}
	b.done = true
	return nil
}

// store writes the dead letters and the checkpoint.
func (b *batch) store(ctx context.Context, tx pgx.Tx, id *uuid.UUID) error {
	if err := b.park(ctx, tx); err != nil {
		return err
	}
	return b.worker.engine.catalog.Advance(ctx, tx, b.advance(id))
}

// advance returns the arguments that move the checkpoint.
func (b *batch) advance(id *uuid.UUID) *catalog.Advance {
	w := b.worker
	return &catalog.Advance{
		ID: w.projection.id(), Partition: w.number, Token: w.token, From: w.checkpoint, To: w.markAt(b.to),
		Handled: b.handled.events, Parked: len(b.letters), Rate: w.rate.perSecond(), Batch: id, Proof: w.proof,
	}
}

// park stores the dead letters, unless there would be too many.
func (b *batch) park(ctx context.Context, tx pgx.Tx) error {
	if len(b.letters) == 0 {
		return nil
	}
	w := b.worker
	parked, err := w.engine.catalog.Parked(ctx, tx, w.projection.id())
	if err != nil {
		return err
	}
	if parked+len(b.letters) > w.projection.options.MaxParked {
		return Fatal(fmt.Errorf("%d dead letters and events behind them are parked, and %d more would be over the limit "+
			"of %d: see Operator.DeadLetters", parked, len(b.letters), w.projection.options.MaxParked))
	}
	return w.engine.catalog.Park(ctx, tx, w.projection.id(), w.number, b.letters)
}

// handleBatch gives items to their handlers.
func (w *worker) handleBatch(ctx context.Context, items []item, to eventstore.Position, backlogged bool) error {
	b := &batch{worker: w, to: to, durable: !backlogged || w.projection.effects, began: time.Now()}
	handle := b.handle
	if w.projection.effects {
		handle = b.effect
	}
	err := b.watched(ctx, func(ctx context.Context, conn *pgx.Conn) error { return handle(ctx, conn, items) })
	if errors.Is(err, errAbandoned) { // another goroutine may still use the batch
		if w.projection.effects {
			w.happened(ctx, items, int(b.at.Load()), b.began)
		}
		return err
	}
	if b.done {
		w.committed(b)
	}
	return err
}

// happened stores that the effects before an abandoned item have happened.
func (w *worker) happened(ctx context.Context, items []item, at int, began time.Time) {
	if at = wholeEvents(items, at); at == 0 {
		return
	}
	b := &batch{worker: w, to: items[at-1].raw.Position, durable: true, began: began}
	for n := range items[:at] {
		if !b.divert(&items[n]) {
			b.handled.add(&items[n])
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := pgx.BeginFunc(ctx, w.engine.pool, func(tx pgx.Tx) error { return b.store(ctx, tx, nil) }); err == nil {
		w.committed(b)
	}
}
