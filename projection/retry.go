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
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

// maxRetried bounds how many dead letters one transaction handles.
const maxRetried = 200

// errChanged means that rows have changed between the time they were read and the time they were locked.
var errChanged = errors.New("the projection was changed at the same time")

// keyRetry handles some dead letters of one key in one transaction.
type keyRetry struct {
	deployment *deployment
	projection *Projection
	engine     *engine
	key        string
	letters    []catalog.KeyLetter
	items      []item // the items of the letters, in the order of positions
	done       int    // how many letters were handled before one failed, or how many letters to take next
}

// retry handles the dead letters of one key, some in each transaction, until there are none left or one fails again.
func (v *deployment) retry(ctx context.Context, key string) (handled int, err error) {
	select {
	case v.engine.retries <- struct{}{}:
		defer func() { <-v.engine.retries }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	size := maxRetried
	if v.projection.effects {
		size = 1 // an effect that has happened is noted before the next one is called
	}
	for limit := size; ; {
		t, err := v.toRetry(ctx, key, limit)
		if err != nil || len(t.letters) == 0 {
			return handled, err
		}
		retry := func(tx pgx.Tx) (map[string]any, error) {
			err := t.handle(ctx, tx)
			return map[string]any{"key": key, "events": t.done}, err
		}
		err = v.engine.db.operateOn(ctx, "retry", v.projection.id(), t.partitions(), retry)
		known := errors.As(err, new(*HandlerError))
		if err != nil && !known {
			t.done = len(t.letters) / 2 // the next attempt takes fewer letters
		}
		switch {
		case err == nil:
			handled += t.done
			limit = size
		case errors.Is(err, errChanged), pgerr.Is(err, pgerr.Deadlock) && ctx.Err() == nil:
		case ctx.Err() != nil || !known && !aboutEvent(err):
			return handled, err
		case t.done > 0: // the letters before the failed one can be handled
			limit = t.done
		default:
			return handled, t.fail(ctx, err)
		}
	}
}

// aboutEvent reports whether an error says that an event cannot be handled. It returns false if no event can be handled
// at the moment.
func aboutEvent(err error) bool {
	switch class := classify(err); {
	case class.ofAll():
		return false
	case class == poison:
		return true
	}
	return errors.As(err, new(*HandlerError)) || errors.As(err, new(*pgconn.PgError))
}

// toRetry reads dead letters of a key, and makes their items.
func (v *deployment) toRetry(ctx context.Context, key string, limit int) (*keyRetry, error) {
	rows, err := v.engine.catalog.KeyLetters(ctx, v.engine.pool, v.projection.id(), key, limit)
	if err != nil {
		return nil, err
	}
	t := &keyRetry{deployment: v, projection: v.projection, engine: v.engine, key: key, letters: rows, done: len(rows)}
	positions := make([]eventstore.Position, len(rows))
	for n, letter := range rows {
		positions[n] = letter.Position
	}
	events, err := v.engine.db.log.eventsAt(ctx, positions...)
	if err != nil {
		return nil, err
	}
	for n, letter := range rows {
		if n >= len(events) || events[n].Position != letter.Position {
			return nil, fmt.Errorf("there is no event at position %d of the log: was a backup restored?", letter.Position)
		}
		if letter.Edited != nil {
			events[n].Data = letter.Edited
		}
		p := eventstore.Page{Events: events[n : n+1 : n+1], Through: letter.Position, ID: events[n].ID}
		t.items = append(t.items, v.keyItems(feed.NewPage(0, p), key)...)
	}
	return t, nil
}

// keyItems returns the items of one event that belong to a key. There are none if the present codec splits the event
// into nothing. An event that was parked under its stream, because it had no key, yields the items of all keys that
// it has now. An event that does not belong to the key any more, because it was edited or the code has changed,
// yields an item that cannot be handled: only Skip drops events.
func (v *deployment) keyItems(p *feed.Page, key string) []item {
	raw := &p.Events[0]
	var items []item
	for n := range v.projection.options.Partitions { // the partition of the key is the most likely one
		for _, i := range v.projection.items(p, 0, (v.projection.partitionOf(key)+n)%v.projection.options.Partitions) {
			if i.meaning.err != nil || i.keyText() == key {
				i.key = key
				return []item{i}
			}
			items = append(items, i)
		}
	}
	var lost error
	switch {
	case len(items) == 0 && !v.projection.known[raw.Type]:
		lost = fmt.Errorf("%w: this process does not know events of type %q", ErrRefused, raw.Type)
	case len(items) > 0 && key != raw.Stream.String():
		lost = fmt.Errorf("%w: its key is %.100q now", ErrRefused, items[0].keyText())
	default:
		return items
	}
	return []item{{raw: raw, key: key, meaning: meaning{err: lost}}}
}

// partitions returns the partitions that the retry concerns. There can be several, because an event that had no key
// when it was parked may have other keys now.
func (t *keyRetry) partitions() []int32 {
	partitions := []int32{int32(t.projection.partitionOf(t.key))}
	for n := range t.items {
		partitions = append(partitions, int32(t.projection.partitionOf(t.items[n].keyText())))
	}
	return partitions
}

// handle handles the letters, or as many as it can within [batchTime].
func (t *keyRetry) handle(ctx context.Context, tx pgx.Tx) error {
	if err := t.deployment.allowIdle(ctx, tx); err != nil {
		return err
	}
	if err := t.check(ctx, tx); err != nil {
		return err
	}
	batch := uuid.New() // a handler that commits the transaction then fails
	if err := t.engine.catalog.Guard(ctx, tx, batch); err != nil {
		return err
	}
	phase, err := t.engine.catalog.Phase(ctx, tx, t.projection.id())
	if err != nil {
		return err
	}
	info := &batchInfo{projection: t.projection, live: phase == catalog.Live, catalog: t.engine.catalog, pool: t.engine.pool}
	n, err := t.projection.redoUntil(ctx, tx, t.items, info, time.Now().Add(batchTime))
	if n < len(t.items) {
		at := t.items[n].raw.Position
		t.done = slices.IndexFunc(t.letters, func(l catalog.KeyLetter) bool { return l.Position == at })
	}
	if err != nil {
		return err
	}
	same, err := t.engine.catalog.Unguard(ctx, tx, batch)
	if err == nil && !same {
		err = errEnded
	}
	if err != nil {
		return err
	}
	var positions []int64
	for _, l := range t.letters[:t.done] {
		positions = append(positions, int64(l.Position))
	}
	counts := make(map[int64]bool) // whether the event counts here; it may have been counted with its first key
	for _, i := range t.items {
		counts[int64(i.raw.Position)] = counts[int64(i.raw.Position)] || !i.further
	}
	handled := 0
	for _, at := range positions {
		if here, known := counts[at]; here || !known {
			handled++
		}
	}
	return t.deployment.deleteLetters(ctx, tx, t.key, positions, handled)
}

// check returns nil if the letters have not changed and may be handled.
func (t *keyRetry) check(ctx context.Context, tx pgx.Tx) error {
	now, err := t.engine.catalog.KeyLetters(ctx, tx, t.projection.id(), t.key, len(t.letters))
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(now, t.letters) {
		return errChanged
	}
	return t.refuseOvertaking(ctx, tx)
}

// allowIdle allows the transaction to be idle while the application's code runs.
func (v *deployment) allowIdle(ctx context.Context, tx pgx.Tx) error {
	idle := v.engine.config.Lease + v.projection.options.Timeout + batchTime
	set := fmt.Sprintf("set local idle_in_transaction_session_timeout = %d", idle.Milliseconds())
	_, err := tx.Exec(ctx, set)
	return err
}

// refuseOvertaking refuses events that were parked without a key, if the key that they have now has dead letters of its
// own.
func (t *keyRetry) refuseOvertaking(ctx context.Context, tx pgx.Tx) error {
	var others []string
	for n := range t.items {
		if other := t.items[n].keyText(); other != t.key {
			others = append(others, other)
		}
	}
	if len(others) == 0 {
		return nil
	}
	parked, err := t.engine.catalog.ParkedAmong(ctx, tx, t.projection.id(), others)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: its event belongs to key %s, which has dead letters too: retry that key first",
			ErrRefused, parked)
	}
	return err
}

// redo handles items in a transaction.
func (p *Projection) redo(ctx context.Context, tx pgx.Tx, items []item, info *batchInfo) (int, error) {
	return p.redoUntil(ctx, tx, items, info, time.Time{})
}

// redoUntil handles items in a transaction, and returns how many items it has handled. On an error it returns the
// number of items before the failed one, if that item is known. When the time until is over it leaves the remaining
// items, because other processes wait for the transaction.
func (p *Projection) redoUntil(
	ctx context.Context, tx pgx.Tx, items []item, info *batchInfo, until time.Time) (n int, err error) {
	ctx = context.WithValue(ctx, batchKey{}, info)
	var rows rowset.Rows
	if p.table != nil {
		rows = p.table.Open(len(items), false)
		if err := rows.Load(ctx, tx, keysOf(items...)); err != nil {
			return 0, err
		}
	}
	for ; n < len(items); n++ {
		i := &items[n]
		if n > 0 && !until.IsZero() && time.Now().After(until) && i.raw.Position > items[n-1].raw.Position {
			break
		}
		info.item = i
		if rows != nil && !i.isSettled(rows) {
			if err := rows.Flush(ctx, tx); err != nil {
				return n, err
			}
			rows.Flushed()
			if err := rows.Load(ctx, tx, keysOf(*i)); err != nil {
				return n, err
			}
		}
		if err := p.redoItem(ctx, tx, rows, i); err != nil {
			return n, p.handlerError(i, err)
		}
	}
	if rows == nil {
		return n, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.options.Timeout, ErrTimeout)
	defer cancel()
	return n, rows.Flush(ctx, tx)
}

func (p *Projection) handlerError(i *item, err error) error {
	return &HandlerError{p.name, i.raw.Stream, i.raw.Position, i.raw.Type, err}
}

func (p *Projection) redoItem(ctx context.Context, tx pgx.Tx, rows rowset.Rows, i *item) error {
	if i.meaning.err != nil {
		return i.meaning.err
	}
	if rows != nil {
		return i.foldInto(rows)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.options.Timeout, ErrTimeout)
	defer cancel()
	var err error
	if i.source.batch != nil {
		err = p.redoBatch(ctx, tx, i)
	} else {
		err = p.handleAlone(ctx, tx, i, newSaying())
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// redoBatch handles an item as a batch of its own.
func (p *Projection) redoBatch(ctx context.Context, tx pgx.Tx, i *item) error {
	infoOf(ctx).item = nil
	g := gathered{handler: i.source.batch}
	g.batch = Batch{Projection: Ref{p.name, p.options.Version}, Partition: p.partitionOf(i.keyText()), After: i.raw.Position - 1}
	if err := g.add(i, 0); err != nil {
		return err
	}
	_, err := p.handleTogether(ctx, tx, &g, newSaying())
	return err
}

// fail stores that the first of the letters has failed again, if the error is about its event.
func (t *keyRetry) fail(ctx context.Context, failure error) error {
	reason := failure
	var h *HandlerError
	if errors.As(failure, &h) {
		failure, reason = h, h.Err
	}
	if !aboutEvent(failure) {
		return failure
	}
	err := t.engine.catalog.FailLetter(ctx, t.engine.pool, t.projection.id(), t.key, t.letters[0].Position, letterText(reason))
	return errors.Join(failure, err)
}

// letterText returns the text of an error for a dead letter. Addresses, which differ each time, are replaced.
func letterText(err error) string { return storable(address.ReplaceAllString(err.Error(), "0x…")) }

// storable replaces the bytes of a text that Postgres cannot store.
func storable(text string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(text, "\x00", "�"), "�")
}
