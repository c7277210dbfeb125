package eventstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

const (
	// maxFlushers is how many groups are written at a time. With one, Postgres idles between two
	// groups; more make the groups smaller.
	maxFlushers = 2
	// maxGroupEvents and maxGroupBytes bound a group; a commit that is larger goes by itself.
	maxGroupEvents = 1000
	maxGroupBytes  = 4 << 20
	// patience is how many milliseconds a group waits for the transactions of others.
	patience = 20
	// grace is how long a caller who was cancelled waits for the outcome of what is being written.
	grace = 5 * time.Second
)

// group lets concurrent commits share a round trip and a transaction. Nobody waits for more to
// come: who finds a flusher free starts it, and a flusher takes what has come while it, or the
// other one, was busy. When nothing is to do no goroutine is left.
//
// One commit never touches the outcome of another. What a group cannot say of all its requests is
// asked again by halves, and at last by a request alone: with a connection of its own, and as
// patient as its caller.
type group struct {
	pool     *pgxpool.Pool
	sql      *statements
	appended *signal

	mu       sync.Mutex
	queue    []*request     // not taken yet
	flushers int            // at work
	busy     map[string]int // streams and keys that are being written, and by how many requests
	closed   bool
	running  sync.WaitGroup // requests that were accepted
}

// request is one commit on its way.
type request struct {
	ctx     context.Context
	changes []Change
	key     *Key
	names   []string // of its streams and key, as in group.busy
	events  int
	bytes   int

	taken    bool          // guarded by group.mu
	done     chan struct{} // closed when the outcome is there
	receipts []Receipt
	err      error
}

func newGroup(pool *pgxpool.Pool, sql *statements, appended *signal) *group {
	return &group{pool: pool, sql: sql, appended: appended, busy: make(map[string]int)}
}

func newRequest(ctx context.Context, changes []Change) *request {
	r := &request{ctx: ctx, changes: changes, done: make(chan struct{})}
	for _, change := range changes {
		r.names = append(r.names, change.Stream.String())
		r.events += len(change.Events)
		for _, draft := range change.Events {
			r.bytes += len(draft.Data)
		}
	}
	if key, ok := KeyFrom(ctx); ok {
		r.key = &key
		r.names = append(r.names, " "+key.Name) // no stream begins like that
	}
	return r
}

// commit returns the outcome of a request.
func (g *group) commit(r *request) ([]Receipt, error) {
	if r.ctx.Err() != nil {
		return nil, r.notStored(context.Cause(r.ctx))
	}
	if err := g.enqueue(r); err != nil {
		return nil, err
	}
	select {
	case <-r.done:
		return r.receipts, r.err
	case <-r.ctx.Done():
	}
	if g.withdraw(r) {
		return nil, r.notStored(context.Cause(r.ctx))
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

func (g *group) enqueue(r *request) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return wrap(ErrClosed, "append to stream %s", r.changes[0].Stream)
	}
	g.running.Add(1)
	g.queue = append(g.queue, r)
	g.wake()
	return nil
}

// withdraw takes a request back that nobody has taken.
func (g *group) withdraw(r *request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.taken {
		return false
	}
	for i, queued := range g.queue {
		if queued == r {
			g.queue = append(g.queue[:i], g.queue[i+1:]...)
			break
		}
	}
	g.running.Done()
	return true
}

// close refuses further requests and waits for those under way.
func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.running.Wait()
}

// wake starts a flusher if one is free. g.mu is held.
func (g *group) wake() {
	if g.flushers < maxFlushers && len(g.queue) > 0 {
		g.flushers++
		go g.flush()
	}
}

// flush writes groups until there is nothing it could write.
func (g *group) flush() {
	for {
		// First a connection, so that callers can withdraw while there is none.
		conn, err := g.pool.Acquire(context.Background())
		batch := g.take()
		switch {
		case len(batch) == 0:
		case err != nil:
			g.fail(batch, err)
		default:
			g.write(conn, batch, 0)
		}
		if conn != nil {
			conn.Release()
		}
		if len(batch) == 0 {
			return
		}
	}
}

// take returns the requests of the next group. It leaves those that would wait for one that is
// being written, and what came after them for the same streams. Without any, the flusher ends.
func (g *group) take() (batch []*request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	own := make(map[string]bool)    // streams of this group
	passed := make(map[string]bool) // streams and keys of those that were left
	left := g.queue[:0]
	events, bytes := 0, 0
	for _, r := range g.queue {
		events, bytes = events+r.events, bytes+r.bytes
		full := len(batch) > 0 && (events > maxGroupEvents || bytes > maxGroupBytes)
		fits := !full
		for _, name := range r.names {
			waits := g.busy[name] > 0 && !own[name]
			twice := own[name] && name[0] == ' ' // the second one asks when the first is stored
			fits = fits && !waits && !twice && !passed[name]
		}
		if !fits {
			events, bytes = events-r.events, bytes-r.bytes
			left = append(left, r)
			for _, name := range r.names {
				passed[name] = true
			}
			continue
		}
		r.taken = true
		batch = append(batch, r)
		for _, name := range r.names {
			own[name] = true
			g.busy[name]++
		}
	}
	clear(g.queue[len(left):])
	g.queue = left
	if len(batch) == 0 {
		g.flushers--
	}
	// Two groups, of other processes too, meet their common streams in the same order. Commits of
	// several streams keep their own, which Postgres sees to.
	slices.SortStableFunc(batch, func(a, b *request) int { return strings.Compare(a.names[0], b.names[0]) })
	return batch
}

// release lets go of what a request was writing; with again it goes back into the queue.
func (g *group) release(r *request, again bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range r.names {
		if g.busy[name]--; g.busy[name] == 0 {
			delete(g.busy, name)
		}
	}
	if again {
		r.taken = false
		g.queue = append([]*request{r}, g.queue...)
	}
	g.wake()
}

// finish tells the caller what has become of its request.
func (g *group) finish(r *request, receipts []Receipt, err error) {
	g.release(r, false)
	r.receipts, r.err = receipts, err
	close(r.done)
	g.running.Done()
}

// fail tells all callers of a group that nothing was stored.
func (g *group) fail(batch []*request, err error) {
	for _, r := range batch {
		g.finish(r, nil, r.notStored(err))
	}
}

// row is what append_group says of one stream.
type row struct {
	Outcome  string
	Version  Version
	Position Position
}

// write writes a group and finishes its requests. races counts how often others were faster.
func (g *group) write(conn *pgxpool.Conn, batch []*request, races int) {
	outcomes, err := g.send(conn, newAppendArgs(batch...))
	switch {
	case err == nil:
		g.settle(batch, outcomes)
	case isUnknown(err):
		for _, r := range batch {
			g.finish(r, nil, r.unknown(err))
		}
	case conn.Conn().IsClosed(): // and nothing was sent
		g.fail(batch, err)
	case lostRace(err) && races < maxRaces:
		g.write(conn, batch, races+1)
	case len(batch) > 1:
		half := len(batch) / 2
		g.write(conn, batch[:half], 0)
		g.write(conn, batch[half:], 0)
	case pgerr.Is(err, pgerr.LockNotAvailable) || lostRace(err):
		go g.writeAlone(batch[0])
	default:
		g.finish(batch[0], nil, translateAppend(err, batch[0].changes))
	}
}

// send asks Postgres to store a group, on the short path if that will do.
func (g *group) send(conn *pgxpool.Conn, args *appendArgs) ([]row, error) {
	ctx := context.Background()
	if one, ok := args.one(patience); ok {
		var r row
		err := conn.QueryRow(ctx, g.sql.one, one...).Scan(&r.Version, &r.Position)
		if err == nil {
			r.Outcome = "stored"
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return []row{r}, err
		}
	}
	rows, err := conn.Query(ctx, g.sql.group, args.group(patience)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[row])
}

// settle tells each caller its own outcome.
func (g *group) settle(batch []*request, outcomes []row) {
	if slices.ContainsFunc(outcomes, func(r row) bool { return r.Outcome == "stored" }) {
		g.appended.notify()
	}
	for _, r := range batch {
		own := outcomes[:len(r.changes)]
		outcomes = outcomes[len(r.changes):]
		receipts, err := r.outcome(own)
		if err == errAgain {
			g.release(r, true)
			continue
		}
		g.finish(r, receipts, err)
	}
}

// errAgain means that a request met another one of its group.
var errAgain = errors.New("again")

// outcome turns the rows of a request into what its caller gets.
func (r *request) outcome(rows []row) ([]Receipt, error) {
	switch rows[0].Outcome {
	case "reused":
		return nil, fmt.Errorf("eventstore: append to stream %s: %w", r.changes[0].Stream, &KeyReusedError{Key: r.key.Name})
	case "conflict":
		for i, change := range r.changes {
			at := rows[i].Version
			if change.Expected != at && change.Expected != Any && (change.Expected != Exists || at == NoStream) {
				return nil, fmt.Errorf("eventstore: %w", &ConflictError{Stream: change.Stream, Expected: change.Expected, Actual: at})
			}
		}
		return nil, errAgain
	}
	receipts := make([]Receipt, len(rows))
	for i, row := range rows {
		receipts[i] = Receipt{Version: row.Version, Position: row.Position}
	}
	return receipts, nil
}

// writeAlone writes one request without regard to others, as long as its caller waits.
func (g *group) writeAlone(r *request) {
	conn, err := g.pool.Acquire(r.ctx)
	if err != nil {
		g.finish(r, nil, r.notStored(err))
		return
	}
	defer conn.Release()
	// pgx would cut the connection, and leave it open what the server does. The server is asked to
	// cancel instead, and its answer awaited.
	cancelled := make(chan struct{})
	stop := context.AfterFunc(r.ctx, func() {
		defer close(cancelled)
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		_ = conn.Conn().PgConn().CancelRequest(ctx)
	})
	receipts, err := appendAlone(context.WithoutCancel(r.ctx), conn, g.sql.append, newAppendArgs(r), maxRaces)
	if !stop() {
		<-cancelled
		_ = conn.Conn().Close(context.Background()) // the request may still arrive, and hit another statement
	}
	switch {
	case err == nil:
		g.appended.notify()
	case pgerr.Is(err, pgerr.QueryCanceled) && r.ctx.Err() != nil:
		err = r.notStored(context.Cause(r.ctx))
	case isUnknown(err):
		err = r.unknown(err)
	default:
		err = translateAppend(err, r.changes)
	}
	g.finish(r, receipts, err)
}

// isUnknown reports whether a commit may have happened although err came of it: the connection
// was lost, or the server ended it, after the statement was sent.
func isUnknown(err error) bool {
	var fromServer *pgconn.PgError
	if errors.As(err, &fromServer) {
		return fromServer.Severity != "ERROR"
	}
	return !pgconn.SafeToRetry(err)
}

func (r *request) notStored(err error) error {
	return fmt.Errorf("eventstore: append to stream %s: not stored: %w", r.changes[0].Stream, err)
}

func (r *request) unknown(err error) error {
	return fmt.Errorf("eventstore: append to stream %s: %w: %w", r.changes[0].Stream, ErrUnknownOutcome, err)
}
