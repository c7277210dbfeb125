package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// DeadLetter is an event that a projection could not handle, or one that waits behind it because it
// has the same key.
type DeadLetter struct {
	Key      string
	Position eventstore.Position
	Stream   string
	Type     string
	// Error is why the event could not be handled, after so many Attempts; "" if it only waits.
	Error    string
	Attempts int
	// Data is the event's payload, and Edited what an operator has put in its place, nil if nobody has.
	Data, Edited json.RawMessage
	Waiting      int // events of the key behind this one
	RecordedAt   time.Time
}

// DeadLetterGroup are the dead letters of one kind.
type DeadLetterGroup struct {
	Error       string // its first line
	Count       int    // events that failed so
	Waiting     int    // events behind them
	First, Last eventstore.Position
	Since       time.Time
}

const lettersSQL = `
select l.key, l.position, e.stream, e.type, coalesce(l.error, ''), l.attempts, e.data, l.edited,
       (select count(*)
          from SCHEMA.dead_letters b
         where (b.projection, b.version, b.key) = (l.projection, l.version, l.key)
           and b.position > l.position),
       l.recorded_at
  from SCHEMA.dead_letters l
  join SCHEMA.events e on e.position = l.position
 where l.projection = $1
   and l.version = $2
   and (l.key = $3 or $3 = '' and not exists (
        select
          from SCHEMA.dead_letters b
         where (b.projection, b.version, b.key) = (l.projection, l.version, l.key)
           and b.position < l.position))
   and l.position > $4
 order by l.position
 limit $5`

const groupsSQL = `
select error, count(*)::int, sum(waiting)::int, min(position), max(position), min(recorded_at)
  from (select split_part(l.error, E'\n', 1) as error, l.position, l.recorded_at,
               (select count(*)
                  from SCHEMA.dead_letters b
                 where (b.projection, b.version, b.key) = (l.projection, l.version, l.key)
                   and b.error is null) as waiting
          from SCHEMA.dead_letters l
         where l.projection = $1
           and l.version = $2
           and l.error is not null) failed
 group by error
 order by count(*) desc, error`

// DeadLetters returns the events of a projection that could not be handled, in the order of
// positions after one, at most limit: for each key the one that the others wait for, or with a key
// all of that key. Version 0 is the live one.
func (r *Runner) DeadLetters(ctx context.Context, name string, version int, key string, after eventstore.Position, limit int) ([]DeadLetter, error) {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return nil, err
	}
	found, _ := r.pool.Query(ctx, r.sql(lettersSQL), name, v.options.Version, key, after, limit)
	letters, err := pgx.CollectRows(found, pgx.RowToStructByPos[DeadLetter])
	if err != nil {
		return nil, fmt.Errorf("projection %s: read its dead letters: %w", name, err)
	}
	return letters, nil
}

// DeadLetterGroups returns the dead letters of a projection by the first line of their error, the most
// frequent first. Version 0 is the live one.
func (r *Runner) DeadLetterGroups(ctx context.Context, name string, version int) ([]DeadLetterGroup, error) {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return nil, err
	}
	found, _ := r.pool.Query(ctx, r.sql(groupsSQL), name, v.options.Version)
	groups, err := pgx.CollectRows(found, pgx.RowToStructByPos[DeadLetterGroup])
	if err != nil {
		return nil, fmt.Errorf("projection %s: read its dead letters: %w", name, err)
	}
	return groups, nil
}

const letterKeysSQL = `
select key
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and (cardinality($3::text[]) = 0 or key = any ($3))
 group by key
 order by min(position)`

// Retry handles the dead letters of the given keys again, or of all if none is given, in their order: each
// key as far as it goes, after which its events are handled as they come. It returns how many events were handled, and
// the reasons why some were not, joined; those are still parked. Events go through the codec as it is
// now. Version 0 is the live one. This process does it, whichever has the lease of the partition, and exactly once.
func (r *Runner) Retry(ctx context.Context, name string, version int, keys ...string) (handled int, err error) {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return 0, err
	}
	found, _ := r.pool.Query(ctx, r.sql(letterKeysSQL), name, v.options.Version, append([]string{}, keys...))
	keys, err = pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return 0, fmt.Errorf("projection %s: read its dead letters: %w", name, err)
	}
	var failures []error
	for _, key := range keys {
		n, err := v.retry(ctx, key)
		handled += n
		if err != nil {
			failures = append(failures, fmt.Errorf("retry key %s: %w", key, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	r.changed.notify()
	return handled, errors.Join(failures...)
}

const headSQL = `
select position
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and key = $3
 order by position
 limit 1`

const editSQL = `
update SCHEMA.dead_letters
   set edited = $5
 where projection = $1
   and version = $2
   and key = $3
   and position = $4`

// Edit puts another payload in the place of a dead letter's, and retries its key with it. The event in
// the log stays as it is, and so does what the payload was in the audit. Version 0 is the live one.
func (r *Runner) Edit(ctx context.Context, name string, version int, key string, position eventstore.Position, data json.RawMessage) (handled int, err error) {
	if !json.Valid(data) {
		return 0, fmt.Errorf("%w: the payload is not JSON", ErrRefused)
	}
	v, err := r.find(ctx, name, version)
	if err != nil {
		return 0, err
	}
	err = r.operate(ctx, "edit", name, v.options.Version, func(tx pgx.Tx) (map[string]any, error) {
		done, err := tx.Exec(ctx, r.sql(editSQL), name, v.options.Version, key, position, string(data))
		if err == nil && done.RowsAffected() == 0 {
			err = fmt.Errorf("%w: the event at %d is no dead letter of key %s", ErrRefused, position, key)
		}
		return map[string]any{"key": key, "position": position, "data": data}, err
	})
	if err != nil {
		return 0, err
	}
	return r.Retry(ctx, name, version, key)
}

// Skip gives up the event that a key waits for, and retries what is behind it. The reason is for the audit. Version 0 is the
// live one.
func (r *Runner) Skip(ctx context.Context, name string, version int, key string, position eventstore.Position, reason string) (handled int, err error) {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return 0, err
	}
	if reason == "" {
		return 0, fmt.Errorf("%w: say why the event is skipped", ErrRefused)
	}
	err = r.operate(ctx, "skip", name, v.options.Version, func(tx pgx.Tx) (map[string]any, error) {
		var head eventstore.Position
		err := tx.QueryRow(ctx, r.sql(headSQL), name, v.options.Version, key).Scan(&head)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && head != position {
			return nil, fmt.Errorf("%w: the event that key %s waits for is at %d, not at %d", ErrRefused, key, head, position)
		}
		if err == nil {
			err = v.deleteLetters(ctx, tx, key, []eventstore.Position{position})
		}
		return map[string]any{"key": key, "position": position, "reason": reason}, err
	})
	if err != nil {
		return 0, err
	}
	return r.Retry(ctx, name, version, key)
}

const deleteLettersSQL = `
with gone as (
    delete from SCHEMA.dead_letters
     where projection = $1
       and version = $2
       and key = $3
       and position = any ($4)
    returning 1)
update SCHEMA.projection_partitions
   set parked = parked - (select count(*) from gone), handled = handled + $6
 where projection = $1
   and version = $2
   and partition = $5`

func (v *version) deleteLetters(ctx context.Context, tx pgx.Tx, key string, positions []eventstore.Position) error {
	_, err := tx.Exec(ctx, v.sql(deleteLettersSQL), v.name, v.options.Version, key, positions, v.partitionOf(key), 0)
	return err
}

const keyLettersSQL = `
select position, edited
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and key = $3
 order by position
 limit $4`

const failLetterSQL = `
update SCHEMA.dead_letters
   set error = $5, attempts = attempts + 1
 where projection = $1
   and version = $2
   and key = $3
   and position = $4`

// retryBatch is how many dead letters one transaction handles.
const retryBatch = 200

// errChanged means that somebody else has changed the dead letters of a key meanwhile.
var errChanged = errors.New("the dead letters were changed meanwhile")

const beginRetrySQL = `
insert into SCHEMA.projection_batches (id)
values ($1)`

const endRetrySQL = `
delete from SCHEMA.projection_batches
 where id = $1`

// retry handles the dead letters of one key, some in each transaction, until there are none or one
// fails again.
func (v *version) retry(ctx context.Context, key string) (handled int, err error) {
	select {
	case v.retries <- struct{}{}:
		defer func() { <-v.retries }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	size := retryBatch
	if v.effects {
		size = 1 // what has happened is noted at once
	}
	for limit := size; ; {
		letters, items, err := v.letters(ctx, key, limit)
		if err != nil || len(letters) == 0 {
			return handled, err
		}
		var failedAt int
		var failure error
		err = v.operate(ctx, "retry", v.name, v.options.Version, func(tx pgx.Tx) (map[string]any, error) {
			now, err := v.letterRows(ctx, tx, key, limit)
			if err != nil {
				return nil, err
			}
			if !reflect.DeepEqual(now, letters) {
				return nil, errChanged
			}
			if err := v.refuseOvertaking(ctx, tx, key, items); err != nil {
				return nil, err
			}
			batch := uuid.New() // makes a commit of the handler fail
			if _, err := tx.Exec(ctx, v.sql(beginRetrySQL), batch); err != nil {
				return nil, err
			}
			var phase string
			if err := tx.QueryRow(ctx, v.sql(phaseSQL), v.name, v.options.Version).Scan(&phase); err != nil {
				return nil, err
			}
			info := &batchInfo{projection: v.Projection, live: phase == phaseLive, inbox: v.sql(inboxSQL)}
			if failedAt, failure = v.redo(ctx, tx, items, info); failure != nil {
				failedAt = letterOf(letters, items, failedAt)
				return nil, failure
			}
			ended, err := tx.Exec(ctx, v.sql(endRetrySQL), batch)
			if err == nil && ended.RowsAffected() != 1 {
				failedAt, failure = len(letters)/2, errEnded
				err = failure
			}
			if err != nil {
				return nil, err
			}
			return map[string]any{"key": key, "events": len(letters)}, v.deleteItems(ctx, tx, key, letters)
		})
		switch {
		case err == nil:
			handled += len(letters)
			limit = size
		case errors.Is(err, errChanged), pgerr.Is(err, pgerr.Deadlock) && ctx.Err() == nil:
		case failure != nil && failedAt > 0: // what is before it can be done
			limit = failedAt
		case failure != nil:
			return handled, v.failLetter(ctx, key, failure)
		default:
			return handled, err
		}
	}
}

const overtakenSQL = `
select key
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and key = any ($3)
 limit 1`

// refuseOvertaking refuses to handle events that had no key when they were parked, and have one now
// that is parked itself.
func (v *version) refuseOvertaking(ctx context.Context, tx pgx.Tx, key string, items []item) error {
	var others []string
	for n := range items {
		if other := items[n].keyText(); other != key {
			others = append(others, other)
		}
	}
	if len(others) == 0 {
		return nil
	}
	var parked string
	err := tx.QueryRow(ctx, v.sql(overtakenSQL), v.name, v.options.Version, others).Scan(&parked)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: its event belongs to key %s, which is parked too: retry that one first", ErrRefused, parked)
	}
	return err
}

// letterOf returns which of the letters an item was.
func letterOf(letters []letterRow, items []item, n int) int {
	return slices.IndexFunc(letters, func(l letterRow) bool { return l.Position == items[n].raw.Position })
}

// letterRow is a dead letter, and what was put in the place of its payload.
type letterRow struct {
	Position eventstore.Position
	Edited   []byte
}

func (v *version) letterRows(ctx context.Context, db querier, key string, limit int) ([]letterRow, error) {
	found, _ := db.Query(ctx, v.sql(keyLettersSQL), v.name, v.options.Version, key, limit)
	return pgx.CollectRows(found, pgx.RowToStructByPos[letterRow])
}

// letters reads dead letters of a key, and the items they were.
func (v *version) letters(ctx context.Context, key string, limit int) ([]letterRow, []item, error) {
	rows, err := v.letterRows(ctx, v.pool, key, limit)
	if err != nil {
		return nil, nil, err
	}
	var items []item
	for _, letter := range rows {
		p, err := v.log.Next(ctx, letter.Position-1, eventstore.Filter{}, 1)
		if err != nil {
			return nil, nil, err
		}
		if len(p.Events) == 0 || p.Events[0].Position != letter.Position {
			return nil, nil, fmt.Errorf("there is no event at position %d of the log: was a backup restored?", letter.Position)
		}
		if letter.Edited != nil {
			p.Events[0].Data = letter.Edited
		}
		own := v.keyItems(&page{Page: p, decoded: make(map[any][]decoded)}, key)
		for n := range own {
			own[n].raw = &p.Events[0]
		}
		items = append(items, own...)
	}
	return rows, items, nil
}

// keyItems returns what the event of a page means to a key; nothing, now that it is edited or upcast
// by newer code, if it has no such key any more. An event that had no key when it was parked is all
// that it means to the keys it has now.
func (v *version) keyItems(p *page, key string) []item {
	for _, i := range v.items(p, 0, v.partitionOf(key)) {
		if i.keyText() == key || i.err != nil {
			return []item{i}
		}
	}
	if key != p.Events[0].Stream.String() {
		return nil
	}
	var items []item
	for partition := range v.options.Partitions {
		items = append(items, v.items(p, 0, partition)...)
	}
	return items
}

// redo handles items in a transaction, and returns which of them fails.
func (p *Projection) redo(ctx context.Context, tx pgx.Tx, items []item, info *batchInfo) (int, error) {
	var rows rows
	if p.table != nil {
		rows = p.table.open(len(items), false)
		if err := rows.load(ctx, tx, items, present(items)); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(context.WithValue(ctx, batchKey{}, info), time.Duration(len(items)+1)*p.options.Timeout, ErrTimeout)
	defer cancel()
	for n := range items {
		i := &items[n]
		info.item = i
		var err error
		switch {
		case i.source == nil: // nothing any more
		case rows != nil:
			err = rows.fold(i)
		case p.effects:
			err = callEffect(ctx, i)
		default:
			err = handleItem(ctx, tx, i, 0)
		}
		if err != nil {
			return n, &HandlerError{Projection: p.name, Stream: i.raw.Stream, Position: i.raw.Position, Type: i.raw.Type, Err: err}
		}
	}
	if rows != nil {
		if err := rows.flush(ctx, tx); err != nil {
			return len(items) / 2, err
		}
	}
	return 0, nil
}

const phaseSQL = `
select phase
  from SCHEMA.projections
 where name = $1
   and version = $2`

// present returns which of the items mean anything.
func present(items []item) (some []int) {
	for n := range items {
		if items[n].source != nil {
			some = append(some, n)
		}
	}
	return some
}

func (v *version) deleteItems(ctx context.Context, tx pgx.Tx, key string, letters []letterRow) error {
	var positions []eventstore.Position
	for _, l := range letters {
		positions = append(positions, l.Position)
	}
	_, err := tx.Exec(ctx, v.sql(deleteLettersSQL), v.name, v.options.Version, key, positions, v.partitionOf(key), len(letters))
	return err
}

// failLetter notes that the first dead letter of a key has failed again.
func (v *version) failLetter(ctx context.Context, key string, failure error) error {
	var position eventstore.Position
	if err := v.pool.QueryRow(ctx, v.sql(headSQL), v.name, v.options.Version, key).Scan(&position); err != nil {
		return errors.Join(failure, err)
	}
	var h *HandlerError
	reason := failure
	if errors.As(failure, &h) {
		reason = h.Err
	}
	_, err := v.pool.Exec(ctx, v.sql(failLetterSQL), v.name, v.options.Version, key, position, storable(reason.Error()))
	return errors.Join(failure, err)
}

// storable makes a text one that Postgres stores.
func storable(text string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", "�"), "�")
}

// RebuildKey folds one row of a [NewTable] projection from the events of its key, as when it was new, and puts it in the place of the
// one that is there. Its dead letters are handled with it. If one of the events cannot be folded nothing is changed.
// The whole log is read, most of it beside the live projection. Version 0 is the live one.
func (r *Runner) RebuildKey(ctx context.Context, name string, version int, key string) error {
	v, err := r.find(ctx, name, version)
	if err != nil {
		return err
	}
	if v.table == nil {
		return fmt.Errorf("projection %s: %w: only the rows of a table can be rebuilt one by one", name, ErrRefused)
	}
	if err := r.refuseInline(ctx, r.pool, name, v.options.Version); err != nil {
		return err
	}
	for {
		if err := r.rebuildKey(ctx, v, key); !pgerr.Is(err, pgerr.Deadlock) || ctx.Err() != nil {
			return err
		}
	}
}

func (r *Runner) rebuildKey(ctx context.Context, v *version, key string) error {
	name, rows := v.name, v.table.open(1, true)
	at, err := v.refold(ctx, rows, key, 0, func() (to eventstore.Position, err error) {
		return to, r.pool.QueryRow(ctx, r.sql(partitionAtSQL), name, v.options.Version, v.partitionOf(key)).Scan(&to)
	})
	if err != nil {
		return fmt.Errorf("rebuild key %s of projection %s: %w", key, name, err)
	}
	return r.operate(ctx, "rebuild key", name, v.options.Version, func(tx pgx.Tx) (map[string]any, error) {
		// The rest, now that nobody moves the checkpoint: operate has locked it.
		_, err := v.refold(ctx, rows, key, at, func() (to eventstore.Position, err error) {
			return to, tx.QueryRow(ctx, r.sql(partitionAtSQL), name, v.options.Version, v.partitionOf(key)).Scan(&to)
		})
		if err != nil {
			return nil, err
		}
		if err := rows.replace(ctx, tx, key); err != nil {
			return nil, err
		}
		_, err = tx.Exec(ctx, r.sql(deleteKeySQL), name, v.options.Version, key, v.partitionOf(key))
		return map[string]any{"key": key}, err
	})
}

const partitionAtSQL = `
select checkpoint
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2
   and partition = $3`

const deleteKeySQL = `
with gone as (
    delete from SCHEMA.dead_letters
     where projection = $1
       and version = $2
       and key = $3
    returning 1)
update SCHEMA.projection_partitions
   set parked = parked - (select count(*) from gone)
 where projection = $1
   and version = $2
   and partition = $4`

// refold folds the events of a key after a position, up to the partition's checkpoint.
func (v *version) refold(ctx context.Context, rows rows, key string, after eventstore.Position, end func() (eventstore.Position, error)) (eventstore.Position, error) {
	to, err := end()
	for err == nil && after < to {
		var p eventstore.Page
		if p, err = v.log.Next(ctx, after, eventstore.Filter{Types: v.types}, v.config.BatchSize); err != nil {
			break
		}
		for _, i := range v.items(&page{Page: p, decoded: make(map[any][]decoded)}, after, v.partitionOf(key)) {
			if i.keyText() != key || i.raw.Position > to {
				continue
			}
			if err := rows.load(ctx, v.pool, []item{i}, []int{0}); err != nil {
				return 0, err
			}
			if err := rows.fold(&i); err != nil {
				return 0, &HandlerError{Projection: v.name, Stream: i.raw.Stream, Position: i.raw.Position, Type: i.raw.Type, Err: err}
			}
		}
		after = min(p.Through, to)
	}
	return to, err
}
