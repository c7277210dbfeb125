package projection

import (
	"context"

	"github.com/tidemark-es/tidemark/internal/lease"
	"github.com/tidemark-es/tidemark/internal/pglisten"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// plan is the state of a version in the database.
type plan = lease.Plan[catalog.VersionPlan]

// runLeases keeps this process's share of the partitions of all projections, with a worker for each partition, until
// ctx is done.
func (r *Runner) runLeases(ctx context.Context) {
	e := r.engine
	if !e.config.PollOnly {
		listener := &pglisten.Listener{
			Pool: e.pool, Channel: channelOf(e.catalog.Schema()), Own: e.db.owner, Wake: e.db.changed.Notify, Logger: e.logger,
			Failing: "projection: cannot listen for changes of leases: until the connection is back they are seen by polling",
		}
		defer listener.Close()
		defer listener.Join()()
	}
	members := make(map[lease.Group]lease.Member[catalog.VersionPlan])
	for id, d := range r.versions {
		members[lease.Group(id)] = d
	}
	spreader := &lease.Spreader[catalog.VersionPlan]{
		Store:   e.db.leases(),
		Members: members, Owner: e.db.owner, Length: e.config.Lease,
		Changed: e.db.changed, Announce: e.db.tellOthers, Logger: e.logger, What: "projection",
	}
	spreader.Run(ctx)
}

// The following methods make a deployment a [lease.Member].

// Partitions returns how many partitions the version has.
func (v *deployment) Partitions() int { return v.projection.options.Partitions }

// Joins reports whether this process runs the version.
func (v *deployment) Joins() bool { return !v.notRunHere.Load() }

// TakeLeft reports once that this process has stopped running the version.
func (v *deployment) TakeLeft() bool { return v.left.CompareAndSwap(false, true) }

// Worker returns a worker for a partition of which this process has the lease.
func (v *deployment) Worker(partition int) lease.Worker { return newWorker(v, partition) }

// Planned reports whether this process may run the version in the state that the database has.
func (v *deployment) Planned(p plan) bool {
	reason := v.unfit(p)
	v.stepBack(reason)
	if reason == nil {
		v.left.Store(false)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.others = p.HasOthers(v.engine.db.owner)
	if v.phase != p.Detail.Phase {
		v.phase = p.Detail.Phase
		v.moved.Notify()
	}
	return reason == nil
}

// Run runs the partition until ctx is done, or this process must not run the partition for now.
func (w *worker) Run(ctx context.Context, token int64) {
	defer w.deployment.disowned(w.number)
	w.leased = token
	w.run(ctx)
}

// Outdate ends the work under tokens older than the given one.
func (w *worker) Outdate(token int64) {
	if o := w.stale.Load(); o != nil && o.token < token {
		o.end(errFenced)
	}
}
