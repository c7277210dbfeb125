package eventstore

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// The sentinels that the typed errors of this package unwrap to.
var (
	ErrConflict  = errors.New("version conflict")
	ErrInvalid   = errors.New("invalid argument")
	ErrKeyReused = errors.New("idempotency key reused")
	ErrKeySpent  = errors.New("idempotency key spent")

	// ErrUnknownOutcome means that the connection was lost, or gave no answer, during a commit: the events are
	// stored, or not. [Store.Commit] says how to find out.
	ErrUnknownOutcome = errors.New("it is not known whether the events were stored")
	// ErrClosed means that the store was closed, see [Store.Close].
	ErrClosed = errors.New("store is closed")
	// ErrNotMigrated means that the tables or functions of the store are not in the database.
	ErrNotMigrated = errors.New("database is not migrated")
	// ErrDenied means that the role of the connection lacks a right, see migrations.CreateRoles. Nothing was stored.
	ErrDenied = errors.New("the role lacks a right")
	// ErrReadOnly means that the server or the session takes no writes, for example on a standby. Nothing was stored.
	ErrReadOnly = errors.New("the server takes no writes")
	// ErrNoTidemark means that this server or transaction cannot know the tidemark, see [Store.Tidemark].
	ErrNoTidemark = errors.New("the tidemark is not known here")
	// ErrUnproven means that stored data may be hidden from a reader, see [UnprovenError].
	ErrUnproven = errors.New("stored data may be hidden from this reader")
	// ErrDiverged means that the log went back, see [DivergedError].
	ErrDiverged = errors.New("the log went back")
	// ErrNotFound means that no event was found, see [Store.Event].
	ErrNotFound = errors.New("no such event")
	// ErrSequenceBehind means that the sequence of positions is behind the log, see [SequenceError].
	ErrSequenceBehind = errors.New("the sequence of positions is behind the log")
	// ErrNoAnswer means that Postgres could not be reached, or did not answer, within some seconds. The connection
	// may be dead without an error from the network. A read can be tried again.
	ErrNoAnswer = pgpool.ErrNoAnswer
)

// The reasons of an [UnprovenError].
const (
	ReasonStandby   = "standby"            // the server is a standby, which may be behind the primary
	ReasonIsolation = "isolation"          // the transaction keeps its first snapshot: read the log at read committed
	ReasonSnapshot  = "snapshot"           // an event that was read before is not visible: the statement ran on another server, or on an older snapshot
	ReasonSecurity  = "row-level-security" // row level security applies to the reader
	ReasonRights    = "rights"             // the role has no right to read the table
)

// UnprovenError says that a statement cannot prove that it sees everything that is stored, and why. Nothing was
// returned, because an incomplete answer would be taken for a complete one. After the reasons standby and snapshot a
// later read may succeed.
type UnprovenError struct {
	Reason string // one of the reasons above
	Advice string // what to do; "" means: read again
	Err    error  // from Postgres
}

// Error names the reason, the error from Postgres and the advice.
func (e *UnprovenError) Error() string {
	text := fmt.Sprintf("%v (%s)", ErrUnproven, e.Reason)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Advice != "" {
		text += ": " + e.Advice
	}
	return text
}

// Unwrap returns [ErrUnproven] and the error from Postgres.
func (e *UnprovenError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrUnproven}
	}
	return []error{ErrUnproven, e.Err}
}

// DivergedError says that the log does not continue the events that a reader has read. The log went back, after a
// failover to a standby that was behind or after a restore, and other events may have been appended since. Some of
// the events that the reader has seen are not stored any more. Read again from an earlier position, or from the
// beginning.
type DivergedError struct {
	Position Position  // the position that the reader has read up to
	Seen     uuid.UUID // the id of the event that the reader has seen there
	Stored   uuid.UUID // the id of the event that is stored there now; zero if none is
}

// Error names the two events and the position, and says what to do.
func (e *DivergedError) Error() string {
	stored := "no event is there"
	if e.Stored != uuid.Nil {
		stored = fmt.Sprintf("event %s is there", e.Stored)
	}
	return fmt.Sprintf("%v: event %s was read at position %d, and now %s: after a failover that lost events, or a restore; read again from an earlier position",
		ErrDiverged, e.Seen, e.Position, stored)
}

// Unwrap returns [ErrDiverged].
func (e *DivergedError) Unwrap() error { return ErrDiverged }

// SequenceError says that the sequence of positions is behind the log, for example after a restore or a logical
// replication that left sequences out. Nothing was stored. Nothing can be appended, and nothing can be read from the
// log, until an operator has executed Repair. No process has to be restarted.
type SequenceError struct {
	Sequence Position // the position that the sequence is at
	Last     Position // the position of the last event of the log
	Repair   string   // the statements that set the sequence
}

// Error names the two positions and the repair.
func (e *SequenceError) Error() string {
	return fmt.Sprintf("the sequence of positions is at %d, behind position %d of the log; as the owner of the schema, execute (%s)",
		e.Sequence, e.Last, e.Repair)
}

// Unwrap returns [ErrSequenceBehind] and [ErrNoTidemark].
func (e *SequenceError) Unwrap() []error { return []error{ErrSequenceBehind, ErrNoTidemark} }

// ConflictError says that a stream was not at the expected version, or that a concurrent append was faster. Nothing
// was stored. Load again, decide again, append again.
type ConflictError struct {
	Stream   StreamID
	Expected Version
	// Actual is the version of the stream. It is Unknown if the unique index found the conflict: in a caller's
	// transaction above read committed, or in a commit to more than 1,000 streams.
	Actual Version
	// Replaced says that the stream is at the expected version, but with another event there, see [Change]. The log
	// went back, and events that the caller has read of the stream are not stored any more.
	Replaced bool
}

// Error names the stream with its expected and its actual version.
func (e *ConflictError) Error() string {
	if e.Replaced {
		return fmt.Sprintf("stream %s: its event at version %s is not the one that was decided on: the log went back after a failover or a restore",
			e.Stream, e.Expected)
	}
	if e.Actual == Unknown {
		return fmt.Sprintf("stream %s: a concurrent append was faster, expected version %s", e.Stream, e.Expected)
	}
	return fmt.Sprintf("stream %s is at version %s, expected %s", e.Stream, e.Actual, e.Expected)
}

// Unwrap returns [ErrConflict].
func (e *ConflictError) Unwrap() error { return ErrConflict }

// InvalidError says that an argument is not acceptable, and why. Nothing was stored.
type InvalidError struct {
	Reason string
}

// Error returns the reason.
func (e *InvalidError) Error() string { return e.Reason }

// Unwrap returns [ErrInvalid].
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// KeyReusedError says that an idempotency key was used before with other content. Nothing was stored.
type KeyReusedError struct {
	Key string
}

// Error names the key.
func (e *KeyReusedError) Error() string {
	return fmt.Sprintf("idempotency key %q was used before for something else", e.Key)
}

// Unwrap returns [ErrKeyReused].
func (e *KeyReusedError) Unwrap() error { return ErrKeyReused }

// KeySpentError says that a second commit was tried under an idempotency key in one attempt, see [WithKey]. Nothing
// of the second commit was stored. The events of the first commit stay stored.
type KeySpentError struct {
	Key           string
	First, Second []StreamID // streams of the two commits; Second is empty if its streams were not decided yet
}

// Error names the key and the streams, and says what to do.
func (e *KeySpentError) Error() string {
	second := "another commit"
	if len(e.Second) > 0 {
		second = fmt.Sprintf("the commit to %v", e.Second)
	}
	return fmt.Sprintf("idempotency key %q serves one commit, to %v: %s is a second one, and was not stored; "+
		"put both into one commit, or give the second one a key of its own with eventstore.WithStep, or none with WithoutKey", e.Key, e.First, second)
}

// Unwrap returns [ErrKeySpent].
func (e *KeySpentError) Unwrap() error { return ErrKeySpent }
