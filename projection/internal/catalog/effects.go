package catalog

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/eventstore"
)

// A handler that commits the transaction of its batch also commits the batch's row: a deferred trigger makes that
// commit fail. A handler that rolls the transaction back removes the row: the commit of the batch then fails.
const (
	guardSQL   = `insert into SCHEMA.projection_batches (id) values ($1)`
	unguardSQL = `delete from SCHEMA.projection_batches where id = $1`
)

// Guard makes every commit of the transaction fail until Unguard.
func (c *Catalog) Guard(ctx context.Context, tx pgx.Tx, batch uuid.UUID) error {
	_, err := c.exec(ctx, tx, guardSQL, batch)
	return err
}

// Unguard reports whether the transaction is still the one in which Guard was called, and allows it to commit.
func (c *Catalog) Unguard(ctx context.Context, tx pgx.Tx, batch uuid.UUID) (same bool, err error) {
	n, err := c.exec(ctx, tx, unguardSQL, batch)
	return n == 1, err
}

// GuardText returns the statement of Guard as text, to be sent together with the begin of a transaction.
func (c *Catalog) GuardText(batch uuid.UUID) string {
	return fmt.Sprintf(c.SQL("insert into SCHEMA.projection_batches values ('%s')"), batch)
}

// NoteLimits bounds how long Note waits, and how long the transaction may be idle after it.
type NoteLimits struct {
	Wait time.Duration // for another transaction that has noted the same effect
	Idle time.Duration // used if the session has no limit of its own
}

// The limits hold from the note on. A process that freezes or loses its connection during an effect then keeps the note
// from other processes only for the time that an effect may take.
const (
	limitSQL = `
select set_config('tidemark.lock_timeout', current_setting('lock_timeout'), true),
       set_config('lock_timeout', $1, true),
       set_config('idle_in_transaction_session_timeout',
                  case current_setting('idle_in_transaction_session_timeout')
                  when '0' then $2
                  else current_setting('idle_in_transaction_session_timeout')
                  end, true)`
	unlimitSQL = `select set_config('lock_timeout', current_setting('tidemark.lock_timeout'), true)`
)

// If an event is a dead letter of the live version, its effect has not happened.
const noteSQL = `
insert into SCHEMA.inbox (projection, position, part)
select $1, $2::bigint, $3
 where $4::boolean
    or exists (
       select
         from SCHEMA.projections v
         join SCHEMA.dead_letters l on (l.projection, l.version) = (v.name, v.version)
        where v.name = $1
          and v.phase = 'live'
          and l.position = $2)
on conflict do nothing`

// Note notes in a transaction of the application that an effect of an event happens. It reports whether the note is
// new: the effect is due or the event is a dead letter of the live version, and the effect was not noted before.
func (c *Catalog) Note(ctx context.Context, tx pgx.Tx, name string, position eventstore.Position, effect string,
	due bool, limits NoteLimits) (first bool, err error) {
	send := &pgx.Batch{}
	send.Queue(limitSQL, milliseconds(limits.Wait), milliseconds(limits.Idle))
	send.Queue(c.SQL(noteSQL), name, position, effect, due).Exec(func(done pgconn.CommandTag) error {
		first = done.RowsAffected() == 1
		return nil
	})
	send.Queue(unlimitSQL)
	return first, tx.SendBatch(ctx, send).Close()
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%dms", max(d.Milliseconds(), 1)) }

// notingSQL returns the transaction that has written to the inbox, or is about to. If there are several, it returns the
// one that began first.
const notingSQL = `
select a.pid, coalesce(a.application_name, ''), coalesce(a.state, 'unknown')
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'relation'
   and l.database = (select oid from pg_database where datname = current_database())
   and l.relation = 'SCHEMA.inbox'::regclass
   and l.mode = 'RowExclusiveLock'
   and l.granted
   and l.pid <> $1
 order by a.xact_start
 limit 1`

// Session is a session of Postgres.
type Session struct {
	PID             int32
	ApplicationName string
	State           string
}

// OldestNoter returns the session, other than pid, with the oldest transaction that has written to the inbox.
func (c *Catalog) OldestNoter(ctx context.Context, db DB, pid uint32) (s Session, err error) {
	err = db.QueryRow(ctx, c.SQL(notingSQL), int32(pid)).Scan(&s.PID, &s.ApplicationName, &s.State)
	return s, err
}

const effectTokenSQL = `
select fencing_token, current_setting('transaction_read_only') = 'on'
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2
   and partition = $3
   and (select SCHEMA.proven($4, $5))`

// EffectToken returns the token of a partition, before effects are called. It also returns whether the database accepts
// no writes: it could then not be noted that an effect has happened.
func (c *Catalog) EffectToken(ctx context.Context, db DB, id ID, partition int, proof eventstore.Mark) (token int64, readOnly bool, err error) {
	err = db.QueryRow(ctx, c.SQL(effectTokenSQL), id.Name, id.Version, partition, proof.Position, nullID(proof.ID)).Scan(&token, &readOnly)
	return token, readOnly, err
}
