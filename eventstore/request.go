package eventstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

const (
	// maxRaces bounds how often a request is written again after a concurrent append was faster.
	maxRaces = 20
	// maxResends bounds how often a request is sent again after its connection was lost.
	maxResends = 3
	// maxBackoff bounds the pause after which a request whose streams were busy is written again.
	maxBackoff = 16 * time.Millisecond
)

// request is one commit, from the queue to its outcome.
type request struct {
	ctx     context.Context
	changes []Change
	key     *Key
	names   []string // of its streams and its key, as in group.writing
	shares  bool     // a group may have several such requests for one stream
	single  bool     // append_one() may be enough
	events  int
	bytes   int

	// Guarded by group.mu while the request is in the queue. While the request is written, only its flusher uses
	// them.
	queued    bool
	limit     int           // how many requests a group with this one may have
	backoff   time.Duration // the last pause
	notBefore time.Time     // the end of that pause
	blocks    bool          // it waited in Postgres, for a lock of another transaction
	waits     bool          // it is being written and may be waiting for that lock, see group.waiting
	races     int           // how often a concurrent append was faster
	resends   int
	lost      error // why the outcome is not known: the request was sent and not answered

	done     chan struct{} // closed when the outcome is there
	receipts []Receipt
	earlier  []StreamID // streams of the earlier commit under the key that the receipts belong to, if there was one
	err      error
}

func newRequest(ctx context.Context, changes []Change) *request {
	r := &request{ctx: ctx, changes: changes, limit: maxGroup, done: make(chan struct{})}
	for _, change := range changes {
		r.names = append(r.names, change.Stream.String())
		r.events += len(change.Events)
		for _, draft := range change.Events {
			r.bytes += len(draft.Data) + draft.Metadata.size()
		}
	}
	r.shares = len(changes) == 1 && changes[0].Expected == Any
	r.single = r.events == 1 // and len(changes) is 1, because no change is empty
	if key, ok := KeyFrom(ctx); ok {
		r.key, r.shares, r.single = &key, false, false
		r.names = append(r.names, "\x00"+key.Name) // no stream has NUL in its name
	}
	return r
}

// isAnswered reports whether the request has an outcome.
func (r *request) isAnswered() bool { return r.receipts != nil || r.err != nil }

// settle sets the outcome of a request. A request that must be written again gets none. settle returns an error if it
// could not look up the receipts under the request's key.
func (r *request) settle(ctx context.Context, db querier, sql *statements, rows []row) error {
	switch rows[0].Outcome {
	case "known":
		receipts, earlier, _, err := stored(ctx, db, sql.key, *r.key)
		switch {
		case errors.Is(err, ErrKeyReused):
			r.err = err
		case err != nil:
			return err
		case receipts != nil && len(receipts) != len(r.changes): // the key belongs to another request
			r.err = fmt.Errorf("eventstore: %w", &KeyReusedError{Key: r.key.Name})
		default: // no receipts if the key was purged since: then the request is written again
			r.receipts, r.earlier = receipts, earlier
		}
	case "stored", "repeated":
		r.receipts = make([]Receipt, len(rows))
		for i, row := range rows {
			r.receipts[i] = Receipt{Version: row.Version, Position: row.Position}
		}
	case "conflict":
		for i, change := range r.changes {
			at := rows[i].Version
			if change.Expected != at && change.Expected != Any && (change.Expected != Exists || at == NoStream) {
				r.err = fmt.Errorf("eventstore: %w", &ConflictError{Stream: change.Stream, Expected: change.Expected, Actual: at})
				break
			}
			if change.Expected == at && change.ExpectedID != uuid.Nil && r.err == nil {
				r.err = fmt.Errorf("eventstore: %w", &ConflictError{Stream: change.Stream, Expected: at, Actual: at, Replaced: true})
			}
		}
	case "busy":
		r.pause()
	}
	return nil
}

// settleError is settle for a group of n requests that has failed as a whole. lost says that the group may be stored.
func (r *request) settleError(err error, lost bool, n int) {
	if lost {
		r.lost = err
	}
	if cause := context.Cause(r.ctx); lost && cause != nil { // that may be why the connection was given up
		err = fmt.Errorf("%w: %w", cause, err)
	}
	switch {
	case lost && !r.repeatable():
		r.err = r.unknown(err)
	case lost || pgconn.SafeToRetry(err):
		if r.resends++; r.resends > maxResends {
			r.err = r.failed(err)
		}
	case n > 1:
		r.limit = min(r.limit, n/2)
	case pgerr.Is(err, pgerr.LockNotAvailable):
		r.blocks, r.limit = true, 1
		r.pause()
	case lostRace(err) && r.races < maxRaces:
		r.races++
	case r.lost != nil:
		r.err = r.unknown(err)
	default:
		r.err = translateAppend(err, r.changes)
	}
}

// pause makes a request wait before it is written again, longer each time up to maxBackoff.
func (r *request) pause() {
	r.backoff = min(max(2*r.backoff, time.Millisecond), maxBackoff)
	r.notBefore = time.Now().Add(r.backoff/2 + rand.N(r.backoff/2))
}

// repeatable reports whether the request can be sent twice without storing anything twice.
func (r *request) repeatable() bool {
	return r.key != nil || !slices.ContainsFunc(r.changes, func(c Change) bool { return c.Expected < 0 })
}

// wasLost reports whether a statement may have been executed although it returned err: the connection was lost, or
// the server ended it, after the statement was sent.
func wasLost(err error, conn *pgx.Conn) bool {
	var fromServer *pgconn.PgError
	var before *uncommitted
	if errors.As(err, &before) {
		return false
	}
	if errors.As(err, &fromServer) {
		return fromServer.SeverityUnlocalized != "ERROR"
	}
	return conn.IsClosed() && !pgconn.SafeToRetry(err)
}

// failed returns the error of a request that was not stored. If an earlier try has no answer, the outcome is unknown.
func (r *request) failed(err error) error {
	if r.lost != nil {
		return r.unknown(err)
	}
	return fmt.Errorf("eventstore: append to stream %s: not stored: %w", r.changes[0].Stream, explain(err))
}

func (r *request) unknown(err error) error {
	return fmt.Errorf("eventstore: append to stream %s: %w: %w", r.changes[0].Stream, ErrUnknownOutcome, err)
}
