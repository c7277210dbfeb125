package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// Texts are cast here, so that they can be sent in every mode of pgx, also in those without
// prepared statements that poolers need.
const appendSQL = `
select version, position
  from SCHEMA.append($1::text[], $2::bigint[], $3::int[], $4::text[]::uuid[], $5::text[], $6::smallint[],
                     $7::text[]::json[], $8::text[]::json[], $9::text, $10::bytea)`

const keySQL = `
select content, versions, positions
  from SCHEMA.append_keys
 where key = $1`

// maxRaces bounds how often a commit is sent again after a concurrent append was faster.
const maxRaces = 20

// Append stores events at the end of one stream, if it is at the expected version. It is
// [Store.Commit] with a single change.
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
// It returns a [ConflictError] when a stream is not at its expected version, an [InvalidError]
// for arguments that are not acceptable, a [KeyReusedError] (see [WithKey]) and
// [ErrNotMigrated]; in all these cases nothing was stored. After any other error, such as a lost
// connection, the events may have been stored or not: repeat the call under the same key to find
// out, or read the stream.
//
// Appends with an exact expected version that meet in one stream are decided by the database:
// one succeeds, the others get a ConflictError. With Any and Exists they queue and all succeed,
// provided that they run at isolation level read committed.
func (s *Store) Commit(ctx context.Context, changes ...Change) ([]Receipt, error) {
	changes, err := Prepare(ctx, changes, s.config.MaxEventBytes)
	if err != nil {
		return nil, fmt.Errorf("eventstore: %w", err)
	}
	args := newAppendArgs(ctx, changes)
	for races := 0; ; races++ {
		receipts, err := s.append(ctx, args)
		if err == nil {
			if !s.inTx {
				s.appended.notify()
			}
			return receipts, nil
		}
		// Nothing was stored. Sent again it either succeeds or learns the actual version.
		if !s.inTx && races < maxRaces && lostRace(err) {
			continue
		}
		if pgerr.Is(err, pgerr.KeyReused) {
			err = &KeyReusedError{Key: *args.key}
		}
		return nil, translateAppend(err, changes)
	}
}

// Stored returns the receipts of what was committed under the idempotency key in ctx, if
// anything was: a caller who has to decide before it appends looks here first. Without a key it
// returns false. It returns a [KeyReusedError] when the key was used with other content.
func (s *Store) Stored(ctx context.Context) ([]Receipt, bool, error) {
	key, ok := KeyFrom(ctx)
	if !ok {
		return nil, false, nil
	}
	if err := key.Validate(); err != nil {
		return nil, false, wrap(err, "look up")
	}
	rows, err := s.db.Query(ctx, s.sql.key, key.Name)
	if err != nil {
		return nil, false, translate(err, "look up idempotency key %q", key.Name)
	}
	type stored struct {
		Content             []byte
		Versions, Positions []int64
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[stored])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, translate(err, "look up idempotency key %q", key.Name)
	}
	if string(found.Content) != string(key.Content[:]) {
		return nil, false, &KeyReusedError{Key: key.Name}
	}
	receipts := make([]Receipt, len(found.Versions))
	for i := range receipts {
		receipts[i] = Receipt{Version(found.Versions[i]), Position(found.Positions[i])}
	}
	return receipts, true, nil
}

// appendArgs are the parameters of the SQL function append, as parallel arrays.
type appendArgs struct {
	streams  []string
	expected []int64

	changes []int32 // per event, the index into streams, from 1
	ids     []string
	types   []string
	schemas []int16
	data    []string
	metas   []*string // nil where there are none

	key     *string
	content []byte
}

func newAppendArgs(ctx context.Context, changes []Change) *appendArgs {
	a := new(appendArgs)
	for i, change := range changes {
		a.streams = append(a.streams, change.Stream.String())
		a.expected = append(a.expected, int64(change.Expected))
		for _, draft := range change.Events {
			a.changes = append(a.changes, int32(i+1))
			a.ids = append(a.ids, draft.ID.String())
			a.types = append(a.types, draft.Type)
			a.schemas = append(a.schemas, int16(draft.Schema))
			a.data = append(a.data, string(draft.Data))
			a.metas = append(a.metas, draft.Metadata.text())
		}
	}
	if key, ok := KeyFrom(ctx); ok {
		a.key, a.content = &key.Name, key.Content[:]
	}
	return a
}

func (s *Store) append(ctx context.Context, a *appendArgs) ([]Receipt, error) {
	rows, err := s.db.Query(ctx, s.sql.append, a.streams, a.expected,
		a.changes, a.ids, a.types, a.schemas, a.data, a.metas, a.key, a.content)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Receipt])
}

// lostRace reports whether a concurrent transaction made the append fail, so that it may
// succeed, or fail for a better reason, when it is sent again.
func lostRace(err error) bool {
	return pgerr.Constraint(err) == "events_stream_version_key" ||
		pgerr.Is(err, pgerr.Deadlock, pgerr.SerializationFailure)
}

// translateAppend turns an error of the SQL function into one of this package.
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
		change := changes[0] // of several, Postgres names the culprit only in its message
		for _, c := range changes[1:] {
			if strings.Contains(pgerr.Detail(err), "=("+c.Stream.String()+", ") {
				change = c
			}
		}
		return fmt.Errorf("eventstore: %w", &ConflictError{Stream: change.Stream, Expected: change.Expected, Actual: Any})
	}
	return translate(err, "append to stream %s", changes[0].Stream)
}

// translate turns an error from the database into one of this package where it has one, and says
// what was being done.
func translate(err error, doing string, args ...any) error {
	doing = fmt.Sprintf(doing, args...)
	switch {
	case pgerr.NotMigrated(err):
		return fmt.Errorf("eventstore: %s: %w: call migrations.Up first: %w", doing, ErrNotMigrated, err)
	case pgerr.Is(err, pgerr.NoTidemark):
		return fmt.Errorf("eventstore: %s: %w: %w (%s)", doing, ErrNoTidemark, err, pgerr.Hint(err))
	case pgerr.Is(err, pgerr.InvalidArgument):
		return fmt.Errorf("eventstore: %s: %w: %w", doing, ErrInvalid, err)
	}
	return fmt.Errorf("eventstore: %s: %w", doing, err)
}
