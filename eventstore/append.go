package eventstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// The statements cast texts, so that they work in every mode of pgx. Poolers need the modes without prepared
// statements.
const groupSQL = `
select outcome, version, position
  from SCHEMA.append_group($1::int[], $2::text[], $3::bigint[], $4::int[], $5::int[], $6::text[]::uuid[], $7::text[],
                           $8::smallint[], $9::text[]::json[], $10::text[]::json[], $11::text[], $12::bytea[], $13::int,
                           $14::text[]::uuid[])`

const oneSQL = `
select SCHEMA.append_one($1, $2, $3::text::uuid, $4, $5, $6::text::json, $7::text::json, $8, $9::text::uuid)`

// Append stores events at the end of one stream, if the stream is at the expected version. It is [Store.Commit] with
// a single change.
func (s *Store) Append(ctx context.Context, stream StreamID, expected Version, events ...Draft) (Receipt, error) {
	receipts, err := s.Commit(ctx, Change{Stream: stream, Expected: expected, Events: events})
	if err != nil {
		return Receipt{}, err
	}
	return receipts[0], nil
}

// Commit stores the events of several streams, all of them or none, and returns a receipt per
// change in the same order. Positions follow the order of the changes and of their events.
//
// Concurrent calls share a transaction, but each call has its own outcome. Nothing was stored if Commit returns one
// of these errors:
//   - a [ConflictError]: a stream is not at its expected version
//   - an [InvalidError]: an argument is not acceptable
//   - a [KeyReusedError] or a [KeySpentError], see [WithKey]
//   - a [SequenceError], [ErrNotMigrated] or [ErrClosed]
//   - the error of Config.Check
//   - the error of ctx when ctx is done, unless the error is also [ErrUnknownOutcome]
//
// [ErrUnknownOutcome] means that the connection was lost while the events were being stored, or that no answer came
// within five seconds after ctx was done. If Postgres does not answer at all, this takes up to eight seconds. To find
// out, repeat the call: either under the same key, or with events that have the same ids and the same exact expected
// version. Events that are already stored are not stored again, and the receipts are the first ones. After a lost
// connection Commit repeats such calls itself.
//
// When appends with an exact expected version meet in one stream, the database decides: one succeeds, and the others
// get a ConflictError. Appends with Any and Exists queue and all succeed, provided that they run at isolation level
// read committed. If an open transaction (see [Store.WithTx]) has appended to a stream, an append to that stream
// waits for the end of the transaction, until ctx is done.
func (s *Store) Commit(ctx context.Context, changes ...Change) ([]Receipt, error) {
	observe := s.config.Observer.Append
	if observe == nil {
		return s.prepareAndCommit(ctx, changes)
	}
	start := time.Now()
	receipts, err := s.prepareAndCommit(ctx, changes)
	observe(ctx, AppendDone{changes, receipts, time.Since(start), err})
	return receipts, err
}

func (s *Store) prepareAndCommit(ctx context.Context, changes []Change) ([]Receipt, error) {
	if s.config.Service != "" {
		ctx = WithMetadata(ctx, Metadata{Source: s.config.Service})
	}
	prepared, err := Prepare(ctx, changes, s.config.MaxEventBytes)
	if err != nil {
		return nil, fmt.Errorf("eventstore: %w", err)
	}
	if s.config.Check != nil {
		if err := s.config.Check(ctx, prepared); err != nil {
			return nil, wrap(err, "the commit is refused by Config.Check")
		}
	}
	r := newRequest(ctx, prepared)
	if r.key == nil {
		return s.commit(ctx, r)
	}
	use, err := r.key.Use(changes...)
	if err != nil {
		return nil, err
	}
	receipts, err := s.commit(ctx, r)
	var earlier []StreamID
	if err == nil { // after an error a flusher may still be writing r.earlier
		earlier = r.earlier
	}
	ended := served
	if s.inTx {
		ended = inTx
	}
	if err := use.end(ended, earlier, err); err != nil {
		return nil, err
	}
	return receipts, nil
}

func (s *Store) commit(ctx context.Context, r *request) ([]Receipt, error) {
	if !s.inTx {
		return s.group.commit(r)
	}
	for !r.isAnswered() { // again if the key was purged after append_group had found it
		outcome, err := s.appendInTx(ctx, r)
		if err != nil {
			return nil, translateAppend(err, r.changes)
		}
		if err := r.settle(ctx, s.db, &s.sql, outcome); err != nil {
			return nil, err
		}
	}
	if r.err == nil { // readers look for the commit often
		s.news.spread()
		s.notifier.notify()
	}
	return r.receipts, r.err
}

// row is the answer of append_group for one change.
type row struct {
	Outcome  string
	Version  Version
	Position Position
}

func appendGroup(ctx context.Context, db querier, sql *statements, args []any) ([]row, error) {
	rows, err := db.Query(ctx, sql.group, args...)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if changes := len(args[1].([]string)); err == nil && len(all) != changes {
		err = fmt.Errorf("append_group answered %d changes with %d rows: does the function belong to this release?", changes, len(all))
	}
	return all, err
}

// appendArgs are the parameters of the SQL function append_group, as parallel arrays.
type appendArgs struct {
	requests []int32 // per change
	streams  []string
	expected []int64
	seen     []*string // empty, or per change the id of the event at the expected version, nil if not known

	changes []int32 // per event
	offsets []int32
	ids     []string
	types   []string
	schemas []int16
	data    []string
	metas   []*string // nil for an event without metadata

	keys     []*string // per request, or empty
	contents [][]byte
}

func newAppendArgs(batch []*request) *appendArgs {
	a := &appendArgs{keys: []*string{}, contents: [][]byte{}, seen: []*string{}}
	shared := make(map[string]int32) // how many events a stream has got in this group so far
	keyed := slices.ContainsFunc(batch, func(r *request) bool { return r.key != nil })
	proven := slices.ContainsFunc(batch, func(r *request) bool {
		return slices.ContainsFunc(r.changes, func(c Change) bool { return c.ExpectedID != uuid.Nil })
	})
	for n, r := range batch {
		for i, change := range r.changes {
			stream := r.names[i]
			a.requests = append(a.requests, int32(n+1))
			a.streams = append(a.streams, stream)
			a.expected = append(a.expected, int64(change.Expected))
			if proven {
				a.seen = append(a.seen, Mark{ID: change.ExpectedID}.id())
			}
			offset := int32(0)
			if r.shares {
				offset = shared[stream]
				shared[stream] += int32(len(change.Events))
			}
			for _, draft := range change.Events {
				offset++
				a.changes = append(a.changes, int32(len(a.streams)))
				a.offsets = append(a.offsets, offset)
				a.ids = append(a.ids, draft.ID.String())
				a.types = append(a.types, draft.Type)
				a.schemas = append(a.schemas, int16(draft.Schema))
				a.data = append(a.data, string(draft.Data))
				a.metas = append(a.metas, draft.Metadata.text())
			}
		}
		switch {
		case r.key != nil:
			a.keys, a.contents = append(a.keys, &r.key.Name), append(a.contents, r.key.Content[:])
		case keyed:
			a.keys, a.contents = append(a.keys, nil), append(a.contents, nil)
		}
	}
	return a
}

// group returns the parameters of append_group. patience is in milliseconds; nil means to wait without a limit.
func (a *appendArgs) group(patience any) []any {
	return []any{a.requests, a.streams, a.expected, a.changes, a.offsets, a.ids, a.types,
		a.schemas, a.data, a.metas, a.keys, a.contents, patience, a.seen}
}

// one returns the parameters of append_one, and false if the batch needs append_group.
func (a *appendArgs) one() ([]any, bool) {
	if len(a.ids) != 1 || len(a.streams) != 1 || len(a.keys) > 0 {
		return nil, false
	}
	var seen *string
	if len(a.seen) > 0 {
		seen = a.seen[0]
	}
	return []any{a.streams[0], a.expected[0], a.ids[0], a.types[0], a.schemas[0], a.data[0], a.metas[0], patience, seen}, true
}

// lostRace reports whether a concurrent transaction made the append fail. When it is sent again, the append may
// succeed, or fail with an error that says more.
func lostRace(err error) bool {
	return pgerr.Constraint(err) == "events_stream_version_key" ||
		pgerr.Is(err, pgerr.Deadlock, pgerr.SerializationFailure)
}

// translateAppend turns an error of the SQL function into an error of this package.
func translateAppend(err error, changes []Change) error {
	switch {
	case pgerr.Is(err, pgerr.Conflict):
		var detail struct {
			Stream           string
			Expected, Actual Version
		}
		if json.Unmarshal([]byte(pgerr.Detail(err)), &detail) == nil {
			if id, parseErr := ParseStreamID(detail.Stream); parseErr == nil {
				return fmt.Errorf("eventstore: %w", &ConflictError{Stream: id, Expected: detail.Expected, Actual: detail.Actual})
			}
		}
	case pgerr.Constraint(err) == "events_stream_version_key":
		change := changes[0] // Postgres names the stream only in the detail of its error
		for _, c := range changes[1:] {
			if strings.Contains(pgerr.Detail(err), "=("+c.Stream.String()+", ") {
				change = c
			}
		}
		return fmt.Errorf("eventstore: %w", &ConflictError{Stream: change.Stream, Expected: change.Expected, Actual: Unknown})
	}
	return translate(err, "append to stream %s", changes[0].Stream)
}

// translate turns an error from the database into an error of this package, if there is one for it. It adds what was
// being done.
func translate(err error, doing string, args ...any) error {
	doing = fmt.Sprintf(doing, args...)
	switch {
	case pgerr.NotMigrated(err):
		return fmt.Errorf("eventstore: %s: %w: call migrations.Up for its schema first, or correct Config.Schema: %w", doing, ErrNotMigrated, err)
	case pgerr.Is(err, pgerr.SequenceBehind):
		return fmt.Errorf("eventstore: %s: %w", doing, sequenceError(err))
	case pgerr.Is(err, pgerr.Unproven):
		return fmt.Errorf("eventstore: %s: %w", doing, unprovenError(err))
	case pgerr.Is(err, pgerr.Diverged):
		return fmt.Errorf("eventstore: %s: %w", doing, divergedError(err))
	case pgerr.Is(err, pgerr.NoTidemark):
		return fmt.Errorf("eventstore: %s: %w: %w", doing, ErrNoTidemark, unprovenError(err))
	case pgerr.Is(err, pgerr.InvalidArgument):
		return fmt.Errorf("eventstore: %s: %w: %w", doing, ErrInvalid, err)
	}
	return fmt.Errorf("eventstore: %s: %w", doing, explain(err))
}

// explain says what to do about an error whose cause is the environment.
func explain(err error) error {
	advice := pgerr.Advice(err)
	switch {
	case advice == "":
		return err
	case pgerr.Is(err, pgerr.InsufficientPrivilege):
		return fmt.Errorf("%w: %w (%s)", ErrDenied, err, advice)
	case pgerr.Is(err, pgerr.ReadOnly):
		return fmt.Errorf("%w: %w (%s)", ErrReadOnly, err, advice)
	}
	return fmt.Errorf("%w (%s)", err, advice)
}

// sequenceError reads the positions and the repair from the error of the SQL function.
func sequenceError(err error) error {
	var detail struct{ Sequence, Last Position }
	if json.Unmarshal([]byte(pgerr.Detail(err)), &detail) != nil {
		return fmt.Errorf("%w: %w", ErrSequenceBehind, err)
	}
	return &SequenceError{Sequence: detail.Sequence, Last: detail.Last, Repair: strings.TrimPrefix(pgerr.Hint(err), "Set it: ")}
}

// translateRead is translate for a statement that reads: without rights it may not see all events.
func translateRead(err error, doing string, args ...any) error {
	if pgerr.Is(err, pgerr.InsufficientPrivilege) {
		err = &UnprovenError{Reason: ReasonRights, Advice: "give the role the rights of a service, see migrations.CreateRoles", Err: err}
	}
	return translate(err, doing, args...)
}

// unprovenError reads the reason and the advice from the error of a SQL function.
func unprovenError(err error) error {
	return &UnprovenError{Reason: pgerr.Detail(err), Advice: pgerr.Hint(err), Err: err}
}

// divergedError reads the position and the ids from the error of the SQL function.
func divergedError(err error) error {
	var detail struct {
		Position     Position
		Seen, Stored uuid.UUID // zero if null in the JSON
	}
	if json.Unmarshal([]byte(pgerr.Detail(err)), &detail) != nil {
		return fmt.Errorf("%w: %w", ErrDiverged, err)
	}
	return &DivergedError{Position: detail.Position, Seen: detail.Seen, Stored: detail.Stored}
}
