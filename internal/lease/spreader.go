package lease

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/tidemark-es/tidemark/internal/pause"
	"github.com/tidemark-es/tidemark/internal/signal"
)

const (
	// tickEvery is the longest pause between two renewals of leases. It is a third of the lease's length if that is
	// shorter.
	tickEvery = 2 * time.Second
	// maxTick is how long a tick can take when the store does not answer.
	maxTick = 5 * time.Second
	// leaveWithin bounds the time in which everything is given back.
	leaveWithin = 5 * time.Second
)

// Spreader keeps this process's share of the partitions of some groups, and a worker for each of them.
type Spreader[D any] struct {
	Store   Store[D]
	Members map[Group]Member[D]
	Owner   string        // of this process, see NewOwner
	Length  time.Duration // of a lease
	// Changed wakes the spreader when something may have changed. Other code notifies it.
	Changed *signal.Signal
	// Announce tells the other processes that something has changed.
	Announce func(context.Context)
	Logger   *slog.Logger
	// What the groups are, such as "projection": the word begins log texts and is the key of the group's name.
	What string

	held map[ID]*holding
	ctx  context.Context // of the workers
}

// holding is a partition that this process has the lease of.
type holding struct {
	worker Worker
	token  int64 // at the latest renewal of the lease
	stop   context.CancelFunc
	done   chan struct{} // closed when the worker has returned
}

// Run keeps this process's share until ctx is done. Then it gives everything back. Run may be called once.
func (s *Spreader[D]) Run(ctx context.Context) {
	s.held, s.ctx = make(map[ID]*holding), ctx
	for ctx.Err() == nil {
		changed := s.Changed.Wait()
		if err := s.guardedTick(ctx); err != nil && ctx.Err() == nil {
			s.Logger.WarnContext(ctx, s.What+": cannot renew leases and will try again", "error", err)
		}
		_ = pause.Wait(ctx, min(tickEvery, s.Length/3), changed)
	}
	s.leave(context.WithoutCancel(ctx))
}

// guardedTick turns a panic, which is a defect of ours, into an error.
func (s *Spreader[D]) guardedTick(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a defect of package lease: %v\n%s", p, debug.Stack())
		}
	}()
	return s.tick(ctx)
}

// tick renews this process's leases, then acquires or releases partitions until it has its share of each group.
func (s *Spreader[D]) tick(ctx context.Context) error {
	// The tick is not cut short when the process stops: the store could complete a part of it after leave.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.Length, maxTick))
	defer cancel()
	plans, err := s.renew(ctx)
	if err == nil && s.inherit(ctx, plans) {
		plans, err = s.renew(ctx)
	}
	if err != nil {
		return err
	}
	for group, m := range s.Members {
		if !slices.ContainsFunc(plans, func(p Plan[D]) bool { return p.Group == group }) {
			m.Missing()
		}
	}
	for _, p := range plans {
		m := s.Members[p.Group]
		due := share(p.Group, p.Members, s.Owner, m.Partitions())
		if !m.Planned(p) {
			due = 0
			if err := s.Store.LeaveGroup(ctx, s.Owner, p.Group); err != nil {
				return err
			}
			if m.TakeLeft() {
				s.Announce(ctx)
			}
		}
		if err := s.settle(ctx, m, p, due); err != nil {
			return err
		}
	}
	return nil
}

// renew sends a sign of life, renews the leases and reads the plans. Workers learn their tokens. A worker whose lease
// is lost is stopped.
func (s *Spreader[D]) renew(ctx context.Context) ([]Plan[D], error) {
	var member, all []Group
	for group, m := range s.Members {
		all = append(all, group)
		if m.Joins() {
			member = append(member, group)
		}
	}
	held, plans, err := s.Store.Renew(ctx, s.Owner, s.Length, member, all)
	if err != nil {
		return nil, err
	}
	for id, h := range s.held {
		if token, mine := held[id]; mine {
			h.worker.Outdate(token)
			h.token = token
		} else { // stolen, or its group is gone
			s.Logger.WarnContext(ctx, s.What+": lost the lease of a partition",
				s.What, id.Group.Name, "version", id.Group.Version, "partition", id.Partition)
			h.stop()
			delete(s.held, id)
		}
	}
	for id, token := range held { // the store's answer was lost when the lease was taken or given back
		if m, mine := s.Members[id.Group]; mine && s.held[id] == nil && id.Partition < m.Partitions() {
			s.start(id, m.Worker(id.Partition), token)
		}
	}
	return plans, nil
}

// start runs a worker.
func (s *Spreader[D]) start(id ID, w Worker, token int64) {
	ctx, stop := context.WithCancel(s.ctx)
	h := &holding{worker: w, token: token, stop: stop, done: make(chan struct{})}
	s.held[id] = h
	go func() {
		defer close(h.done)
		defer stop()
		w.Run(ctx, token)
	}()
}

// inherit frees the partitions of processes of this machine that have ended without giving them back, and reports
// whether there were any. So a process that is restarted after a kill -9 need not wait for the leases to expire.
func (s *Spreader[D]) inherit(ctx context.Context, plans []Plan[D]) bool {
	var dead []string
	for _, p := range plans {
		for _, owner := range p.Members {
			if owner != s.Owner && !slices.Contains(dead, owner) && isDead(owner, s.Owner) {
				dead = append(dead, owner)
			}
		}
	}
	if len(dead) == 0 {
		return false
	}
	if err := s.Store.Inherit(ctx, dead); err != nil {
		s.Logger.WarnContext(ctx, s.What+": cannot free the partitions of processes of this machine that have died: their leases expire",
			"owners", dead, "error", err)
		return false
	}
	s.Logger.WarnContext(ctx, s.What+": processes of this machine have ended without giving their partitions back: the partitions are free", "owners", dead)
	return true
}

// settle brings the number of partitions that this process has of one group to the number due, and starts or stops
// their workers.
func (s *Spreader[D]) settle(ctx context.Context, m Member[D], p Plan[D], due int) error {
	mine := 0
	for id, h := range s.held {
		if id.Group != p.Group {
			continue
		}
		mine++
		if mine > due {
			if err := s.release(ctx, id, h); err != nil {
				return err
			}
			continue
		}
		select {
		case <-h.done: // the partition was paused, or its worker has stopped
			if p.Running {
				s.start(id, h.worker, h.token)
			}
		default:
			if !p.Running { // the operator who paused it has raised the token, so the worker cannot commit
				h.stop()
			}
		}
	}
	if mine >= due || p.Free == 0 {
		return nil
	}
	taken, err := s.Store.Acquire(ctx, s.Owner, s.Length, p.Group, due-mine)
	if err != nil {
		return err
	}
	for _, t := range taken {
		if t.Partition < m.Partitions() { // else the group was created again with more partitions: the next plan says so
			s.start(ID{p.Group, t.Partition}, m.Worker(t.Partition), t.Token)
		}
	}
	return nil
}

// release stops the worker of a partition and gives the partition back.
func (s *Spreader[D]) release(ctx context.Context, id ID, h *holding) error {
	h.stop()
	<-h.done
	delete(s.held, id)
	err := s.Store.Release(ctx, s.Owner, id)
	if err == nil {
		s.Announce(ctx)
	}
	return err
}

// leave stops all workers and gives everything back, so that other processes need not wait for the leases to
// expire.
func (s *Spreader[D]) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	for _, h := range s.held {
		h.stop()
	}
	var ids []ID
	for id, h := range s.held {
		<-h.done
		ids = append(ids, id)
	}
	if err := s.Store.Leave(ctx, s.Owner, ids); err != nil {
		s.Logger.WarnContext(ctx, s.What+": cannot release leases: they expire", "after", s.Length, "error", err)
		return
	}
	s.Announce(ctx)
}
