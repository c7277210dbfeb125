package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/isnil"
)

const (
	// maxBatch is how many snapshots are saved in one transaction.
	maxBatch = 64
	// pace is how long after one transaction the next one begins, unless that is full or a caller waits for
	// it: a snapshot by itself costs as much as an append, together they cost a fraction.
	pace = 50 * time.Millisecond
	// saveTimeout bounds how long they take, so that Close ends.
	saveTimeout = 5 * time.Second
	// loadTimeout bounds how long a load waits for a snapshot before it goes without.
	loadTimeout = time.Second
)

// Config adjusts a [Snapshotter]. Nil and the zero value are the defaults.
type Config struct {
	// Policy says when a snapshot is taken; nil means Every(100).
	Policy Policy
	// Sync takes snapshots before the call returns that they are taken after.
	Sync bool
	// Queue bounds how many streams wait for theirs; 0 means 1000. When it is full, further ones are
	// dropped.
	Queue int
	// Observer is told of snapshots that are saved; the zero value observes nothing.
	Observer Observer
	// Logger is told of snapshots that fail; nil means slog.Default().
	Logger *slog.Logger
}

// Snapshotter takes snapshots when a policy says so, and finds them again. Make one per store and share
// it between the repositories of all aggregates.
type Snapshotter struct {
	store  Store
	config Config
	count  counters

	mu      sync.Mutex
	queue   []eventstore.StreamID // in the order they came
	pending map[eventstore.StreamID]Job
	saving  map[eventstore.StreamID]eventstore.Version // what is being saved
	working bool
	closed  bool
	waiting int       // for the queue to be empty
	idle    sync.Cond // of mu: working has become false
	saved   time.Time // when the last ones were
	hurry   chan struct{}
}

// counters are what Stats returns.
type counters struct {
	used, absent, outdated, bad    atomic.Int64
	saved, failed, dropped, merged atomic.Int64
}

// Stats counts what a [Snapshotter] has done since it was made.
type Stats struct {
	Used     int64 // loads for which there was one; Bad says how many of them could not be used
	Absent   int64 // loads for which there was none
	Outdated int64 // loads for which there were only such of another shape or schema
	Bad      int64 // snapshots that could not be used, and are deleted
	Saved    int64 // snapshots saved, also those for which there was one as new
	Failed   int64 // snapshots that could not be encoded, saved or read
	Dropped  int64 // snapshots that found the queue full, or the snapshotter closed
	Merged   int64 // snapshots replaced in the queue by a later one of their stream
}

// NewSnapshotter returns a snapshotter over a store. Close it at the end. It returns an error that is [ErrInvalid] when
// the store is nil or Config.Queue is negative.
func NewSnapshotter(store Store, config *Config) (*Snapshotter, error) {
	var c Config
	if config != nil {
		c = *config
	}
	if isnil.Any(store) {
		return nil, fmt.Errorf("snapshot: NewSnapshotter: %w: the store is nil: pass one that snapshot.NewPostgres or snapshot.NewMemory returned without an error", ErrInvalid)
	}
	if c.Queue < 0 {
		return nil, fmt.Errorf("snapshot: NewSnapshotter: %w: Config.Queue is %d: want a number of streams, or 0 for 1000", ErrInvalid, c.Queue)
	}
	if c.Policy == nil {
		c.Policy = Every(100)
	}
	if c.Queue == 0 {
		c.Queue = 1000
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	s := &Snapshotter{store: store, config: c, pending: make(map[eventstore.StreamID]Job), saving: make(map[eventstore.StreamID]eventstore.Version), hurry: make(chan struct{}, 1)}
	s.idle.L = &s.mu
	return s, nil
}

// Store returns the store that snapshots are kept in.
func (s *Snapshotter) Store() Store { return s.store }

// Stats returns the counts so far.
func (s *Snapshotter) Stats() Stats {
	return Stats{
		Used: s.count.used.Load(), Absent: s.count.absent.Load(), Outdated: s.count.outdated.Load(), Bad: s.count.bad.Load(),
		Saved: s.count.saved.Load(), Failed: s.count.failed.Load(), Dropped: s.count.dropped.Load(), Merged: s.count.merged.Load(),
	}
}

// Load returns the latest snapshot of a kind up to a version, and whether there is one. It returns none
// when the store fails, which is logged and counted: there are the events.
func (s *Snapshotter) Load(ctx context.Context, stream eventstore.StreamID, kind Kind, to eventstore.Version) (Snapshot, bool) {
	bounded, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	found, ok, err := s.store.Load(bounded, stream, kind, to)
	switch {
	case err != nil:
		if ctx.Err() == nil { // or the caller has given up
			s.failed(stream, "load", err)
		}
	case !ok:
		s.count.absent.Add(1)
	case found.Kind == kind:
		s.count.used.Add(1)
		return found, true
	case found.Kind.Type == kind.Type:
		s.count.outdated.Add(1) // as is to be expected after a release
	default:
		s.Reject(ctx, found, fmt.Errorf("it is of type %q, want %q", found.Kind.Type, kind.Type))
	}
	return Snapshot{}, false
}

// Reject logs, counts and deletes a snapshot that cannot be used, and why. Who found that out carries on
// with an older one, or without.
func (s *Snapshotter) Reject(ctx context.Context, bad Snapshot, reason error) {
	s.count.bad.Add(1)
	s.config.Logger.Warn("snapshot: it cannot be used and is deleted; the aggregate is folded from its events",
		"stream", bad.Stream.String(), "version", int64(bad.Version), "reason", reason.Error())
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if err := s.store.Delete(ctx, bad.Stream, bad.Version); err != nil {
		s.failed(bad.Stream, "delete", err)
	}
}

// Due reports whether it is time for a snapshot. A panic of the policy is logged and counted: the events
// are stored by now.
func (s *Snapshotter) Due(progress Progress) (due bool) {
	defer func() {
		if p := recover(); p != nil {
			s.failed(progress.Stream, "policy", fmt.Errorf("panic: %v", p))
		}
	}()
	return progress.Events > 0 && s.config.Policy(progress)
}

// UnderWay returns the version of the snapshot of a stream that waits in the queue or is being saved, 0 if
// there is none.
func (s *Snapshotter) UnderWay(stream eventstore.StreamID) eventstore.Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.pending[stream].Version, s.saving[stream])
}

// Job is a snapshot to be taken.
type Job struct {
	Stream  eventstore.StreamID
	Version eventstore.Version
	// Make makes it: that may take time. It is called once at most, by another goroutine unless Config.Sync
	// is set.
	Make func() (Snapshot, error)
}

// Take takes a snapshot: before it returns if Config.Sync is set, else some time later. It reports whether
// there was room for it; what goes wrong later is logged and counted.
func (s *Snapshotter) Take(ctx context.Context, job Job) bool {
	if s.config.Sync && !s.isClosed() {
		s.save(context.WithoutCancel(ctx), []Job{job})
		return true
	}
	return s.enqueue(job)
}

func (s *Snapshotter) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// enqueue puts a job into the queue, in the place of one of an earlier version of its stream.
func (s *Snapshotter) enqueue(job Job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	earlier, waits := s.pending[job.Stream]
	switch {
	case s.closed || !waits && len(s.queue) >= s.config.Queue:
		s.count.dropped.Add(1)
		return false
	case waits:
		s.count.merged.Add(1)
		if earlier.Version > job.Version {
			return true
		}
	default:
		s.queue = append(s.queue, job.Stream)
	}
	s.pending[job.Stream] = job
	if len(s.queue) == maxBatch {
		s.hurryUp()
	}
	if !s.working {
		s.working = true
		go s.work()
	}
	return true
}

// work saves what is in the queue, and ends when it is empty.
func (s *Snapshotter) work() {
	for {
		s.wait()
		jobs := s.next()
		if len(jobs) == 0 {
			return
		}
		s.save(context.Background(), jobs)
	}
}

// wait lets snapshots come together.
func (s *Snapshotter) wait() {
	s.mu.Lock()
	left := pace - time.Since(s.saved)
	enough := s.waiting > 0 || len(s.queue) == 0 || len(s.queue) >= maxBatch
	s.mu.Unlock()
	if enough || left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.hurry:
	}
}

// hurryUp ends a wait, or spares the next one.
func (s *Snapshotter) hurryUp() {
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

func (s *Snapshotter) next() (jobs []Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.saving) > 0 { // it is done
		s.saved = time.Now()
		clear(s.saving)
	}
	n := min(len(s.queue), maxBatch)
	for _, stream := range s.queue[:n] {
		job := s.pending[stream]
		jobs = append(jobs, job)
		s.saving[stream] = job.Version
		delete(s.pending, stream)
	}
	s.queue = append(s.queue[:0], s.queue[n:]...)
	if n == 0 {
		s.working = false
		s.idle.Broadcast()
	}
	return jobs
}

// save makes and saves the snapshots of different streams.
func (s *Snapshotter) save(ctx context.Context, jobs []Job) {
	var made []Snapshot
	for _, job := range jobs {
		snapshot, err := job.make()
		if err != nil {
			s.ended("take", Snapshot{Stream: job.Stream, Version: job.Version}, err)
			continue
		}
		made = append(made, snapshot)
	}
	if len(made) == 0 {
		return
	}
	err := s.saveIn(ctx, made...)
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	together := err == nil || len(made) == 1
	for _, snapshot := range made {
		if !together { // one of them may be what is wrong
			err = s.store.Save(ctx, snapshot)
		}
		s.ended("save", snapshot, err)
	}
}

func (s *Snapshotter) saveIn(ctx context.Context, snapshots ...Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	return s.store.Save(ctx, snapshots...)
}

// ended counts a snapshot that was saved, or that could not be taken or saved.
func (s *Snapshotter) ended(what string, snapshot Snapshot, err error) {
	if err == nil {
		s.count.saved.Add(1)
	} else {
		s.failed(snapshot.Stream, what, err)
	}
	if observe := s.config.Observer.Save; observe != nil {
		observe(SaveDone{snapshot.Stream, snapshot.Version, len(snapshot.Data), err})
	}
}

func (s *Snapshotter) failed(stream eventstore.StreamID, what string, err error) {
	s.count.failed.Add(1)
	s.config.Logger.Warn("snapshot: "+what+" failed; nothing is lost, the aggregate is folded from its events",
		"stream", stream.String(), "error", err.Error())
}

// make calls Make, of which a panic is an error: it is an application's encoding.
func (j Job) make() (snapshot Snapshot, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return j.Make()
}

// Flush waits until the queue is empty and what was in it is saved or has failed; while ever more comes,
// it waits. It is for tests and tools.
func (s *Snapshotter) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	defer func() { s.waiting-- }()
	s.hurryUp()
	for s.working {
		s.idle.Wait()
	}
}

// Close drops whatever comes from now on and returns when the queue is saved. That takes no longer than
// 10 s per 64 snapshots and what it takes to encode them, also when Postgres does not answer. It does not
// wait for what Config.Sync saves. Close it before the pool.
func (s *Snapshotter) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Flush()
}
