package projection

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/panics"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

// ErrUnknownProjection means that no projection has that name, or that it does not have that version.
var ErrUnknownProjection = errors.New("unknown projection")

// ErrTimeout is the error of an event that took longer than [Options.Timeout] to handle.
var ErrTimeout = errors.New("handling the event took longer than the projection's timeout")

// ErrRefused means that an operator's request cannot be done, for the reason that the error names. Nothing was changed.
var ErrRefused = errors.New("refused")

// HandlerError says which event a projection could not handle.
type HandlerError struct {
	Projection string
	Stream     eventstore.StreamID
	Position   eventstore.Position
	Type       string
	Err        error
}

// Error names the projection and the event, and gives the handler's error.
func (e *HandlerError) Error() string {
	return fmt.Sprintf("projection %s: event %q at position %d of stream %s: %v", e.Projection, e.Type, e.Position, e.Stream, e.Err)
}

// Unwrap returns the handler's error.
func (e *HandlerError) Unwrap() error { return e.Err }

// classified is an error with the class that a handler, or this package, gave it.
type classified struct {
	error
	class class
}

func (e *classified) Unwrap() error { return e.error }

// Transient marks a handler's error as one that passes. The event is tried again, with growing pauses, until it
// succeeds. Lost connections, deadlocks and similar errors need no mark. Transient(nil) is nil.
func Transient(err error) error { return mark(err, transient) }

// Fatal marks a handler's error as one that concerns the whole projection. The projection stops, and its status says
// why, until an operator resumes it. Fatal(nil) is nil.
func Fatal(err error) error { return mark(err, fatal) }

func mark(err error, c class) error {
	if err == nil {
		return nil
	}
	return &classified{err, c}
}

// class is what an error means for a projection.
type class string

const (
	unclear   class = "unclear"   // tried again a few times, then treated like poison
	transient class = "transient" // about the environment: tried again until it passes, and never blamed on an event
	poison    class = "poison"    // the event will never be handled as it is
	fatal     class = "fatal"     // no event can be handled
	unable    class = "unable"    // this process can handle no event, other processes may be able to
)

// ofAll reports whether an error concerns all events, and not a single one.
func (c class) ofAll() bool { return c == transient || c == fatal || c == unable }

// errEnded is the error of a batch whose handler has ended the transaction.
var errEnded = errors.New("the handler has committed or rolled back the batch's transaction: leave that to the runner")

// errAborted is the error of a batch whose handler did not return the error of a failed statement.
var errAborted = errors.New("the handler continued after a failed statement, which has aborted the transaction: use a savepoint (tx.Begin) for statements that can fail")

// errIdle is the error of a batch whose transaction Postgres has ended, because a handler left it idle for too long.
var errIdle = errors.New("the handler left its transaction alone for longer than Config.Lease allows")

// classify returns the class of an error that happened while an event was handled.
func classify(err error) class {
	var m *classified
	var p *panics.Error
	switch {
	case errors.As(err, &m):
		return m.class
	case errors.As(err, new(*rowset.ShapeError)):
		return fatal
	case errors.As(err, new(*rowset.ValueError)), errors.Is(err, rowset.ErrOtherKey), errors.Is(err, rowset.ErrWrongKey):
		return poison
	case errors.As(err, &p), errors.Is(err, codec.ErrDecode), errors.Is(err, errNoKey),
		errors.Is(err, errEnded), pgerr.Is(err, pgerr.HalfBatch):
		return poison
	case errors.Is(err, ErrNoEvent), pgerr.Is(err, pgerr.ReadersView):
		return fatal
	case errors.Is(err, eventstore.ErrNoAnswer): // the store may be one that the handler has called
		return transient
	}
	switch pgerr.KindOf(err) {
	case pgerr.Environment:
		return transient
	case pgerr.Data:
		return poison
	case pgerr.Objects:
		return unable
	}
	switch {
	case errors.Is(err, ErrTimeout):
		return unclear
	case errors.Is(err, errAborted):
		return poison
	case errors.As(err, new(*pgconn.ConnectError)), errors.Is(err, puddle.ErrClosedPool),
		pgerr.Network(err) && !pgerr.TimedOut(err):
		return transient
	}
	return unclear
}

// WaitError says that a projection did not reach a position before the context was done. It unwraps to the context's
// error and to the reason.
type WaitError struct {
	Projection string
	Checkpoint eventstore.Position // the position that the projection is at
	Position   eventstore.Position // the position that was waited for
	Reason     error               // why the projection makes no progress, if known: it fails, or is paused or stopped
	Err        error
}

// Error names the projection, its checkpoint and the position, and gives the reason if it is known.
func (e *WaitError) Error() string {
	text := fmt.Sprintf("projection %s is at position %d and did not reach %d: %v", e.Projection, e.Checkpoint, e.Position, e.Err)
	if e.Reason != nil {
		text += fmt.Sprintf(" (%v)", e.Reason)
	}
	return text
}

// Unwrap returns the context's error and the reason.
func (e *WaitError) Unwrap() []error { return []error{e.Err, e.Reason} }

// errNothing ends an operation that has nothing to do.
var errNothing = errors.New("nothing to do")

func isNothing(err error) bool { return errors.Is(err, errNothing) }
