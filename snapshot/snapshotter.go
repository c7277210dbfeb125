package snapshot

import (
	"context"
	"fmt"
	"iter"
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
	// pace is how long after the end of one transaction the next one begins, unless the next one is full or a caller
	// waits for it. A snapshot that is saved alone costs as much as an append. Several that are saved together cost a
	// fraction of that each.
	pace = 50 * time.Millisecond
	// saveTimeout bounds how long a transaction takes, so that Close ends.
	saveTimeout = 5 * time.Second
	// loadTimeout bounds how long a load waits for a snapshot. After that it folds all events.
	loadTimeout = time.Second
)

// Config adjusts a [Snapshotter]. Nil and the zero value are the defaults.
type Config struct {
	// Policy says when a snapshot is taken; nil means Every(100).
	Policy Policy
	// Sync takes a snapshot before the update or load returns, instead of later in the background.
	Sync bool
	// Queue bounds how many streams can wait for their snapshot; 0 means 1000. When the queue is full, snapshots of
	// further streams are dropped.
	Queue int
	// Observer is told of snapshots that are saved or fail; the zero value observes nothing.
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
	saving  map[eventstore.StreamID]eventstore.Version // the versions that are being saved
	working bool
	closed  bool
	waiting int       // calls of Flush that wait until the queue is empty
	idle    sync.Cond // with mu; signalled when working becomes false
	saved   time.Time // when the last transaction ended
	hurry   chan struct{}
}

// counters are what Stats returns.
type counters struct {
	used, absent, outdated, bad    atomic.Int64
	saved, failed, dropped, merged atomic.Int64
}

// Stats counts what a [Snapshotter] has done since it was made.
type Stats struct {
	Used     int64 // loads that found a snapshot of the kind, even if it was rejected later
	Absent   int64 // loads that found no snapshot
	Outdated int64 // loads that found only snapshots of another shape or schema
	Bad      int64 // snapshots that could not be used, and were deleted
	Saved    int64 // snapshots saved, and those that were not stored because one as new was there
	Failed   int64 // snapshots that could not be encoded, saved, read or deleted, and panics of the policy
	Dropped  int64 // snapshots dropped because the queue was full or the snapshotter closed
	Merged   int64 // snapshots of a stream for which the queue held another one; the later one is saved
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

// Load returns the latest snapshot of a kind up to a version, and whether there is one. When the store fails, Load logs
// and counts the error and returns none, because the aggregate can be folded from its events.
func (s *Snapshotter) Load(ctx context.Context, stream eventstore.StreamID, kind Kind, to eventstore.Version) (Snapshot, bool) {
	bounded, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	found, ok, err := s.store.Load(bounded, stream, kind, to)
	return s.usable(ctx, stream, kind, found, ok, err)
}

// LoadAndRead is Load, and reads the events of the stream in the same round trip: from the event of the snapshot up to
// the version to, or all of them up to there if no snapshot is returned. The events are nil when they must be read
// separately: when the snapshots are not in a [Postgres] over the pool of the events, or the snapshots cannot be read.
func (s *Snapshotter) LoadAndRead(ctx context.Context, events *eventstore.Store, stream eventstore.StreamID, kind Kind, to eventstore.Version) (Snapshot, bool, iter.Seq2[eventstore.Raw, error]) {
	together, ok := s.store.(*Postgres)
	if !ok || !events.Uses(together.pool.Raw()) {
		found, ok := s.Load(ctx, stream, kind, to)
		return found, ok, nil
	}
	found, ok, read, err := together.loadAndRead(ctx, events, stream, kind, to)
	found, ok = s.usable(ctx, stream, kind, found, ok, err)
	return found, ok, read
}

// usable counts what the store has found, and returns it if it can be used.
func (s *Snapshotter) usable(ctx context.Context, stream eventstore.StreamID, kind Kind, found Snapshot, ok bool, err error) (Snapshot, bool) {
	switch {
	case err != nil:
		if ctx.Err() == nil { // else the caller has given up
			s.failed(stream, "load", err)
		}
	case !ok:
		s.count.absent.Add(1)
	case found.Kind == kind:
		s.count.used.Add(1)
		return found, true
	case found.Kind.Type == kind.Type:
		s.count.outdated.Add(1) // normal after a release
	default:
		s.Reject(ctx, found, fmt.Errorf("it is of type %q, want %q", found.Kind.Type, kind.Type))
	}
	return Snapshot{}, false
}

// Reject logs, counts and deletes a snapshot that cannot be used. The log has the reason. The caller continues with an
// older snapshot, or without one.
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

// Due reports whether it is time for a snapshot. It logs and counts a panic of the policy and returns false, because
// the caller's events are already stored.
func (s *Snapshotter) Due(progress Progress) (due bool) {
	defer func() {
		if p := recover(); p != nil {
			s.failed(progress.Stream, "policy", fmt.Errorf("panic: %v", p))
		}
	}()
	return progress.Events > 0 && s.config.Policy(progress)
}

// UnderWay returns the version of the stream's snapshot that waits in the queue or is being saved, 0 if there is none.
func (s *Snapshotter) UnderWay(stream eventstore.StreamID) eventstore.Version {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.pending[stream].Version, s.saving[stream])
}

// Job is a snapshot to be taken.
type Job struct {
	Stream  eventstore.StreamID
	Version eventstore.Version
	// Make makes the snapshot, which can take time. It is called at most once, by another goroutine unless Config.Sync
	// is set.
	Make func() (Snapshot, error)
}

// Take takes a snapshot: before it returns if Config.Sync is set, otherwise later. It returns false if the snapshot was
// dropped because the queue is full or the snapshotter is closed. Later failures are logged and counted.
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

// enqueue puts a job into the queue. If the stream already has a job there, only the one with the later version stays.
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

// work saves the snapshots in the queue, and ends when the queue is empty.
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

// wait gives snapshots time to collect in the queue. It does not wait if the queue is empty or fills a batch, or if a
// caller waits for the queue to be empty.
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

// hurryUp ends the current wait or, if there is none, the next one.
func (s *Snapshotter) hurryUp() {
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

func (s *Snapshotter) next() (jobs []Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.saving) > 0 { // the last batch is done
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
		if !together { // one of them may be at fault: save each alone
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

// make calls Make and returns a panic as an error, because Make runs the application's encoding.
func (j Job) make() (snapshot Snapshot, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return j.Make()
}

// Flush waits until the queue is empty and its snapshots are saved or have failed. It does not return while new
// snapshots keep coming. It is for tests and tools.
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

// Close returns when the queue is saved. It drops all snapshots that come after the call. It takes at most 10 s per 64
// snapshots, plus the time to encode them, even when Postgres does not answer. It does not wait for snapshots that a
// Take with Config.Sync is saving. Close the snapshotter before the pool.
func (s *Snapshotter) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Flush()
}
