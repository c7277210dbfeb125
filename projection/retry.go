package projection

import (
	"context"
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

// failLetter notes that a dead letter of a key has failed again.
func (v *version) failLetter(ctx context.Context, key string, failure error) error {
	var h *HandlerError
	if !errors.As(failure, &h) { // nobody knows which: the first one
		h = &HandlerError{Err: failure}
		if err := v.pool.QueryRow(ctx, v.sql(headSQL), v.name, v.options.Version, key).Scan(&h.Position); err != nil {
			return errors.Join(failure, err)
		}
	}
	_, err := v.pool.Exec(ctx, v.sql(failLetterSQL), v.name, v.options.Version, key, h.Position, storable(h.Err.Error()))
	return errors.Join(failure, err)
}

// storable makes a text one that Postgres stores.
func storable(text string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", "�"), "�")
}
