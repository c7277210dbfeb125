package eventstore

import (
	"cmp"
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgpool"
)

const (
	// maxFlushers is how many groups are written at a time. With one flusher, Postgres idles between two large
	// groups. But two small groups cost more than one of twice the size. So the second flusher starts only when
	// manyWaiting requests are in the queue, or when writing a group takes longer than longWrite.
	maxFlushers = 2
	manyWaiting = 32
	longWrite   = 2 * time.Millisecond
	// minMoment and maxMoment bound how long a flusher waits for callers to append again.
	minMoment = 2 * time.Microsecond
	maxMoment = 100 * time.Microsecond
	// maxGroup, in streams, maxGroupEvents and maxGroupBytes bound a group. A larger request is a group of its own.
	// Each stream takes a lock, and the lock table of Postgres has room for some thousands.
	maxGroup       = 256
	maxGroupEvents = 4000
	maxGroupBytes  = 4 << 20
	// patience is the lock timeout of a group in milliseconds. A group does not wait for the locks of streams and
	// keys, but another transaction that has locked a table makes it wait.
	patience = 20
	// inlineAnswer is how long the connection of a group may be silent with Config.Inline, before it is given up.
	// Without Config.Inline the limit is pgpool.Answer. eventTime is added for each event, and byteTime for each
	// byte.
	inlineAnswer = 30 * time.Second
	eventTime    = time.Millisecond
	byteTime     = time.Microsecond
	// grace is how long a caller whose context is done waits for the outcome of a request that is being written.
	grace = 5 * time.Second
)

// group lets concurrent commits share a round trip and a transaction. A commit that finds no other one is written by its
// caller: for a lone writer, handing each commit to another goroutine would cost as much as the round trip. A commit
// that finds another one being written is queued, and a flusher writes it. A flusher writes everything that was queued
// during the previous write. Having answered its callers it waits for a moment, since most of them append again
// immediately. When there is nothing to write, no goroutine is left.
//
// No commit changes the outcome of another. Postgres answers for each request of a group, and waits for no other
// transaction. A request that would have to wait goes back into the queue for a moment. A group that fails as a whole
// goes back too. It is written again in groups of half the size, until the request that it fails for is alone. A
// request in the queue can be withdrawn.
type group struct {
	pool     *pgpool.Pool
	sql      *statements
	inline   *inliner // nil without Config.Inline
	appended func()   // called after a commit
	observe  func(GroupDone)
	// lone says that callers may write, as the latest answer of append_one() says. A commit that waits for a
	// synchronous standby must not be cut, so no caller writes where there is one, or where it is not known: the caller
	// could not return when its context is done. Where a standby was added since, this happens to one caller.
	lone atomic.Bool

	mu       sync.Mutex
	queue    []*request             // requests that are not being written, in the order they came
	flushers int                    // flushers that are running, and callers that write
	begun    map[*request]time.Time // when each write began, by its first request
	armed    bool                   // a timer will look for writes that take longer than longWrite
	waiting  bool                   // a flusher is writing a request that blocks
	expected int                    // callers that were answered and may append again
	moment   time.Duration          // how long to wait for one of these callers
	writing  map[string]struct{}    // streams and keys of the requests being written
	closed   bool
	running  sync.WaitGroup // requests that were accepted and have no outcome yet
	standby  *standbyWaits
}

func newGroup(pool *pgpool.Pool, sql *statements, appended func()) *group {
	return &group{
		pool: pool, sql: sql, appended: appended, moment: maxMoment,
		begun: make(map[*request]time.Time), writing: make(map[string]struct{}),
		standby: &standbyWaits{pool: pool},
	}
}

// commit returns the outcome of a request.
func (g *group) commit(r *request) ([]Receipt, error) {
	if r.ctx.Err() != nil {
		return nil, r.failed(context.Cause(r.ctx))
	}
	alone, err := g.accept(r)
	switch {
	case err != nil:
		return nil, err
	case alone:
		g.writeAlone(r)
	}
	select {
	case <-r.done:
		return r.receipts, r.err
	case <-r.ctx.Done():
	}
	if g.withdraw(r) {
		return nil, r.failed(context.Cause(r.ctx))
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-r.done:
		return r.receipts, r.err
	case <-late.C:
		return nil, r.unknown(context.Cause(r.ctx))
	}
}

// accept queues a request. If there is no other request, the request is not queued: accept returns true, and the caller
// must call writeAlone.
func (g *group) accept(r *request) (alone bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false, wrap(ErrClosed, "append to stream %s", r.changes[0].Stream)
	}
	g.running.Add(1)
	g.expected = max(0, g.expected-1)
	if g.flushers == 0 && len(g.queue) == 0 && r.single && g.lone.Load() {
		g.flushers++
		g.begun[r] = time.Now() // the wait for a connection counts: others wait too
		for _, name := range r.names {
			g.writing[name] = struct{}{}
		}
		return true, nil
	}
	r.queued = true
	g.queue = append(g.queue, r)
	g.wake()
	return false, nil
}

// writeAlone writes one request on the goroutine of its caller. Then the request is answered, or is in the queue.
func (g *group) writeAlone(r *request) {
	defer func() { // also if an observer panics
		g.mu.Lock()
		defer g.mu.Unlock()
		g.flushers--
		if len(g.queue) == 0 {
			g.expected = 0 // no flusher will wait for this caller
		}
		g.wake()
	}()
	conn, err := g.pool.Acquire(r.ctx)
	if err != nil {
		r.err = r.failed(cmp.Or(context.Cause(r.ctx), err))
		g.release([]*request{r})
		return
	}
	defer conn.Release()
	g.write(r.ctx, conn, []*request{r})
}

// withdraw takes a request out of the queue. It returns false if the request is not in the queue.
func (g *group) withdraw(r *request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !r.queued {
		return false
	}
	r.queued = false // take drops it
	g.running.Done()
	return true
}

// close refuses further requests and waits for the outcome of the others.
func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.running.Wait()
}

// wake starts a flusher if there is work for one more. Otherwise it looks again later, because a write can take long.
// The caller holds g.mu.
func (g *group) wake() {
	if len(g.queue) == 0 {
		return
	}
	wanted := 1
	if len(g.queue) >= manyWaiting || g.isLate() {
		wanted = maxFlushers
	}
	switch {
	case g.flushers < wanted:
		g.flushers++
		go g.flush()
	case wanted < maxFlushers && !g.armed:
		g.armed = true
		time.AfterFunc(longWrite, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.armed = false
			g.wake()
		})
	}
}

// isLate reports whether a write takes longer than longWrite.
func (g *group) isLate() bool {
	for _, begun := range g.begun {
		if time.Since(begun) >= longWrite {
			return true
		}
	}
	return false
}

// flush writes groups until no request can be written, or until a lone writer can write by itself.
func (g *group) flush() {
	for {
		g.gather()
		// The connection comes before the requests: while there is none, the requests can be withdrawn.
		conn, err := g.pool.Acquire(context.Background())
		batch := g.take()
		switch {
		case err != nil:
			for _, r := range batch {
				r.err = r.failed(err)
			}
			g.release(batch)
		case len(batch) > 0:
			g.write(context.Background(), conn, batch)
		}
		if conn != nil {
			conn.Release()
		}
		if len(batch) == 0 || g.isOver(len(batch)) {
			return
		}
	}
}

// isOver ends a flusher that has written a single request if there is no other: a lone writer writes by itself.
func (g *group) isOver(written int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if written > 1 || len(g.queue) > 0 || !g.lone.Load() {
		return false
	}
	g.flushers, g.expected = g.flushers-1, 0
	return true
}

// gather waits for the callers that were just answered, since most of them have the next commit ready. It yields the
// processor until as many requests have come, or until none has come for a moment. The moment gets shorter while
// callers do not append again. With two flushers running, gather yields only while requests come, because the other
// flusher keeps Postgres busy.
func (g *group) gather() {
	g.mu.Lock()
	defer g.mu.Unlock()
	answered, left, since := g.expected, g.expected+1, time.Now()
	for g.expected > 0 && (g.expected < left || g.flushers == 1 && time.Since(since) < g.moment) {
		if g.expected < left {
			left, since = g.expected, time.Now()
		}
		g.mu.Unlock()
		runtime.Gosched()
		g.mu.Lock()
	}
	switch {
	case g.expected < answered:
		g.moment = min(2*g.moment, maxMoment)
	case answered > 0:
		g.moment = max(g.moment/2, minMoment)
	}
	g.expected = 0
}

// take returns the requests of the next group. A request stays in the queue if it pauses or does not fit, for example
// because it shares a stream or a key with a request that is being written. Later requests for the same streams and
// keys then stay too. If there are no requests for a group, the flusher ends.
func (g *group) take() []*request {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := newGroupBuilder(g.writing, g.waiting)
	now, left := time.Now(), g.queue[:0]
	wait := time.Duration(-1) // until the first pause ends; negative if no request pauses
	for i, r := range g.queue {
		if b.isFull() {
			left = append(left, g.queue[i:]...)
			break
		}
		if !r.queued {
			continue
		}
		due := r.notBefore.Sub(now)
		switch fits := b.fits(r); {
		case fits && due <= 0:
			if r.blocks {
				r.waits, g.waiting = true, true
			}
			r.queued = false
			b.add(r)
			continue
		case fits && (wait < 0 || due < wait):
			wait = due
		}
		left = append(left, r)
		if due <= 0 || len(r.names) == 1 { // a pausing request of several streams waits for one of them: requests for the others need not wait
			b.pass(r)
		}
	}
	clear(g.queue[len(left):])
	g.queue = left
	for name := range b.taken {
		g.writing[name] = struct{}{}
	}
	if len(b.requests) == 0 {
		g.flushers--
		g.wakeAfter(wait)
	}
	return b.requests
}

// wakeAfter starts a flusher when the first pause ends. wait is negative if no request pauses.
func (g *group) wakeAfter(wait time.Duration) {
	if wait < 0 {
		return
	}
	time.AfterFunc(wait, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.wake()
	})
}

// release ends the write of a group. Requests without an outcome go back to the head of the queue. The others are
// answered.
func (g *group) release(batch []*request) {
	var again, answered []*request
	g.mu.Lock()
	for _, r := range batch {
		if r.waits {
			r.waits, g.waiting = false, false
		}
		for _, name := range r.names {
			delete(g.writing, name)
		}
		delete(g.begun, r)
		if !r.isAnswered() && r.ctx.Err() != nil {
			r.err = r.failed(context.Cause(r.ctx))
		}
		if r.isAnswered() {
			answered = append(answered, r)
		} else {
			r.queued = true
			again = append(again, r)
		}
	}
	if len(again) > 0 {
		g.queue = append(again, g.queue...)
		g.wake()
	}
	g.expected += len(answered)
	g.mu.Unlock()
	for _, r := range answered {
		close(r.done)
		g.running.Done()
	}
}

// write writes a group. Each of its requests is then answered, or is written again. If ctx is done, write gives up the
// connection after grace.
func (g *group) write(ctx context.Context, conn *pgpool.Conn, batch []*request) {
	defer g.release(batch)
	g.mu.Lock()
	g.begun[batch[0]] = time.Now()
	g.mu.Unlock()
	done := grouped(batch)
	if g.observe != nil {
		defer func() { g.observe(done) }() // when the watch has ended
	}
	watch := g.pool.WatchCommit(conn.Conn(), g.answer(batch))
	watch.CutAfter(ctx, grace)
	defer func() { _ = watch.Stop(nil) }()
	start := time.Now()
	rows, err := g.send(conn, batch)
	done.Took = time.Since(start)
	if err != nil {
		err = watch.Stop(err)
		done.Err = err
		lost := wasLost(err, conn.Conn())
		for _, r := range batch {
			r.settleError(err, lost, len(batch))
		}
		return
	}
	anyStored := false
	for _, r := range batch {
		own := rows[:len(r.changes)]
		rows = rows[len(r.changes):]
		if err := r.settle(context.Background(), conn.Conn(), g.sql, own); err != nil {
			r.settleError(err, true, 1) // a commit is stored under its key, so the outcome is like that of a lost connection
		}
		anyStored = anyStored || own[0].Outcome == "stored"
	}
	if anyStored {
		g.appended()
	}
}

func grouped(batch []*request) GroupDone {
	done := GroupDone{Commits: len(batch)}
	for _, r := range batch {
		done.Events, done.Bytes = done.Events+r.events, done.Bytes+r.bytes
	}
	return done
}

// answer returns how long the connection of a group may be silent.
func (g *group) answer(batch []*request) time.Duration {
	limit := pgpool.Answer
	if g.inline != nil {
		limit = inlineAnswer
	}
	for _, r := range batch {
		limit += time.Duration(r.events)*eventTime + time.Duration(r.bytes)*byteTime
	}
	return limit
}

// send asks Postgres to store a group, with append_one() if that is enough. The statement has no context, because pgx
// answers the end of a context by cutting the connection, which all requests of the group share.
func (g *group) send(conn *pgpool.Conn, batch []*request) ([]row, error) {
	if g.inline != nil {
		return g.sendInline(conn, batch)
	}
	ctx := context.Background()
	args := newAppendArgs(batch)
	if one, ok := args.one(); ok {
		var at []int64 // version, position, 1 if there are synchronous standbys; nothing if append_group() has to say why
		err := conn.Conn().QueryRow(ctx, g.sql.one, one...).Scan(&at)
		switch {
		case pgerr.Constraint(err) == "events_pkey": // the sequence is behind the log: append_group() says so
		case err != nil:
			return nil, err
		case len(at) == 3:
			g.lone.Store(at[2] == 0)
			return []row{{Outcome: "stored", Version: Version(at[0]), Position: Position(at[1])}}, nil
		}
	}
	return appendGroup(ctx, conn.Conn(), g.sql, args.group(patience))
}
