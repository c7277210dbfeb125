package catalog

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// StoreID returns the id of the store in the schema.
func (c *Catalog) StoreID(ctx context.Context, db DB) (uuid.UUID, error) {
	return one[uuid.UUID](ctx, c, db, `select id from SCHEMA.store`)
}

// VersionStatus is the state of a version.
type VersionStatus struct {
	ID         ID
	Phase      string
	State      string
	Reason     string
	Added      map[string]eventstore.Position // types that were added later, and the positions up to which their events are missing
	Total      int64                          // about how many events had to be handled, when the version was created
	Checkpoint eventstore.Position            // of the partition that is farthest behind
	Handled    int64
	Types      []string
	TotalAt    eventstore.Position // where the log ended when the version was created
	Now        time.Time           // by the clock of the server
}

const statusSQL = `
select v.name, v.version, v.phase, v.state, coalesce(v.reason, ''), v.added, v.total,
       at.checkpoint, at.handled, v.types, v.total_at, clock_timestamp()
  from SCHEMA.projections v
  join lateral (
       select coalesce(min(p.checkpoint), 0) as checkpoint, coalesce(sum(p.handled), 0)::bigint as handled
         from SCHEMA.projection_partitions p
        where (p.projection, p.version) = (v.name, v.version)) at on true
 where $1::text[] is null
    or v.name = any ($1)
 order by v.name, v.version`

// VersionStatuses returns the state of the versions with the given names, or of all versions if names is nil.
func (c *Catalog) VersionStatuses(ctx context.Context, db DB, names []string) ([]VersionStatus, error) {
	return collect(ctx, c, db, func(row pgx.CollectableRow) (s VersionStatus, err error) {
		var added []byte
		err = row.Scan(&s.ID.Name, &s.ID.Version, &s.Phase, &s.State, &s.Reason, &added, &s.Total,
			&s.Checkpoint, &s.Handled, &s.Types, &s.TotalAt, &s.Now)
		if err == nil {
			err = json.Unmarshal(added, &s.Added)
		}
		return s, err
	}, statusSQL, names)
}

// PartitionStatus is the state of a partition.
type PartitionStatus struct {
	ID           ID
	Number       int
	Checkpoint   eventstore.Position
	Owner        string // "" if no lease is valid
	Handled      int64
	Rate         float64
	Parked       int
	Error        string
	ErrorAt      eventstore.Position
	FailingSince *time.Time
	AdvancedAt   time.Time
}

const partitionStatusSQL = `
select projection, version, partition, checkpoint,
       case when ` + leased + ` then coalesce(lease_owner, '') else '' end,
       handled, rate, parked, coalesce(error, ''), coalesce(error_at, 0), failing_since, advanced_at
  from SCHEMA.projection_partitions p
 where $1::text[] is null
    or projection = any ($1)
 order by projection, version, partition`

// PartitionStatuses returns the state of the partitions with the given names, or of all partitions if names is nil.
func (c *Catalog) PartitionStatuses(ctx context.Context, db DB, names []string) ([]PartitionStatus, error) {
	return collect(ctx, c, db, func(row pgx.CollectableRow) (p PartitionStatus, err error) {
		err = row.Scan(&p.ID.Name, &p.ID.Version, &p.Number, &p.Checkpoint, &p.Owner, &p.Handled, &p.Rate, &p.Parked,
			&p.Error, &p.ErrorAt, &p.FailingSince, &p.AdvancedAt)
		return p, err
	}, partitionStatusSQL, names)
}

// LiveState says why the live version of a projection may make no progress.
type LiveState struct {
	State  string
	Reason string
	Owner  string // of the partition that is farthest behind
	Leased bool
	Left   time.Duration // until the lease ends
	Silent time.Duration // since the lease was renewed
}

const liveStateSQL = `
select v.state, coalesce(v.reason, ''), coalesce(p.lease_owner, ''),
       coalesce(` + leased + `, false), coalesce(p.lease_expires - clock_timestamp(), interval '0'),
       coalesce(p.lease_length - (p.lease_expires - clock_timestamp()), interval '0')
  from SCHEMA.projections v
  join SCHEMA.projection_partitions p on (p.projection, p.version) = (v.name, v.version)
 where v.name = $1
   and v.phase = 'live'
 order by p.checkpoint
 limit 1`

// LiveState returns the state of the live version, or [pgx.ErrNoRows].
func (c *Catalog) LiveState(ctx context.Context, db DB, name string) (s LiveState, err error) {
	err = db.QueryRow(ctx, c.SQL(liveStateSQL), name).Scan(&s.State, &s.Reason, &s.Owner, &s.Leased, &s.Left, &s.Silent)
	return s, err
}

const auditSQL = `
insert into SCHEMA.projection_audit (projection, version, action, actor, details)
values ($1, $2, $3, coalesce(nullif($4, ''), session_user), $5)`

// Audit records a change of a version, or of all versions with version 0, and who made it: actor, or the role of
// Postgres if actor is "".
func (c *Catalog) Audit(ctx context.Context, tx pgx.Tx, id ID, action, actor string, details map[string]any) error {
	text, err := json.Marshal(details)
	if err != nil {
		return err
	}
	_, err = c.exec(ctx, tx, auditSQL, id.Name, id.Version, action, actor, string(text))
	return err
}

// AuditEntry is a change that was made to a projection.
type AuditEntry struct {
	Projection string
	Version    int // 0 for all versions
	Action     string
	Actor      string
	Role       string
	Details    map[string]any
	RecordedAt time.Time
}

const auditListSQL = `
select projection, version, action, actor, role, details, recorded_at
  from SCHEMA.projection_audit
 where projection = $1
 order by id desc
 limit $2`

// AuditList returns the changes that were made to a projection, the latest first.
func (c *Catalog) AuditList(ctx context.Context, db DB, name string, most int) ([]AuditEntry, error) {
	return collect(ctx, c, db, pgx.RowToStructByPos[AuditEntry], auditListSQL, name, most)
}
