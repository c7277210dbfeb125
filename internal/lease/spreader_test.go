package lease_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidemark-es/tidemark/internal/lease"
	"github.com/tidemark-es/tidemark/internal/signal"
)

// table is a store in memory. Its clock is that of the bubble.
type table struct {
	mu         sync.Mutex
	group      lease.Group
	partitions []row
	members    map[string]time.Time // until when
	changed    []*signal.Signal     // of the processes
	stopped    bool
	away       bool
}

type row struct {
	owner   string
	expires time.Time
	token   int64
}

var errAway = errors.New("the store is away")

func (t *table) lock() (unlock func(), err error) {
	t.mu.Lock()
	if t.away {
		t.mu.Unlock()
		return nil, errAway
	}
	return t.mu.Unlock, nil
}

func (t *table) Renew(_ context.Context, owner string, length time.Duration, member, _ []lease.Group) (
	map[lease.ID]int64, []lease.Plan[string], error) {
	unlock, err := t.lock()
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	if len(member) > 0 {
		t.members[owner] = time.Now().Add(length)
	}
	held := make(map[lease.ID]int64)
	plan := lease.Plan[string]{Group: t.group, Running: !t.stopped, Detail: "as it is"}
	for n := range t.partitions {
		r := &t.partitions[n]
		if r.owner == owner {
			r.expires = time.Now().Add(length)
			held[lease.ID{Group: t.group, Partition: n}] = r.token
		}
		if r.owner == "" || !r.expires.After(time.Now()) {
			plan.Free++
		}
	}
	for m, until := range t.members {
		if until.After(time.Now()) {
			plan.Members = append(plan.Members, m)
		}
	}
	slices.Sort(plan.Members)
	return held, []lease.Plan[string]{plan}, nil
}

func (t *table) Acquire(_ context.Context, owner string, length time.Duration, _ lease.Group, most int) (taken []lease.Lease, err error) {
	unlock, err := t.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	for n := range t.partitions {
		r := &t.partitions[n]
		if len(taken) < most && (r.owner == "" || !r.expires.After(time.Now())) {
			*r = row{owner, time.Now().Add(length), r.token + 1}
			taken = append(taken, lease.Lease{Partition: n, Token: r.token})
		}
	}
	return taken, nil
}

func (t *table) Release(_ context.Context, owner string, id lease.ID) error {
	unlock, err := t.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if r := &t.partitions[id.Partition]; r.owner == owner {
		r.owner = ""
	}
	return nil
}

func (t *table) LeaveGroup(_ context.Context, owner string, _ lease.Group) error {
	unlock, err := t.lock()
	if err != nil {
		return err
	}
	defer unlock()
	delete(t.members, owner)
	return nil
}

func (t *table) Leave(ctx context.Context, owner string, ids []lease.ID) error {
	for _, id := range ids {
		if err := t.Release(ctx, owner, id); err != nil {
			return err
		}
	}
	return t.LeaveGroup(ctx, owner, t.group)
}

func (t *table) Inherit(context.Context, []string) error { return errors.New("no process has died") }

func (t *table) announce(context.Context) {
	for _, s := range t.changed {
		s.Notify()
	}
}

// process runs the group.
type process struct {
	*table
	owner   string
	unfit   atomic.Bool
	running map[int]int64 // partitions, and the tokens their workers know
	stop    context.CancelFunc
	done    chan struct{}
}

func (p *process) Partitions() int                 { return len(p.partitions) }
func (p *process) Joins() bool                     { return !p.unfit.Load() }
func (p *process) Planned(lease.Plan[string]) bool { return !p.unfit.Load() }
func (p *process) Missing()                        {}
func (p *process) TakeLeft() bool                  { return false }
func (p *process) Worker(n int) lease.Worker       { return &partition{p, n} }

type partition struct {
	p *process
	n int
}

func (w *partition) Run(ctx context.Context, token int64) {
	w.p.mu.Lock()
	w.p.running[w.n] = token
	w.p.mu.Unlock()
	<-ctx.Done()
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	delete(w.p.running, w.n)
}

func (w *partition) Outdate(token int64) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if _, runs := w.p.running[w.n]; runs {
		w.p.running[w.n] = token
	}
}

const length = 10 * time.Second

func (t *table) start(ctx context.Context, n int) *process {
	p := &process{table: t, owner: fmt.Sprint("process ", n), running: make(map[int]int64), done: make(chan struct{})}
	changed := signal.New()
	t.changed = append(t.changed, changed)
	s := &lease.Spreader[string]{
		Store: t, Members: map[lease.Group]lease.Member[string]{t.group: p}, Owner: p.owner, Length: length,
		Changed: changed, Announce: t.announce, Logger: slog.New(slog.DiscardHandler), What: "test",
	}
	ctx, p.stop = context.WithCancel(ctx)
	go func() {
		defer close(p.done)
		s.Run(ctx)
	}()
	return p
}

// check fails unless each partition has one worker, in a process that owns it and knows its token.
func (t *table) check(tb testing.TB, what string, want ...int) {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	shares := make(map[string]int)
	for _, r := range t.partitions {
		shares[r.owner]++
	}
	var got []int
	for _, n := range shares {
		got = append(got, n)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		tb.Errorf("%s: shares are %v, want %v", what, got, want)
	}
}

func (t *table) checkWorkers(tb testing.TB, what string, processes ...*process) {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, r := range t.partitions {
		for _, p := range processes {
			token, runs := p.running[n]
			if owns := p.owner == r.owner; owns != runs || runs && token != r.token {
				tb.Errorf("%s: %s owns partition %d: %v, runs it: %v, knows token %d of %d", what, p.owner, n, owns, runs, token, r.token)
			}
		}
	}
}

// TestSpreader: processes start, stop and become unfit, an operator fences and stops the group, and the store is away.
// Each partition has one owner, and its worker knows the token.
func TestSpreader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		table := &table{group: lease.Group{Name: "a", Version: 1}, partitions: make([]row, 7), members: make(map[string]time.Time)}
		settle := func() {
			time.Sleep(4 * time.Second) // two ticks, by the clock of the bubble
			synctest.Wait()
		}
		ctx, dies := context.WithCancel(t.Context())
		defer dies()
		one := table.start(ctx, 1)
		settle()
		table.check(t, "alone", 7)
		two := table.start(ctx, 2)
		three := table.start(ctx, 3)
		settle()
		table.check(t, "three processes", 2, 2, 3)
		table.checkWorkers(t, "three processes", one, two, three)

		two.stop()
		<-two.done
		settle()
		table.check(t, "one has ended", 3, 4)

		table.mu.Lock()
		for n := range table.partitions { // an operator fences
			table.partitions[n].token += 10
		}
		table.mu.Unlock()
		settle()
		table.checkWorkers(t, "after fencing", one, three)

		table.mu.Lock()
		table.stopped = true
		table.mu.Unlock()
		settle()
		table.mu.Lock()
		if len(one.running)+len(three.running) > 0 {
			t.Errorf("workers run although the group is stopped: %v and %v", one.running, three.running)
		}
		table.stopped, table.away = false, true
		table.mu.Unlock()
		time.Sleep(2 * length)
		table.mu.Lock()
		table.away = false
		table.mu.Unlock()
		settle()
		table.check(t, "after the store was away", 3, 4)
		table.checkWorkers(t, "after the store was away", one, three)

		three.unfit.Store(true)
		settle()
		settle()
		table.check(t, "one is not fit", 7)
		table.checkWorkers(t, "one is not fit", one, three)
		dies()
		<-one.done
		<-three.done
		if slices.ContainsFunc(table.partitions, func(r row) bool { return r.owner != "" }) {
			t.Errorf("partitions are not given back: %v", table.partitions)
		}
	})
}
