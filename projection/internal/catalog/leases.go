package catalog

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/lease"
)

// leased is true if a partition has an owner. A lease can end later than its length allows, if it was taken before the
// server's clock was set back. Such a lease counts as ended: its owner may be gone, and a running owner renews it by
// the present clock.
const leased = `(p.lease_expires between clock_timestamp() and clock_timestamp() + p.lease_length)`

// Leases stores the leases of projections. It is a [lease.Store].
type Leases struct {
	Catalog *Catalog
	DB      DB
	Send    Batcher
}

// VersionPlan is the state of a version that a process needs in order to decide whether it runs the version.
type VersionPlan struct {
	Phase      string
	State      string
	Types      []string // that the version handles
	Partitions int
}

// fresh compares the end of a lease of the length $2: at least three quarters of the length are left. The clock may have
// been set back since the lease was written.
const fresh = `between clock_timestamp() + $2::interval * 3 / 4 and clock_timestamp() + $2::interval`

// A process that runs a projection is a member of it, until it has sent no sign of life for the length of a lease.
//
// Each write costs WAL, also where nothing else happens. So only rows that are not fresh are written again, and without ON
// CONFLICT DO UPDATE, which writes twice for each row. With a look every two seconds, an owner has at least 5.5 of 10 s
// left. A partition that an operator has locked is not renewed. Other processes cannot steal it either while it is locked.
const renewSQL = `
with mine as (
    select v.name, v.version
      from SCHEMA.projections v
      join unnest($3::text[], $4::int[]) as mine (name, version) on (v.name, v.version) = (mine.name, mine.version)
), remembered as (
    update SCHEMA.projection_members m
       set expires = clock_timestamp() + $2::interval, length = $2::interval
      from mine
     where (m.projection, m.version, m.owner) = (mine.name, mine.version, $1)
       and (m.length = $2 and m.expires ` + fresh + `) is not true
), joined as (
    insert into SCHEMA.projection_members (projection, version, owner, expires, length)
    select mine.name, mine.version, $1, clock_timestamp() + $2::interval, $2::interval
      from mine
     where not exists (
           select
             from SCHEMA.projection_members m
            where (m.projection, m.version, m.owner) = (mine.name, mine.version, $1))
        on conflict do nothing
), renewed as (
    update SCHEMA.projection_partitions p
       set lease_expires = clock_timestamp() + $2::interval, lease_length = $2::interval
      from (select projection, version, partition
              from SCHEMA.projection_partitions
             where lease_owner = $1
               and (lease_length = $2
                    and lease_expires ` + fresh + `) is not true
               for update skip locked) due
     where (p.projection, p.version, p.partition) = (due.projection, due.version, due.partition))
select projection, version, partition, fencing_token
  from SCHEMA.projection_partitions
 where lease_owner = $1`

const planSQL = `
select v.name, v.version, v.phase, v.state, v.types, v.partitions,
       array(select m.owner
               from SCHEMA.projection_members m
              where (m.projection, m.version) = (v.name, v.version)
                and m.expires between clock_timestamp() and clock_timestamp() + m.length
              order by m.owner),
       (select count(*)
          from SCHEMA.projection_partitions p
         where (p.projection, p.version) = (v.name, v.version)
           and (p.lease_owner is null or ` + leased + ` is not true))
  from SCHEMA.projections v
  join unnest($1::text[], $2::int[]) as mine (name, version) on (v.name, v.version) = (mine.name, mine.version)`

// Renew implements [lease.Store].
func (l *Leases) Renew(ctx context.Context, owner string, length time.Duration, member, all []lease.Group) (
	map[lease.ID]int64, []lease.Plan[VersionPlan], error) {
	held := make(map[lease.ID]int64)
	var plans []lease.Plan[VersionPlan]
	b := &pgx.Batch{}
	names, versions := columns(member)
	b.Queue(l.Catalog.SQL(renewSQL), owner, length, names, versions).Query(func(rows pgx.Rows) error {
		var id lease.ID
		var token int64
		_, err := pgx.ForEachRow(rows, []any{&id.Group.Name, &id.Group.Version, &id.Partition, &token}, func() error {
			held[id] = token
			return nil
		})
		return err
	})
	names, versions = columns(all)
	b.Queue(l.Catalog.SQL(planSQL), names, versions).Query(func(rows pgx.Rows) (err error) {
		plans, err = pgx.CollectRows(rows, scanPlan)
		return err
	})
	err := l.Send(ctx, b)
	return held, plans, err
}

func columns(groups []lease.Group) (names []string, versions []int32) {
	for _, g := range groups {
		names, versions = append(names, g.Name), append(versions, int32(g.Version))
	}
	return names, versions
}

func scanPlan(row pgx.CollectableRow) (p lease.Plan[VersionPlan], err error) {
	d := &p.Detail
	err = row.Scan(&p.Group.Name, &p.Group.Version, &d.Phase, &d.State, &d.Types, &d.Partitions, &p.Members, &p.Free)
	p.Running = d.State == Running
	return p, err
}

// A lease is stolen when it has expired. The new token makes the work of the former owner fail.
const acquireSQL = `
update SCHEMA.projection_partitions p
   set lease_owner = $1, lease_expires = clock_timestamp() + $2::interval, lease_length = $2::interval,
       fencing_token = fencing_token + 1
  from (select p.partition
          from SCHEMA.projection_partitions p
         where p.projection = $3
           and p.version = $4
           and (p.lease_owner is null or ` + leased + ` is not true)
         order by p.partition
         limit $5
           for update skip locked) free
 where p.projection = $3
   and p.version = $4
   and p.partition = free.partition
returning p.partition, p.fencing_token`

// Acquire implements [lease.Store].
func (l *Leases) Acquire(ctx context.Context, owner string, length time.Duration, group lease.Group, most int) ([]lease.Lease, error) {
	return collect(ctx, l.Catalog, l.DB, pgx.RowToStructByPos[lease.Lease], acquireSQL, owner, length, group.Name, group.Version, most)
}

const releaseSQL = `
update SCHEMA.projection_partitions
   set lease_owner = null, lease_expires = null
 where lease_owner = $1
   and projection = $2
   and version = $3
   and partition = $4`

// Release implements [lease.Store].
func (l *Leases) Release(ctx context.Context, owner string, id lease.ID) error {
	_, err := l.Catalog.exec(ctx, l.DB, releaseSQL, owner, id.Group.Name, id.Group.Version, id.Partition)
	return err
}

const leaveGroupSQL = `
delete from SCHEMA.projection_members
 where owner = $1
   and projection = $2
   and version = $3`

// LeaveGroup implements [lease.Store].
func (l *Leases) LeaveGroup(ctx context.Context, owner string, group lease.Group) error {
	_, err := l.Catalog.exec(ctx, l.DB, leaveGroupSQL, owner, group.Name, group.Version)
	return err
}

const leaveSQL = `
delete from SCHEMA.projection_members
 where owner = $1
    or expires < clock_timestamp() - interval '1 hour'
    or expires > clock_timestamp() + length`

// Leave implements [lease.Store].
func (l *Leases) Leave(ctx context.Context, owner string, ids []lease.ID) error {
	b := &pgx.Batch{}
	for _, id := range ids {
		b.Queue(l.Catalog.SQL(releaseSQL), owner, id.Group.Name, id.Group.Version, id.Partition)
	}
	b.Queue(l.Catalog.SQL(leaveSQL), owner)
	return l.Send(ctx, b)
}

// A lease or a membership that another transaction has locked is left to expire.
const inheritSQL = `
with gone as (
    delete from SCHEMA.projection_members m
     using (select projection, version, owner
              from SCHEMA.projection_members
             where owner = any ($1)
               for update skip locked) dead
     where (m.projection, m.version, m.owner) = (dead.projection, dead.version, dead.owner))
update SCHEMA.projection_partitions p
   set lease_owner = null, lease_expires = null
  from (select projection, version, partition
          from SCHEMA.projection_partitions
         where lease_owner = any ($1)
           for update skip locked) free
 where (p.projection, p.version, p.partition) = (free.projection, free.version, free.partition)`

// Inherit implements [lease.Store].
func (l *Leases) Inherit(ctx context.Context, dead []string) error {
	_, err := l.Catalog.exec(ctx, l.DB, inheritSQL, dead)
	return err
}

// Announce wakes the other processes that listen on a channel. A process that misses the notification finds the change
// by polling.
func (l *Leases) Announce(ctx context.Context, channel, owner string) {
	_, _ = l.DB.Exec(ctx, `select pg_notify($1, $2)`, channel, owner)
}
