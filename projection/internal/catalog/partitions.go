package catalog

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Partition is the stored state of a partition that its owner needs.
type Partition struct {
	Checkpoint   eventstore.Position
	CheckpointID uuid.UUID // id of the event at the checkpoint; zero if it is not known
	Token        int64
	Mine         bool // the process that asks has the lease
	Phase        string
	State        string
	Types        []string // that the version handles
	Partitions   int
	Inline       eventstore.Position // appends keep the projection after this position; -1 if they do not, or not yet
	Held         bool                // another version is about to become the live version
	Failing      bool
	ServerStart  time.Time
}

const partitionSQL = `
select p.checkpoint, p.fencing_token, coalesce(p.lease_owner = $4, false), v.phase, v.state, v.types, v.partitions, coalesce(v.inline, -1),
       coalesce(v.held_until between clock_timestamp() and clock_timestamp() + interval '1 minute', false), p.error is not null,
       pg_postmaster_start_time(), case when p.seen = p.checkpoint then p.seen_id end
  from SCHEMA.projection_partitions p
  join SCHEMA.projections v on (v.name, v.version) = (p.projection, p.version)
 where p.projection = $1
   and p.version = $2
   and p.partition = $3
   and (select SCHEMA.proven())`

// Partition returns the state of a partition for a process, or [pgx.ErrNoRows].
func (c *Catalog) Partition(ctx context.Context, db DB, id ID, number int, owner string) (p Partition, err error) {
	err = db.QueryRow(ctx, c.SQL(partitionSQL), id.Name, id.Version, number, owner).
		Scan(&p.Checkpoint, &p.Token, &p.Mine, &p.Phase, &p.State, &p.Types, &p.Partitions, &p.Inline,
			&p.Held, &p.Failing, &p.ServerStart, (*zeronull.UUID)(&p.CheckpointID))
	return p, err
}

const addPartitionsSQL = `
insert into SCHEMA.projection_partitions (projection, version, partition, checkpoint, seen, seen_id, fencing_token)
select $1, $2, n, $4, $4, $5,
       (1000 * extract(epoch from clock_timestamp()))::bigint -- no token of a version that was dropped is used again
  from generate_series(0, $3::int - 1) n`

// AddPartitions makes the partitions of a new version, with their checkpoints at a mark.
func (c *Catalog) AddPartitions(ctx context.Context, db DB, id ID, partitions int, at eventstore.Mark) error {
	_, err := c.exec(ctx, db, addPartitionsSQL, id.Name, id.Version, partitions, at.Position, nullID(at.ID))
	return err
}

// Advance has the arguments that move a checkpoint.
type Advance struct {
	ID        ID
	Partition int
	Token     int64
	From      eventstore.Position
	To        eventstore.Mark
	Handled   int             // events
	Parked    int             // dead letters
	Rate      float32         // events per second
	Batch     *uuid.UUID      // the id that was given to Guard; nil for none
	Proof     eventstore.Mark // the mark of an event that the owner has read; zero for none
}

const advanceSQL = `
select SCHEMA.advance_partition($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`

func (a *Advance) args() []any {
	return []any{a.ID.Name, a.ID.Version, a.Partition, a.Token, a.From, a.To.Position, nullID(a.To.ID), a.Handled, a.Parked, a.Rate,
		a.Batch, a.Proof.Position, nullID(a.Proof.ID)}
}

// Advance moves a checkpoint for the owner of the token. It fails with SQLSTATE TM006 for another process, and with
// TM012 for an owner that has read another log.
func (c *Catalog) Advance(ctx context.Context, db DB, a *Advance) error {
	_, err := c.exec(ctx, db, advanceSQL, a.args()...)
	return err
}

// AdvanceLazily is Advance in a transaction of its own that does not wait for the disk.
func (c *Catalog) AdvanceLazily(ctx context.Context, send Batcher, a *Advance) error {
	b := &pgx.Batch{}
	b.Queue(`select set_config('synchronous_commit', 'off', true)`)
	b.Queue(c.SQL(advanceSQL), a.args()...)
	return send(ctx, b)
}

const failSQL = `
update SCHEMA.projection_partitions
   set error = $4, error_at = $5, failing_since = coalesce(failing_since, clock_timestamp())
 where projection = $1
   and version = $2
   and partition = $3
   and fencing_token = $6`

const stopSQL = `
with stopped as (
    update SCHEMA.projections
       set state = 'stopped', reason = $3, updated_at = clock_timestamp()
     where name = $1
       and version = $2
       and state = 'running'
       and exists (
           select
             from SCHEMA.projection_partitions p
            where (p.projection, p.version, p.partition) = ($1, $2, $4)
              and p.fencing_token = $5)
 returning name, version)
insert into SCHEMA.projection_audit (projection, version, action, actor, details)
select name, version, 'stop', 'the projection itself', jsonb_build_object('reason', $3::text)
  from stopped`

// Failure is why a partition makes no progress.
type Failure struct {
	ID        ID
	Partition int
	Token     int64
	Error     string
	At        *int64 // the position of the event; nil if the failure is about none
	Stop      bool   // stop the whole version
}

// Fail stores why a partition makes no progress, and since when, if the token is still the token of the partition.
func (c *Catalog) Fail(ctx context.Context, send Batcher, f Failure) error {
	b := &pgx.Batch{}
	if f.Stop {
		b.Queue(c.SQL(stopSQL), f.ID.Name, f.ID.Version, f.Error, f.Partition, f.Token)
	}
	b.Queue(c.SQL(failSQL), f.ID.Name, f.ID.Version, f.Partition, f.Error, f.At, f.Token)
	return send(ctx, b)
}

const liveCheckpointsSQL = `
select array(select p.checkpoint
               from SCHEMA.projections v
               join SCHEMA.projection_partitions p on (p.projection, p.version) = (v.name, v.version)
              where v.name = $1
                and v.phase = 'live'
              order by p.partition),
       (select own.fencing_token
          from SCHEMA.projection_partitions own
         where (own.projection, own.version, own.partition) = ($1, $2, $3))`

// LiveCheckpoints returns the checkpoints of the live version of a name, and the token of a partition of id. The token
// is nil if the partition does not exist any more.
func (c *Catalog) LiveCheckpoints(ctx context.Context, db DB, id ID, partition int) (live []eventstore.Position, token *int64, err error) {
	err = db.QueryRow(ctx, c.SQL(liveCheckpointsSQL), id.Name, id.Version, partition).Scan(&live, &token)
	return live, token, err
}

const siblingsSQL = `
select coalesce(sum(checkpoint), 0)::bigint, count(*) filter (where checkpoint < $4)
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2
   and partition <> $3`

// Siblings returns the sum of the checkpoints of the other partitions of a version, and how many of them are
// before a position.
func (c *Catalog) Siblings(ctx context.Context, db DB, id ID, partition int, position eventstore.Position) (sum int64, behind int, err error) {
	err = db.QueryRow(ctx, c.SQL(siblingsSQL), id.Name, id.Version, partition, position).Scan(&sum, &behind)
	return sum, behind, err
}

const checkpointsSQL = `
select checkpoint
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2
 order by partition`

// Checkpoints returns the checkpoints of a version.
func (c *Catalog) Checkpoints(ctx context.Context, db DB, id ID) ([]eventstore.Position, error) {
	return collect(ctx, c, db, pgx.RowTo[eventstore.Position], checkpointsSQL, id.Name, id.Version)
}

// LockCheckpoints is Checkpoints, and also locks the partitions until the transaction ends.
func (c *Catalog) LockCheckpoints(ctx context.Context, tx pgx.Tx, id ID) ([]eventstore.Position, error) {
	return collect(ctx, c, tx, pgx.RowTo[eventstore.Position], checkpointsSQL+"\n   for update", id.Name, id.Version)
}

const checkpointSQL = `
select checkpoint
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2
   and partition = $3`

// Checkpoint returns the checkpoint of a partition, or [pgx.ErrNoRows].
func (c *Catalog) Checkpoint(ctx context.Context, db DB, id ID, partition int) (eventstore.Position, error) {
	return one[eventstore.Position](ctx, c, db, checkpointSQL, id.Name, id.Version, partition)
}

const liveCheckpointSQL = `
select min(p.checkpoint)
  from SCHEMA.projections v
  join SCHEMA.projection_partitions p on (p.projection, p.version) = (v.name, v.version)
 where v.name = $1
   and v.phase = 'live'
having count(*) > 0`

// LiveCheckpoint returns the position that all partitions of the live version have reached, or [pgx.ErrNoRows].
func (c *Catalog) LiveCheckpoint(ctx context.Context, db DB, name string) (eventstore.Position, error) {
	return one[eventstore.Position](ctx, c, db, liveCheckpointSQL, name)
}

const farthestSQL = `
select coalesce(max(checkpoint), 0)
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2`

// Farthest returns the highest checkpoint of a version.
func (c *Catalog) Farthest(ctx context.Context, db DB, id ID) (eventstore.Position, error) {
	return one[eventstore.Position](ctx, c, db, farthestSQL, id.Name, id.Version)
}

const fenceSQL = `
update SCHEMA.projection_partitions p
   set fencing_token = fencing_token + 1
  from (select projection, version, partition
          from SCHEMA.projection_partitions
         where projection = $1
           and ($2 = 0 or version = $2)
           and ($3::int[] is null or partition = any ($3))
         order by version, partition
           for update) locked
 where (p.projection, p.version, p.partition) = (locked.projection, locked.version, locked.partition)`

// Fence raises the fencing tokens of some partitions of a version, of all its partitions if partitions is nil, and of
// all versions if id.Version is 0. Everything that the owners remember or have under way is then invalid, and cannot be
// committed. The rows are locked in the order of partitions, so that two calls of Fence cannot deadlock.
func (c *Catalog) Fence(ctx context.Context, tx pgx.Tx, id ID, partitions []int32) error {
	_, err := c.exec(ctx, tx, fenceSQL, id.Name, id.Version, partitions)
	return err
}

const clearErrorsSQL = `
update SCHEMA.projection_partitions
   set error = null, error_at = null, failing_since = null, advanced_at = clock_timestamp()
 where projection = $1
   and ($2 = 0 or version = $2)`

// ClearErrors deletes the stored errors of partitions.
func (c *Catalog) ClearErrors(ctx context.Context, tx pgx.Tx, id ID) error {
	_, err := c.exec(ctx, tx, clearErrorsSQL, id.Name, id.Version)
	return err
}

const resetSQL = `
update SCHEMA.projection_partitions
   set checkpoint = $3, parked = 0, handled = case when $3::bigint = 0 then 0 else handled end,
       error = null, error_at = null, failing_since = null, advanced_at = clock_timestamp()
 where projection = $1
   and version = $2`

// Reset sets all checkpoints of a version. The caller fences the version.
func (c *Catalog) Reset(ctx context.Context, tx pgx.Tx, id ID, to eventstore.Position) error {
	_, err := c.exec(ctx, tx, resetSQL, id.Name, id.Version, to)
	return err
}
