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
	// Data is the event's payload, nil if the event is not in the log any more, and Edited what an operator has put in
	// its place, nil if that was not done.
	Data, Edited json.RawMessage
	Waiting      int // events of the key behind this one
	RecordedAt   time.Time
}

// DeadLetterGroup are the dead letters of one kind.
type DeadLetterGroup struct {
	Error       string // its first line, with … for what differs from event to event: numbers, ids, times, values
	Count       int    // events that failed so
	Waiting     int    // events behind them
	First, Last eventstore.Position
	Since       time.Time
}

const (
	maxEdit = eventstore.MaxCommitBytes / 4 // what an event of the log may have
	maxList = 100_000                       // what one answer of Postgres may hold
)

// DeadLetters returns the events of a projection that could not be handled, in the order of positions after
// one, at most limit: for each key the one that the others wait for, or with a key all of that key. Those of
// one position, which an event has that was split, are never torn apart: for them there may be more.
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

// DeadLetterGroups returns the dead letters of a projection by the reason that they have in common, the most
// frequent first.
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

// mergeGroups puts the groups together that have one reason.
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

// Retry handles the dead letters of the given keys again, or of all if none is given, in their order: each
// key as far as it goes, after which its events are handled as they come. It returns how many events were
// handled, and the reasons why some were not, joined; those are still parked. Events go through the codec as
// it is now. This process does it, whichever has the lease of the partition, and
// exactly once.
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

// Edit puts another payload in the place of a dead letter's, and retries its key with it. The event in the
// log stays as it is, and every payload that was put in its place is in the audit. It must not give the
// event another key: then it fails, with [ErrRefused] among the reasons.
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

// Skip gives up the event that a key waits for, and retries what is behind it. The reason is for the audit.
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

// deleteLetters deletes dead letters of a key, of which some were handled.
func (v *deployment) deleteLetters(ctx context.Context, tx pgx.Tx, key string, positions []int64, handled int) error {
	return v.engine.catalog.DeleteLetters(ctx, tx, v.projection.id(), v.projection.partitionOf(key), key, positions, handled)
}
