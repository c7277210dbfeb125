package projection

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pglisten"
)

// Whoever runs a projection is a member of it, until it is not heard of for the time of a lease.
const heartbeatSQL = `
insert into SCHEMA.projection_members as m (projection, version, owner, expires, length)
select v.name, v.version, $1, clock_timestamp() + $2::interval, $2::interval
  from SCHEMA.projections v
  join unnest($3::text[], $4::int[]) as mine (name, version) on (v.name, v.version) = (mine.name, mine.version)
on conflict (projection, version, owner) do update
   set expires = excluded.expires, length = excluded.length`

// It waits for nobody: what an operator has locked is not renewed, nor can it be stolen meanwhile.
const renewSQL = `
with renewed as (
    update SCHEMA.projection_partitions p
       set lease_expires = clock_timestamp() + $2::interval, lease_length = $2::interval
      from (select projection, version, partition
              from SCHEMA.projection_partitions
             where lease_owner = $1
               for update skip locked) mine
     where (p.projection, p.version, p.partition) = (mine.projection, mine.version, mine.partition))
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

// leased is whether a partition has an owner. A lease that ends later than it can was taken before
// the server's clock was put back: its owner may be gone, and renews it by the present clock if not.
const leased = `(p.lease_expires between clock_timestamp() and clock_timestamp() + p.lease_length)`

// A lease is stolen when it has expired. The token makes what its owner is doing fail.
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

const releaseSQL = `
update SCHEMA.projection_partitions
   set lease_owner = null, lease_expires = null
 where lease_owner = $1
   and projection = $2
   and version = $3
   and partition = $4`

const leaveSQL = `
delete from SCHEMA.projection_members
 where owner = $1
    or expires < clock_timestamp() - interval '1 hour'
    or expires > clock_timestamp() + length`

const leaveOneSQL = `
delete from SCHEMA.projection_members
 where owner = $1
   and projection = $2
   and version = $3`

// leases spreads the partitions of all projections over the processes that run them: each takes its
// share, counted over the members, and gives away what is more.
type leases struct {
	runner *Runner
	engine *engine
	leases map[partitionID]*lease
	spawn  func(w *worker, token int64) *lease
}

type partitionID struct {
	of        versionID
	partition int
}

// lease is the lease that this process has of a partition, and the worker of the partition.
type lease struct {
	worker *worker
	token  int64 // as of when the lease was last renewed
	stop   context.CancelFunc
	done   chan struct{} // closed when the worker has ended
}

// plan is what the database says of a projection.
type plan struct {
	name    string
	version int
	phase   string
	state   string
	types   []string
	members []string
	free    int

	partitions int
}

func newLeases(r *Runner) *leases {
	return &leases{runner: r, engine: r.engine, leases: make(map[partitionID]*lease)}
}

// run keeps this process's share of the partitions, and a worker for each of them, until ctx is
// done; then it gives them all back.
func (l *leases) run(ctx context.Context) {
	l.spawn = func(w *worker, token int64) *lease {
		ctx, stop := context.WithCancel(ctx)
		w.leased = token
		h := &lease{worker: w, token: token, stop: stop, done: make(chan struct{})}
		go func() {
			defer close(h.done)
			defer stop()
			defer w.deployment.disowned(w.number)
			w.run(ctx)
		}()
		return h
	}
	if !l.engine.config.PollOnly {
		listener := &pglisten.Listener{
			Pool: l.engine.pool, Channel: l.engine.channel(), Own: l.engine.owner, Wake: l.engine.changed.notify, Logger: l.engine.logger,
			Failing: "projection: cannot listen for changes of leases: until the connection is back they are seen by polling",
		}
		defer listener.Close()
		defer listener.Join()()
	}
	for ctx.Err() == nil {
		changed := l.engine.changed.wait()
		if err := guarded(func() error { return l.tick(ctx) }); err != nil && ctx.Err() == nil {
			l.engine.logger.WarnContext(ctx, "projection: cannot renew leases and will try again", "error", err)
		}
		select {
		case <-changed:
		case <-time.After(min(time.Second, l.engine.config.Lease/3)):
		case <-ctx.Done():
		}
	}
	l.leave(context.WithoutCancel(ctx))
}

// maxTick is how long a tick may take when Postgres does not answer.
const maxTick = 5 * time.Second

// tick renews what is held, and takes or gives away what the share has too little or too much.
func (l *leases) tick(ctx context.Context) error {
	// Not cut short when the runner is stopped: what Postgres does of it after all would come after leave.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(l.engine.config.Lease, maxTick))
	defer cancel()
	plans, err := l.renewAll(ctx)
	if err == nil && l.inherit(ctx, plans) {
		plans, err = l.renewAll(ctx)
	}
	if err != nil {
		return err
	}
	for id, v := range l.runner.versions {
		if !slices.ContainsFunc(plans, func(p plan) bool { return p.name == id.name && p.version == id.version }) {
			v.missing()
		}
	}
	for _, p := range plans {
		v := l.runner.versions[versionID{p.name, p.version}]
		share := p.share(l.engine.owner, v.projection.options.Partitions)
		if !v.planned(p) {
			share = 0
			if _, err := l.engine.pool.Exec(ctx, l.engine.sql(leaveOneSQL), l.engine.owner, p.name, p.version); err != nil {
				return err
			}
			if v.left.CompareAndSwap(false, true) {
				l.engine.announce(ctx)
			}
		}
		if err := l.settle(ctx, v, p, share); err != nil {
			return err
		}
	}
	return nil
}

// It waits for nobody: what somebody has locked expires.
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

// inherit frees the partitions of processes of this machine that have ended without giving them back, and reports
// whether there were any: a process that is restarted after a kill -9 need not wait for the leases to expire.
func (l *leases) inherit(ctx context.Context, plans []plan) bool {
	var dead []string
	for _, p := range plans {
		for _, owner := range p.members {
			if owner != l.engine.owner && !slices.Contains(dead, owner) && isDead(owner, l.engine.owner) {
				dead = append(dead, owner)
			}
		}
	}
	if len(dead) == 0 {
		return false
	}
	if _, err := l.engine.pool.Exec(ctx, l.engine.sql(inheritSQL), dead); err != nil {
		l.engine.logger.WarnContext(ctx, "projection: cannot free the partitions of processes of this machine that have died: their leases expire",
			"owners", dead, "error", err)
		return false
	}
	l.engine.logger.WarnContext(ctx, "projection: processes of this machine have died: their partitions are free", "owners", dead)
	return true
}

// renewAll sends a sign of life, renews the leases, and reads the plan of each projection, in one round trip.
func (l *leases) renewAll(ctx context.Context) ([]plan, error) {
	var names, all []string
	var versions, allVersions []int32
	for id, v := range l.runner.versions {
		all, allVersions = append(all, id.name), append(allVersions, int32(id.version))
		if !v.outdated.Load() {
			names, versions = append(names, id.name), append(versions, int32(id.version))
		}
	}
	held := make(map[partitionID]int64) // and the fencing tokens
	var plans []plan
	send := &pgx.Batch{}
	send.Queue(l.engine.sql(heartbeatSQL), l.engine.owner, l.engine.config.Lease, names, versions)
	send.Queue(l.engine.sql(renewSQL), l.engine.owner, l.engine.config.Lease).Query(func(rows pgx.Rows) error {
		var id partitionID
		var token int64
		_, err := pgx.ForEachRow(rows, []any{&id.of.name, &id.of.version, &id.partition, &token}, func() error {
			held[id] = token
			return nil
		})
		return err
	})
	send.Queue(l.engine.sql(planSQL), all, allVersions).Query(func(rows pgx.Rows) error {
		var p plan
		_, err := pgx.ForEachRow(rows, []any{&p.name, &p.version, &p.phase, &p.state, &p.types, &p.partitions, &p.members, &p.free}, func() error {
			plans = append(plans, p)
			p.types, p.members = nil, nil
			return nil
		})
		return err
	})
	if err := l.engine.pool.SendBatch(ctx, send).Close(); err != nil {
		return nil, err
	}
	for id, h := range l.leases {
		if token, mine := held[id]; mine {
			h.worker.outdate(token)
			h.token = token
		} else { // stolen, or its projection was dropped
			l.engine.logger.WarnContext(ctx, "projection: lost the lease of a partition",
				"projection", id.of.name, "version", id.of.version, "partition", id.partition)
			h.stop()
			delete(l.leases, id)
		}
	}
	for id, token := range held { // the answer was lost when it was taken, or given away
		if v, mine := l.runner.versions[id.of]; mine && l.leases[id] == nil && id.partition < v.projection.options.Partitions {
			l.leases[id] = l.spawn(newWorker(v, id.partition), token)
		}
	}
	return plans, nil
}

// share returns how many partitions a member is to have. Those that cannot be divided go to other members from
// projection to projection.
func (p *plan) share(owner string, partitions int) int {
	rank := -1
	for n, m := range p.members {
		if m == owner {
			rank = n
		}
	}
	if rank < 0 {
		return 0
	}
	turn := 0
	for _, c := range p.name {
		turn += int(c)
	}
	share := partitions / len(p.members)
	if (rank+turn)%len(p.members) < partitions%len(p.members) {
		share++
	}
	return share
}

// settle brings the partitions held of one projection to the share, and sees to their workers.
func (l *leases) settle(ctx context.Context, v *deployment, p plan, share int) error {
	mine := 0
	for id, h := range l.leases {
		if id.of != v.projection.id() {
			continue
		}
		mine++
		if mine > share {
			if err := l.release(ctx, id, h); err != nil {
				return err
			}
			continue
		}
		select {
		case <-h.done: // it was paused, or has stopped
			if p.state == "running" {
				l.leases[id] = l.spawn(h.worker, h.token)
			}
		default:
			if p.state != "running" { // what it is doing cannot be committed
				h.stop()
			}
		}
	}
	if mine >= share || p.free == 0 {
		return nil
	}
	found, _ := l.engine.pool.Query(ctx, l.engine.sql(acquireSQL), l.engine.owner, l.engine.config.Lease, v.projection.name, v.projection.options.Version, share-mine)
	type lease struct {
		Partition int
		Token     int64
	}
	taken, err := pgx.CollectRows(found, pgx.RowToStructByPos[lease])
	if err != nil {
		return err
	}
	for _, t := range taken {
		if t.Partition < v.projection.options.Partitions { // or it was made anew, otherwise, since it was planned: the next plan says so
			l.leases[partitionID{v.projection.id(), t.Partition}] = l.spawn(newWorker(v, t.Partition), t.Token)
		}
	}
	return nil
}

// release ends the worker of a partition and gives the partition away.
func (l *leases) release(ctx context.Context, id partitionID, h *lease) error {
	h.stop()
	<-h.done
	delete(l.leases, id)
	_, err := l.engine.pool.Exec(ctx, l.engine.sql(releaseSQL), l.engine.owner, id.of.name, id.of.version, id.partition)
	if err == nil {
		l.engine.announce(ctx)
	}
	return err
}

// leave ends all workers and gives everything back, so that others need not wait for the leases to
// expire.
func (l *leases) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	send := &pgx.Batch{}
	for _, h := range l.leases {
		h.stop()
	}
	for id, h := range l.leases {
		<-h.done
		send.Queue(l.engine.sql(releaseSQL), l.engine.owner, id.of.name, id.of.version, id.partition)
	}
	send.Queue(l.engine.sql(leaveSQL), l.engine.owner)
	if err := l.engine.pool.SendBatch(ctx, send).Close(); err != nil {
		l.engine.logger.WarnContext(ctx, "projection: cannot release leases: they expire", "after", l.engine.config.Lease, "error", err)
		return
	}
	l.engine.announce(ctx)
}

const notifySQL = `select pg_notify($1, $2)`

// channel is where runners tell each other that leases, or what operators want, have changed.
func (e *engine) channel() string { return channelOf(e.schema) }

// announce wakes the other runners. Who is not told finds out within a second.
func (e *engine) announce(ctx context.Context) {
	_, _ = e.pool.Exec(ctx, notifySQL, e.channel(), e.owner)
}
