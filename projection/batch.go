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
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

const (
	// batchTime is after how long a batch is committed although there are more events at hand.
	batchTime = time.Second
	// maxFlushAfter is the same for many rows, and rowTime about what it takes to write one.
	maxFlushAfter = 5 * time.Second
	rowTime       = 10 * time.Microsecond
	// abandonAfter is how long a handler has to return once its context is done.
	abandonAfter = time.Second
)

const advanceSQL = `
select SCHEMA.advance_partition($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`

// A handler that commits loses the row, or leaves it: either is refused.
const (
	guardSQL   = `insert into SCHEMA.projection_batches (id) values ($1)`
	unguardSQL = `delete from SCHEMA.projection_batches where id = $1`
)

const parkSQL = `
insert into SCHEMA.dead_letters (projection, version, partition, key, position, error, attempts)
select $1, $2, $3, u.key, u.position, u.error, u.attempts
  from unnest($4::text[], $5::bigint[], $6::text[], $7::int[]) as u (key, position, error, attempts)`

const parkedTotalSQL = `
select coalesce(sum(parked), 0)
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2`

// batch is what a partition does in one transaction.
type batch struct {
	worker  *worker
	to      eventstore.Position // the checkpoint when all is done
	handled int
	letters []letter
	parking map[string]bool // keys that are parked from this batch on
	durable bool            // the commit is flushed before anything else happens

	watchdog *time.Timer  // ends the context when an event takes too long
	at       atomic.Int32 // the item that is being handled
	done     bool         // committed
}

// letter is a row of dead_letters to be.
type letter struct {
	key      string
	position eventstore.Position
	err      *string
	attempts int
}

// failure is why a batch cannot be committed, and at which of its items; -1 if nobody knows.
type failure struct {
	at  int
	err error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// divert parks the item if it is poison, or its key is parked already, and reports whether it has.
func (b *batch) divert(i *item) bool {
	if len(b.worker.poison) == 0 && len(b.worker.parked) == 0 && len(b.parking) == 0 {
		return false
	}
	key := i.keyText()
	poison, isPoison := b.worker.poison[itemID{i.raw.Position, key}]
	switch {
	case b.worker.parked[key] || b.parking[key]:
		b.letters = append(b.letters, letter{key: key, position: i.raw.Position})
	case isPoison:
		reason := letterText(poison.err)
		b.letters = append(b.letters, letter{key, i.raw.Position, &reason, poison.attempts})
		if b.parking == nil {
			b.parking = make(map[string]bool)
		}
		b.parking[key] = true
	default:
		return false
	}
	return true
}

// cut ends the batch at a position.
func (b *batch) cut(to eventstore.Position) {
	b.to, b.durable = to, true
	all := b.letters
	b.letters, b.parking = nil, nil
	for _, l := range all {
		if l.position > to {
			continue
		}
		b.letters = append(b.letters, l)
		if l.err != nil {
			if b.parking == nil {
				b.parking = make(map[string]bool)
			}
			b.parking[l.key] = true
		}
	}
}

// beginSQL begins a transaction that moves a checkpoint, or that an operator asked for. If this process is
// stopped in the middle of the transaction, the locks on its rows would block every other process. Postgres
// therefore ends the transaction when its client has sent nothing for the length of a lease.
func (e *engine) beginSQL() string {
	return fmt.Sprintf("begin isolation level read committed; set local idle_in_transaction_session_timeout = %d",
		e.config.Lease.Milliseconds())
}

// beginSQL begins the transaction of a batch. While there is a backlog the commit does not wait for the disk: a
// crash loses the batch together with its checkpoint, and the batch is done again.
func (b *batch) beginSQL() string {
	if b.durable {
		return b.worker.engine.beginSQL()
	}
	return b.worker.engine.beginSQL() + "; set local synchronous_commit = off"
}

// handle gives the items to their handlers, in a transaction that moves the checkpoint too. It may
// stop early, when it takes long; then to is where it came.
func (b *batch) handle(ctx context.Context, conn *pgx.Conn, items []item) error {
	id := uuid.New()
	var tx pgx.Tx
	begin := fmt.Sprintf("%s; insert into %s values ('%s')", b.beginSQL(), b.worker.engine.batches, id)
	err := b.worker.engine.answered(ctx, func(ctx context.Context) (err error) {
		tx, err = conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
		return err
	})
	if err != nil {
		return &failure{-1, err}
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // of no effect after the commit
	start := time.Now()
	info := &batchInfo{projection: b.worker.projection, live: b.worker.live, liveAt: b.worker.liveAt, inbox: b.worker.engine.sql(inboxSQL), engine: b.worker.engine}
	hctx := context.WithValue(ctx, batchKey{}, info)
	var slowest idler
	for n := range items {
		i := &items[n]
		if b.divert(i) {
			continue
		}
		b.at.Store(int32(n))
		b.watchdog.Reset(b.worker.projection.options.Timeout)
		info.item = i
		said := newSaying()
		err := handleItem(hctx, tx, i, said)
		if said.idle > slowest.idle {
			slowest = idler{n, said.idle}
		}
		if err != nil {
			return b.orIdle(&failure{n, err}, conn, slowest)
		}
		b.handled++
		if n+1 < len(items) && time.Since(start) > batchTime && items[n+1].raw.Position > i.raw.Position {
			b.to = i.raw.Position
			break
		}
	}
	b.watchdog.Stop()
	err = b.worker.engine.answered(ctx, func(ctx context.Context) error { return b.finish(ctx, tx, &id) })
	return b.orIdle(err, conn, slowest)
}

// idler is the item of a batch whose handler has left the transaction alone for longest.
type idler struct {
	item int
	idle time.Duration
}

// orIdle returns err, or why the slowest item has failed if Postgres has ended the transaction because nothing was done
// with it for as long as a lease. Whoever uses the transaction next is told, or finds the connection closed.
func (b *batch) orIdle(err error, conn *pgx.Conn, slowest idler) error {
	told := pgerr.Is(err, pgerr.IdleInTransaction) && slowest.idle > b.worker.engine.config.Lease/3 // with what was left of it by others
	found := conn.IsClosed() && slowest.idle > b.worker.engine.config.Lease && classify(err) == transient && !errors.As(err, new(*pgconn.PgError))
	if !told && !found {
		return err
	}
	// The error itself is about no event.
	return &failure{slowest.item, fmt.Errorf("%w: for %s: %v", errIdle, slowest.idle.Round(time.Millisecond), err)}
}

// handleItem calls the handler of an item, and looks whether the transaction survived it.
func handleItem(ctx context.Context, tx pgx.Tx, i *item, said *saying) error {
	if i.meaning.err != nil {
		return i.meaning.err
	}
	defer said.speak()
	// What the handler appends was caused by this event.
	err := call(eventstore.WithCause(eventstore.WithoutKey(ctx), *i.raw), handlerTx{tx, said}, i)
	if ctx.Err() != nil {
		return context.Cause(ctx)
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
	defer recovered(&err)
	return i.source.handle(ctx, tx, i.meaning)
}

// finish writes the dead letters and the checkpoint, and commits.
func (b *batch) finish(ctx context.Context, tx pgx.Tx, id *uuid.UUID) error {
	if err := b.advance(ctx, tx, id); err != nil {
		return &failure{-1, err}
	}
	if err := tx.Commit(ctx); err != nil {
		return &failure{-1, err}
	}
	b.done = true
	return nil
}

// advance writes the dead letters and the checkpoint.
func (b *batch) advance(ctx context.Context, tx pgx.Tx, id *uuid.UUID) error {
	if err := b.writeLetters(ctx, tx); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, b.worker.engine.sql(advanceSQL), b.advanceArgs(id)...)
	return err
}

func (b *batch) advanceArgs(id *uuid.UUID) []any {
	return []any{b.worker.projection.name, b.worker.projection.options.Version, b.worker.number, b.worker.token, b.worker.checkpoint, b.to, b.handled, len(b.letters), b.worker.rate.perSecond(), id,
		b.worker.proof.Position, nullID(b.worker.proof.ID)}
}

// writeLetters parks what cannot be handled, unless that would be too much.
func (b *batch) writeLetters(ctx context.Context, tx pgx.Tx) error {
	if len(b.letters) == 0 {
		return nil
	}
	var parked int
	if err := tx.QueryRow(ctx, b.worker.engine.sql(parkedTotalSQL), b.worker.projection.name, b.worker.projection.options.Version).Scan(&parked); err != nil {
		return err
	}
	if parked+len(b.letters) > b.worker.projection.options.MaxParked {
		return Fatal(fmt.Errorf("%d dead letters and events behind them are parked, and %d more would be over the limit "+
			"of %d: see Runner.DeadLetters", parked, len(b.letters), b.worker.projection.options.MaxParked))
	}
	var keys []string
	var positions []int64
	var reasons []*string
	var attempts []int32
	for _, l := range b.letters {
		keys, positions = append(keys, l.key), append(positions, int64(l.position))
		reasons, attempts = append(reasons, l.err), append(attempts, int32(l.attempts))
	}
	_, err := tx.Exec(ctx, b.worker.engine.sql(parkSQL), b.worker.projection.name, b.worker.projection.options.Version, b.worker.number, keys, positions, reasons, attempts)
	return err
}
