package projection

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// DeadLetter is an event that a projection could not handle, or an event of the same key that waits behind it.
type DeadLetter struct {
	Key      string
	Position eventstore.Position
	Stream   string
	Type     string
	// Error is why the event could not be handled, after Attempts attempts; "" if the event only waits.
	Error    string
	Attempts int
	// Data is the event's payload; nil if the event is not in the log any more. Edited is the payload that an operator
	// has put in its place; nil if there is none.
	Data, Edited json.RawMessage
	Waiting      int // events of the key behind this one
	RecordedAt   time.Time
}

// DeadLetterGroup describes the dead letters of one kind: their errors differ only in details.
type DeadLetterGroup struct {
	Error       string // its first line, with … in place of parts that differ from event to event: numbers, ids, times, values
	Count       int    // events that failed with this error
	Waiting     int    // events behind them
	First, Last eventstore.Position
	Since       time.Time
}

const (
	maxEdit = eventstore.MaxCommitBytes / 4 // the largest payload of an event in the log
	maxList = 100_000                       // the longest list in one answer of Postgres
)

// DeadLetters returns dead letters of a projection with positions above after, in the order of positions. Without a key
// it returns the first dead letter of each key: the one that the others wait for. With a key it returns all dead
// letters of that key. It returns at most limit of them, and more only if several have the last position: an event that
// was split can have several dead letters, and these are returned together.
func (o *Operator) DeadLetters(
	ctx context.Context, ref Ref, key string, after eventstore.Position, limit int) ([]DeadLetter, error) {
	if limit < 1 || limit > maxList {
		return nil, invalid("limit %d: want from 1 to %d", limit, maxList)
	}
	id, err := o.find(ctx, "read dead letters", ref)
	if err != nil {
		return nil, err
	}
	rows, err := o.db.catalog.Letters(ctx, o.db.pool, id, key, after, limit)
	if err != nil {
		return nil, fmt.Errorf("projection %s: read its dead letters: %w", id.Name, err)
	}
	positions := make([]eventstore.Position, len(rows))
	for n, row := range rows {
		positions[n] = row.Position
	}
	events, err := o.db.log.eventsAt(ctx, positions...)
	if err != nil {
		return nil, fmt.Errorf("projection %s: read the events of its dead letters: %w", id.Name, err)
	}
	payloads := make(map[eventstore.Position]json.RawMessage, len(events))
	for _, e := range events {
		payloads[e.Position] = e.Data
	}
	letters := make([]DeadLetter, len(rows))
	for n, row := range rows {
		letters[n] = DeadLetter{
			Key: row.Key, Position: row.Position, Stream: row.Stream, Type: row.Type, Error: row.Error, Attempts: row.Attempts,
			Data: payloads[row.Position], Edited: row.Edited, Waiting: row.Waiting, RecordedAt: row.RecordedAt,
		}
	}
	slices.SortFunc(letters, func(a, b DeadLetter) int {
		return cmp.Or(cmp.Compare(a.Position, b.Position), cmp.Compare(a.Key, b.Key))
	})
	return letters, nil
}

// DeadLetterGroups returns the dead letters of a projection, grouped by the reason that they share, the most frequent
// reason first.
func (o *Operator) DeadLetterGroups(ctx context.Context, ref Ref) ([]DeadLetterGroup, error) {
	id, err := o.find(ctx, "read dead letters", ref)
	if err != nil {
		return nil, err
	}
	groups, err := o.db.catalog.LetterGroups(ctx, o.db.pool, id)
	if err != nil {
		return nil, fmt.Errorf("projection %s: read its dead letters: %w", id.Name, err)
	}
	return mergeGroups(groups), nil
}

// mergeGroups merges the groups that have the same reason.
func mergeGroups(groups []catalog.LetterGroup) []DeadLetterGroup {
	byReason := make(map[string]DeadLetterGroup)
	for _, row := range groups {
		g := DeadLetterGroup(row)
		g.Error = reasonOf(g.Error)
		if same, ok := byReason[g.Error]; ok {
			g.Count, g.Waiting = g.Count+same.Count, g.Waiting+same.Waiting
			g.First, g.Last = min(g.First, same.First), max(g.Last, same.Last)
			if same.Since.Before(g.Since) {
				g.Since = same.Since
			}
		}
		byReason[g.Error] = g
	}
	return slices.SortedFunc(maps.Values(byReason), func(a, b DeadLetterGroup) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Error, b.Error))
	})
}

// Retry handles the dead letters of the given keys again, or those of all keys if none is given. It handles each key in
// the order of positions, until an event fails again or the key has no dead letters left; new events of that key are
// then handled normally. Retry returns how many events were handled, and the joined errors of the keys that failed. The
// events of these keys stay parked. Events are decoded by the present codec. This process handles the events, whichever
// process has the lease of the partition, and handles them exactly once.
func (o *RunnerOperator) Retry(ctx context.Context, ref Ref, keys ...string) (handled int, err error) {
	v, err := o.find(ctx, "retry", ref)
	if err != nil {
		return 0, err
	}
	keys, err = o.db.catalog.LetterKeys(ctx, o.db.pool, v.projection.id(), keys)
	if err != nil {
		return 0, fmt.Errorf("projection %s: read its dead letters: %w", ref.Name, err)
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
	o.db.changed.Notify()
	return handled, errors.Join(failures...)
}

// Edit puts another payload in the place of a dead letter's payload, and retries the key with it. The event in the log
// stays as it is. Each payload that was put in its place is recorded in the audit. The new payload must not give the
// event another key: the retry then fails, and one of its errors is [ErrRefused].
func (o *RunnerOperator) Edit(ctx context.Context, ref Ref,
	key string, position eventstore.Position, data json.RawMessage) (handled int, err error) {
	if len(data) > maxEdit {
		return 0, invalid("the payload has %d bytes, at most %d are allowed", len(data), maxEdit)
	}
	if !json.Valid(data) {
		return 0, invalid("the payload is not JSON")
	}
	v, err := o.find(ctx, "edit", ref)
	if err != nil {
		return 0, err
	}
	err = o.db.operate(ctx, "edit", v.projection.id(), func(tx pgx.Tx) (map[string]any, error) {
		found, err := o.db.catalog.Edit(ctx, tx, v.projection.id(), key, position, string(data))
		if err == nil && !found {
			err = fmt.Errorf("%w: the event at %d is no dead letter of key %s", ErrRefused, position, key)
		}
		return map[string]any{"key": key, "position": position, "data": data}, err
	})
	if err != nil {
		return 0, err
	}
	return o.Retry(ctx, Ref{ref.Name, v.projection.options.Version}, key)
}

// Skip deletes the first dead letter of a key without handling it, and retries the events behind it. The reason is
// recorded in the audit.
func (o *RunnerOperator) Skip(ctx context.Context, ref Ref,
	key string, position eventstore.Position, reason string) (handled int, err error) {
	if reason == "" {
		return 0, invalid("say why the event at %d of projection %s is skipped", position, ref.Name)
	}
	v, err := o.find(ctx, "skip", ref)
	if err != nil {
		return 0, err
	}
	err = o.db.operate(ctx, "skip", v.projection.id(), func(tx pgx.Tx) (map[string]any, error) {
		first, err := o.db.catalog.KeyLetters(ctx, tx, v.projection.id(), key, 1)
		if err == nil && len(first) == 0 {
			return nil, fmt.Errorf("%w: key %s has no dead letter", ErrRefused, key)
		}
		if err == nil && first[0].Position != position {
			return nil, fmt.Errorf("%w: the event that key %s waits for is at %d, not at %d", ErrRefused, key, first[0].Position, position)
		}
		if err == nil {
			err = v.deleteLetters(ctx, tx, key, []int64{int64(position)}, 0)
		}
		return map[string]any{"key": key, "position": position, "reason": reason}, err
	})
	if err != nil {
		return 0, err
	}
	return o.Retry(ctx, Ref{ref.Name, v.projection.options.Version}, key)
}

// deleteLetters deletes dead letters of a key. handled is how many of them count as handled.
func (v *deployment) deleteLetters(ctx context.Context, tx pgx.Tx, key string, positions []int64, handled int) error {
	return v.engine.catalog.DeleteLetters(ctx, tx, v.projection.id(), v.projection.partitionOf(key), key, positions, handled)
}
