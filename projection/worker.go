package projection

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pause"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

const (
	// saveAfter is how long a checkpoint stays in memory before it is stored, if it has only passed events of other
	// types.
	saveAfter = 50 * time.Millisecond
	// recoverAfter is how long there must be nothing to read after a failure before the failure counts as over.
	recoverAfter = time.Second
)

// errFenced means the same as SQLSTATE TM006, but the worker noticed it before a statement could fail with that code.
var errFenced = errors.New("the partition has another owner, or was changed by an operator")

func fenced(err error) bool {
	return pgerr.Is(err, pgerr.Fenced) || errors.Is(err, errFenced)
}

// errGone means that this process must not run the partition, or not at the moment.
var errGone = errors.New("the partition has another owner, or is not running")

// errHeld means that the version is held, because another version is about to become the live one.
var errHeld = errors.New("the projection is held for a moment")

// worker runs one partition of a projection while this process has the lease of the partition.
type worker struct {
	deployment *deployment
	projection *Projection
	engine     *engine
	number     int

	stale atomic.Pointer[staleToken]

	// What load has read of the partition. It is valid until the token or the generation of the deployment changes.
	generation int64
	token      int64
	leased     int64               // the token that the worker was started with: load may fail before it has read a token
	checkpoint eventstore.Position // as stored
	live       bool
	inline     eventstore.Position   // appends keep the projection after this position; -1 if they do not
	liveAt     []eventstore.Position // checkpoints of the live version while another version is live
	parked     map[string]bool       // keys that have dead letters

	// How far the worker is. The worker has processed the events up to read: they are of other types, or folded into
	// rows that are not written yet, or stored with the checkpoint.
	read    eventstore.Position
	seen    eventstore.Mark // the mark of read; if its position is another one, the event at read is not known
	page    *feed.Page      // the last page that was read
	proof   eventstore.Mark // the commit checks that this event is still in the log, if the log is in the same database
	rows    rowset.Rows     // of a table
	pending amount          // items folded into rows that are not stored yet
	since   time.Time       // when read left the checkpoint

	// What is known about events that fail.
	maxItems int                 // of a batch, while the worker looks for the event that fails; 0 for any number
	halved   bool                // maxItems is a guess
	until    eventstore.Position // position of an event that cannot be folded: rows of the events before it are written first; 0 for none
	poison   map[itemID]failedItem
	attempts map[eventstore.Position]int
	siblings siblings
	streak   streak
	failing  bool

	serverStart time.Time // when the Postgres server was started
	rate        rate
}

// staleToken ends what a worker does under a fencing token as soon as a newer token is known. A worker that has nothing
// to commit would not notice the newer token by itself.
type staleToken struct {
	token int64
	end   context.CancelCauseFunc
}

// underToken returns a context that is done when a newer token than the present one is known.
func (w *worker) underToken(ctx context.Context) context.Context {
	held, end := context.WithCancelCause(ctx)
	if old := w.stale.Swap(&staleToken{w.token, end}); old != nil {
		old.end(nil)
	}
	return held
}

func newWorker(d *deployment, number int) *worker {
	return &worker{
		deployment: d, projection: d.projection, engine: d.engine, number: number,
		poison: make(map[itemID]failedItem), attempts: make(map[eventstore.Position]int),
	}
}

// itemID names an item. An event that was split has several items.
type itemID struct {
	position eventstore.Position
	key      string
}

// failedItem is the error of an item that was given up, and the number of attempts.
type failedItem struct {
	err      error
	attempts int
}

// run handles batch after batch until ctx is done or the partition is gone.
func (w *worker) run(ctx context.Context) {
	pauses := pause.NewGrowing(100*time.Millisecond, w.engine.config.MaxBackoff)
	loaded := false
	fencedAt := int64(-1) // the token under which the worker was last fenced
	held := w.underToken(ctx)
	for ctx.Err() == nil {
		var err error
		checkpoint := w.checkpoint
		if !loaded {
			err = guarded(func() error { return w.engine.answered(ctx, w.load) })
			held = w.underToken(ctx)
		}
		if err == nil {
			loaded = true
			err = guarded(func() error { return w.step(held) })
		}
		stale := fenced(err) || err != nil && errors.Is(context.Cause(held), errFenced)
		switch after(err, ctx.Err() != nil, stale && fencedAt != w.token) {
		case proceed:
			if !w.failing || w.checkpoint > checkpoint {
				pauses.Reset()
				fencedAt = -1
			}
		case leave:
			return
		case end:
		case wait:
			_ = pause.Sleep(ctx, askAfter/2)
		case reload:
			fencedAt, loaded = w.token, false // the next load reads another token
		case fail:
			if pgerr.Is(err, pgerr.Diverged) { // the pages are from a log that no longer exists
				w.engine.feed.Forget()
			}
			w.forget()
			w.failed(ctx, err)
			loaded = loaded && held.Err() == nil && classify(err) == unclear && !fenced(err) && !errors.Is(err, eventstore.ErrDiverged)
			_ = pauses.Sleep(ctx)
			w.since = time.Now() // a failure is over after a time without failures, and the pause does not count
		}
	}
	if w.pending.items == 0 && w.read > w.checkpoint {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = w.save(ctx)
	}
}

// load reads the partition and its dead letters from the database.
func (w *worker) load(ctx context.Context) error {
	id := w.projection.id()
	w.generation = w.deployment.generation.Load() // before the partition is read
	p, err := w.engine.catalog.Partition(ctx, w.engine.pool, id, w.number, w.engine.db.owner)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !w.mayRun(p) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("projection %s: read its checkpoint: %w", w.projection.name, err)
	}
	if p.Held {
		return errHeld
	}
	keys, err := w.engine.catalog.ParkedKeys(ctx, w.engine.pool, id, w.number)
	if err != nil {
		return fmt.Errorf("projection %s: read its dead letters: %w", w.projection.name, err)
	}
	if p.Checkpoint < w.checkpoint || !w.serverStart.IsZero() && !p.ServerStart.Equal(w.serverStart) {
		w.engine.feed.Forget() // the log of another server may end elsewhere
	}
	w.serverStart = p.ServerStart
	if p.Token != w.token || p.Checkpoint != w.checkpoint {
		clear(w.poison)
		clear(w.attempts)
		w.streak = streak{}
		w.maxItems, w.until = 0, 0
	}
	w.seen = eventstore.Mark{Position: p.Checkpoint, ID: p.CheckpointID}
	w.proof = w.engine.db.log.proof(w.seen)
	w.checkpoint, w.token, w.inline, w.live = p.Checkpoint, p.Token, p.Inline, p.Phase == catalog.Live
	w.failing = w.failing || p.Failing
	w.parked = make(map[string]bool)
	for _, key := range keys {
		w.parked[key] = true
	}
	w.forget()
	w.deployment.reached(w.number, w.checkpoint, w.live, w.generation)
	if w.projection.table != nil {
		if err := w.projection.table.Describe(ctx, w.engine.pool); err != nil {
			return fmt.Errorf("projection %s: look at its table: %w", w.projection.name, err)
		}
	}
	return w.checkEnd(ctx)
}

// checkEnd returns an error if the checkpoint is beyond the end of the log.
func (w *worker) checkEnd(ctx context.Context) error {
	end, err := w.engine.db.log.Tidemark(ctx)
	if err == nil && w.checkpoint > end { // the checkpoint of a projection that appends kept may be above the tidemark
		var s eventstore.LogStatus
		s, err = w.engine.db.log.status(ctx)
		end = s.End
	}
	if err != nil {
		return fmt.Errorf("projection %s: read where the log ends: %w", w.projection.name, err)
	}
	if w.checkpoint > end {
		return Fatal(fmt.Errorf("the checkpoint is %d, but the log ends at %d: was a backup restored? Its read model has events that the log does not have: "+
			"rebuild it with a higher version, or Reset it", w.checkpoint, end))
	}
	return nil
}

// mayRun reports whether this process may run the partition: it has the lease, the version is running, and this process
// knows the version's types and number of partitions.
func (w *worker) mayRun(p catalog.Partition) bool {
	return p.Mine && p.State == catalog.Running && w.deployment.covers(p.Types) && p.Partitions == w.projection.options.Partitions
}

// forget sets the worker back to the stored checkpoint.
func (w *worker) forget() {
	w.read, w.pending, w.since = w.checkpoint, amount{}, time.Now()
	if w.projection.table != nil {
		w.rows = w.projection.table.Open(w.engine.cached, w.checkpoint == 0)
	}
}

// step handles the next page, or the part of it that makes a batch.
func (w *worker) step(ctx context.Context) error {
	if w.generation != w.deployment.generation.Load() {
		return errFenced
	}
	p, err := w.next(ctx)
	if err != nil || p == nil {
		return err
	}
	w.page, w.proof = p, w.engine.db.log.proof(p.Mark())
	bound, bounded, err := w.bound(ctx, p.Through)
	if err != nil {
		return err
	}
	all := w.projection.items(p, w.read, w.number)
	items, to := cut(all, p.Through, limits{bounded: bounded, bound: bound, before: w.until, maxItems: w.maxItems})
	backlogged := p.More && to == p.Through && w.maxItems == 0 // more pages follow: the commit need not be flushed, and rows may stay in memory
	defer func(from eventstore.Position) {
		if w.read != from {
			w.seen = p.At(w.read)
		}
	}(w.read)
	if w.inline >= 0 {
		items = nil // appends have handled them
	}
	if len(items) == 0 && w.pending.items == 0 {
		if w.read == w.checkpoint {
			w.since = time.Now()
		}
		w.read = to
		if backlogged {
			return nil
		}
		// The positions up to here have no event of this partition, so readers cannot notice that the checkpoint is not
		// stored.
		w.deployment.reached(w.number, to, w.live, w.generation)
		return nil
	}
	select {
	case w.engine.slots <- struct{}{}:
		defer func() { <-w.engine.slots }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if w.projection.table != nil {
		err = w.foldBatch(ctx, items, to, backlogged)
	} else {
		err = w.handleBatch(ctx, items, to, backlogged)
	}
	if f, ok := err.(*failure); ok && ctx.Err() == nil { //nolint:errorlint // one that is marked as transient is about no event
		err = w.judge(ctx, items, f)
	}
	return err
}

// next returns the next page. It returns no page when it has stored a checkpoint that had only passed events of other
// types, or has recorded that a failure is over.
func (w *worker) next(ctx context.Context) (*feed.Page, error) {
	wait := saveAfter
	if w.failing {
		wait = recoverAfter
	}
	if w.read == w.checkpoint && !w.failing || w.pending.items > 0 { // then there is more to read
		return w.engine.feed.Next(ctx, w.mark())
	}
	left := time.Until(w.since.Add(wait))
	if left > 0 {
		waiting, cancel := context.WithTimeoutCause(ctx, left, errSave)
		defer cancel()
		p, err := w.engine.feed.Next(waiting, w.mark())
		if !errors.Is(err, errSave) {
			return p, err
		}
	}
	if w.failing && w.read == w.checkpoint {
		if idle, err := w.isIdle(ctx); err != nil || !idle {
			w.since = time.Now()
			return nil, err
		}
	}
	return nil, w.save(ctx)
}

// isIdle reports whether there is nothing to read. If there is something and the worker has not read it, the failure is
// not over.
func (w *worker) isIdle(ctx context.Context) (bool, error) {
	var end eventstore.Position
	err := w.engine.answered(ctx, func(ctx context.Context) (err error) {
		end, err = w.engine.db.log.Tidemark(ctx)
		return err
	})
	return end <= w.read, err
}

// mark returns the position at which the worker continues in the log, with the id of the event there if it is known.
func (w *worker) mark() eventstore.Mark { return w.markAt(w.read) }

// markAt returns the mark of a position that the worker has reached, with the id of the event there if it is known.
func (w *worker) markAt(position eventstore.Position) eventstore.Mark {
	switch {
	case w.seen.Position == position:
		return w.seen
	case w.page != nil && position > w.page.After:
		return w.page.At(position)
	}
	return eventstore.After(position)
}

// errAbandoned is the error of an event whose handler does not return although its context is done.
var errAbandoned = errors.New("its handler does not return")

var errSave = errors.New("time to save the checkpoint")

// save stores how far the worker has read. There is nothing else to store with it.
func (w *worker) save(ctx context.Context) error {
	b := &batch{worker: w, to: w.read}
	err := w.engine.answered(ctx, func(ctx context.Context) error {
		return w.engine.catalog.AdvanceLazily(ctx, w.engine.db.send, b.advance(nil))
	})
	if err != nil {
		return err
	}
	w.committed(b)
	return nil
}

// committed notes what a batch has changed.
func (w *worker) committed(b *batch) {
	w.checkpoint, w.read, w.pending, w.until = b.to, b.to, amount{}, 0
	maps.Copy(w.parked, b.parking)
	for id := range w.poison {
		if id.position <= b.to {
			delete(w.poison, id)
		}
	}
	for position := range w.attempts {
		if position <= b.to {
			delete(w.attempts, position)
		}
	}
	switch {
	case w.maxItems > 0 && w.halved && w.maxItems < maxHalved:
		w.maxItems *= 2
	default:
		w.maxItems = 0
	}
	if b.handled.items > 0 {
		w.streak.handled(b.to)
	}
	w.rate.add(b.handled.events, time.Now())
	if observe := w.engine.config.Observer.Batch; observe != nil && !b.began.IsZero() {
		observe(BatchDone{w.ref(), w.number, w.checkpoint, b.handled.events, len(b.letters), time.Since(b.began)})
	}
	if w.failing {
		w.failing = false
		w.deployment.recovered(w.number)
		w.engine.logger.Info("projection works again after a failure",
			"projection", w.projection.name, "version", w.projection.options.Version, "partition", w.number, "checkpoint", w.checkpoint)
	}
	w.deployment.reached(w.number, w.checkpoint, w.live, w.generation)
}

// maxHalved is the size from which a batch is no longer small.
const maxHalved = 1000
