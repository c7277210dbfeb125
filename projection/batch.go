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
	*worker
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
	if len(b.poison) == 0 && len(b.parked) == 0 && len(b.parking) == 0 {
		return false
	}
	key := i.keyText()
	poison, isPoison := b.poison[itemID{i.raw.Position, key}]
	switch {
	case b.parked[key] || b.parking[key]:
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

// begin is how a transaction starts that moves a checkpoint or does what an operator wants. A process that
// is stopped in the middle of it, and has lost its lease, would hold the locks of its rows for ever: Postgres
// ends a transaction whose client does nothing.
func (e *engine) begin() string {
	return fmt.Sprintf("begin isolation level read committed; set local idle_in_transaction_session_timeout = %d",
		e.config.Lease.Milliseconds())
}

// begin is how a batch starts. What is lost in a crash is lost together with its checkpoint, and done again:
// so nobody waits for the disk while there is a backlog.
func (b *batch) begin() string {
	if b.durable {
		return b.engine.begin()
	}
	return b.engine.begin() + "; set local synchronous_commit = off"
}

// handle gives the items to their handlers, in a transaction that moves the checkpoint too. It may
// stop early, when it takes long; then to is where it came.
func (b *batch) handle(ctx context.Context, conn *pgx.Conn, items []item) error {
	id := uuid.New()
	var tx pgx.Tx
	begin := fmt.Sprintf("%s; insert into %s values ('%s')", b.begin(), b.batches, id)
	err := b.answered(ctx, func(ctx context.Context) (err error) {
		tx, err = conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin})
		return err
	})
	if err != nil {
		return &failure{-1, err}
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // of no effect after the commit
	start := time.Now()
	info := &batchInfo{projection: b.Projection, live: b.live, liveAt: b.liveAt, inbox: b.sql(inboxSQL), engine: b.engine}
	hctx := context.WithValue(ctx, batchKey{}, info)
	var slowest idler
	for n := range items {
		i := &items[n]
		if b.divert(i) {
			continue
		}
		b.at.Store(int32(n))
		b.watchdog.Reset(b.options.Timeout)
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
	err = b.answered(ctx, func(ctx context.Context) error { return b.finish(ctx, tx, &id) })
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
	told := pgerr.Is(err, pgerr.IdleInTransaction) && slowest.idle > b.config.Lease/3 // with what was left of it by others
	found := conn.IsClosed() && slowest.idle > b.config.Lease && classify(err) == transient && !errors.As(err, new(*pgconn.PgError))
	if !told && !found {
		return err
	}
	// The error itself is about no event.
	return &failure{slowest.item, fmt.Errorf("%w: for %s: %v", errIdle, slowest.idle.Round(time.Millisecond), err)}
}

// handleItem calls the handler of an item, and looks whether the transaction survived it.
func handleItem(ctx context.Context, tx pgx.Tx, i *item, said *saying) error {
	if i.err != nil {
		return i.err
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
	return i.source.handle(ctx, tx, i.decoded)
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
	_, err := tx.Exec(ctx, b.sql(advanceSQL), b.advanceArgs(id)...)
	return err
}

func (b *batch) advanceArgs(id *uuid.UUID) []any {
	return []any{b.name, b.options.Version, b.number, b.token, b.checkpoint, b.to, b.handled, len(b.letters), b.rate.perSecond(), id,
		b.proof.Position, nullID(b.proof.ID)}
}

// writeLetters parks what cannot be handled, unless that would be too much.
func (b *batch) writeLetters(ctx context.Context, tx pgx.Tx) error {
	if len(b.letters) == 0 {
		return nil
	}
	var parked int
	if err := tx.QueryRow(ctx, b.sql(parkedTotalSQL), b.name, b.options.Version).Scan(&parked); err != nil {
		return err
	}
	if parked+len(b.letters) > b.options.MaxParked {
		return Fatal(fmt.Errorf("%d dead letters and events behind them are parked, and %d more would be over the limit "+
			"of %d: see Runner.DeadLetters", parked, len(b.letters), b.options.MaxParked))
	}
	var keys []string
	var positions []int64
	var reasons []*string
	var attempts []int32
	for _, l := range b.letters {
		keys, positions = append(keys, l.key), append(positions, int64(l.position))
		reasons, attempts = append(reasons, l.err), append(attempts, int32(l.attempts))
	}
	_, err := tx.Exec(ctx, b.sql(parkSQL), b.name, b.options.Version, b.number, keys, positions, reasons, attempts)
	return err
}
