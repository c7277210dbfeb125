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
const groupSQL = `
select outcome, version, position
  from SCHEMA.append_group($1::int[], $2::text[], $3::bigint[], $4::int[], $5::text[]::uuid[], $6::text[], $7::smallint[],
                           $8::text[]::json[], $9::text[]::json[], $10::int[], $11::text[], $12::bytea[], $13::int)`

const oneSQL = `
select version, position
  from SCHEMA.append_one($1, $2, $3::text::uuid, $4, $5, $6::text::json, $7::text::json, $8)`

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
// Concurrent calls share a transaction, yet each has an outcome of its own. It returns a
// [ConflictError] when a stream is not at its expected version, an [InvalidError] for arguments
// that are not acceptable, a [KeyReusedError] (see [WithKey]), [ErrNotMigrated], [ErrClosed] and,
// when ctx is done before the events are sent, its error; in all these cases nothing was stored.
// [ErrUnknownOutcome] means that the connection was lost while they were being stored. Repeat the
// call to find out, under the same key or with events that have the same ids and the same exact
// expected version: what is there already is not stored again, and the receipts are the first ones.
//
// Appends with an exact expected version that meet in one stream are decided by the database:
// one succeeds, the others get a ConflictError. With Any and Exists they queue and all succeed,
// provided that they run at isolation level read committed.
func (s *Store) Commit(ctx context.Context, changes ...Change) ([]Receipt, error) {
	changes, err := Prepare(ctx, changes, s.config.MaxEventBytes)
	if err != nil {
		return nil, fmt.Errorf("eventstore: %w", err)
	}
	r := newRequest(ctx, changes)
	if !s.inTx {
		return s.group.commit(r)
	}
	receipts, err := appendAlone(ctx, s.db, s.sql.append, newAppendArgs(r), 0)
	if err != nil {
		return nil, translateAppend(err, changes)
	}
	return receipts, nil
}

// appendAlone stores one commit. It is sent again, up to races times, when a concurrent one was
// faster: then it either succeeds or learns the actual version.
func appendAlone(ctx context.Context, db querier, sql string, args *appendArgs, races int) ([]Receipt, error) {
	for {
		rows, err := db.Query(ctx, sql, args.alone()...)
		var receipts []Receipt
		if err == nil {
			receipts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Receipt])
		}
		if err == nil || races == 0 || !lostRace(err) {
			return receipts, err
		}
		races--
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

// appendArgs are the parameters of the SQL functions append_group and append, as parallel arrays.
type appendArgs struct {
	requests []int32 // per stream, the request it belongs to, from 1
	streams  []string
	expected []int64

	changes []int32 // per event, the index into streams, from 1
	ids     []string
	types   []string
	schemas []int16
	data    []string
	metas   []*string // nil where there are none

	slots []int32 // per stream, the index that it has first, from 1; empty if all differ

	keys     []*string // per request, nil where there is none; empty if there is none at all
	contents [][]byte
}

func newAppendArgs(requests ...*request) *appendArgs {
	a := new(appendArgs)
	first := make(map[string]int32)
	for n, r := range requests {
		for i, change := range r.changes {
			stream := r.names[i]
			a.requests = append(a.requests, int32(n+1))
			a.streams = append(a.streams, stream)
			if _, twice := first[stream]; !twice {
				first[stream] = int32(len(a.streams))
			}
			a.slots = append(a.slots, first[stream])
			a.expected = append(a.expected, int64(change.Expected))
			for _, draft := range change.Events {
				a.changes = append(a.changes, int32(len(a.streams)))
				a.ids = append(a.ids, draft.ID.String())
				a.types = append(a.types, draft.Type)
				a.schemas = append(a.schemas, int16(draft.Schema))
				a.data = append(a.data, string(draft.Data))
				a.metas = append(a.metas, draft.Metadata.text())
			}
		}
		if r.key != nil && a.keys == nil {
			a.keys, a.contents = make([]*string, len(requests)), make([][]byte, len(requests))
		}
		if r.key != nil {
			a.keys[n], a.contents[n] = &r.key.Name, r.key.Content[:]
		}
	}
	if len(first) == len(a.streams) {
		a.slots = nil
	}
	return a
}

// group returns the parameters of append_group.
func (a *appendArgs) group(patience int) []any {
	slots, keys, contents := a.slots, a.keys, a.contents
	if slots == nil { // which would be sent as null
		slots = []int32{}
	}
	if keys == nil {
		keys, contents = []*string{}, [][]byte{}
	}
	return []any{a.requests, a.streams, a.expected, a.changes, a.ids, a.types, a.schemas, a.data, a.metas, slots, keys, contents, patience}
}

// one returns the parameters of append_one, if it is for that.
func (a *appendArgs) one(patience int) ([]any, bool) {
	if len(a.ids) != 1 || a.keys != nil {
		return nil, false
	}
	return []any{a.streams[0], a.expected[0], a.ids[0], a.types[0], a.schemas[0], a.data[0], a.metas[0], patience}, true
}

// alone returns the parameters of append.
func (a *appendArgs) alone() []any {
	var key *string
	var content []byte
	if a.keys != nil {
		key, content = a.keys[0], a.contents[0]
	}
	return []any{a.streams, a.expected, a.changes, a.ids, a.types, a.schemas, a.data, a.metas, key, content}
}

// lostRace reports whether a concurrent transaction made the append fail, so that it may
// succeed, or fail for a better reason, when it is sent again.
func lostRace(err error) bool {
	return pgerr.Constraint(err) == "events_stream_version_key" ||
		pgerr.Is(err, pgerr.Deadlock, pgerr.SerializationFailure)
}

// translateAppend turns an error of the SQL function append into one of this package.
func translateAppend(err error, changes []Change) error {
	switch {
	case pgerr.Is(err, pgerr.KeyReused):
		return fmt.Errorf("eventstore: append to stream %s: %w", changes[0].Stream, &KeyReusedError{Key: pgerr.Detail(err)})
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
