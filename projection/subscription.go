package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/panics"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// EffectSource is a kind of events and their effect outside the database: see [Effect], [EffectAll] and [EffectBatch].
type EffectSource struct{ sources []source }

func sourcesOf(effects []EffectSource) (all []source) {
	for _, s := range effects {
		all = append(all, orEmpty(s.sources)...)
	}
	return all
}

// Effect says that a subscription calls do for the events whose types are in the codec, for example to send an e-mail
// or to call another service. The events of one stream come in order. Effect panics when the codec or do is nil, or the
// codec decodes no type.
func Effect[E any](c *codec.Codec[E], do func(context.Context, eventstore.Event[E]) error) EffectSource {
	mustHave("Effect", c, given{"the effect", do == nil})
	s := newSource(c)
	s.effect = func(ctx context.Context, d meaning) error {
		for _, event := range d.events.([]eventstore.Event[E]) {
			if err := do(ctx, event); err != nil {
				return err
			}
		}
		return nil
	}
	return EffectSource{[]source{s}}
}

// EffectAll says that a subscription calls do for all events of all types, as they are stored. EffectAll panics when do
// is nil. [NewSubscription] panics when it gets EffectAll together with other sources.
func EffectAll(do func(context.Context, eventstore.Raw) error) EffectSource {
	given{"the effect", do == nil}.must("EffectAll", "")
	return EffectSource{[]source{{
		all:   true,
		types: []string{allTypes},
		codec: "all events",
		decode: func(events []eventstore.Raw) []meaning {
			all := make([]meaning, len(events))
			for i, raw := range events {
				all[i] = meaning{index: i, events: raw}
			}
			return all
		},
		effect: func(ctx context.Context, d meaning) error { return do(ctx, d.events.(eventstore.Raw)) },
	}}}
}

// NewSubscription returns a projection without a read model. Its sources are made by [Effect], [EffectAll] or
// [EffectBatch]. An effect is called at least once for each event: after a crash, or when the lease was lost during a
// batch, it is called again for the events since the checkpoint. Changes that an effect makes in the same database are
// made exactly once if the effect asks [Once] in its transaction. Several processes that run a subscription of one name
// share its events.
//
// A subscription has no versions and is not rebuilt. With [Options.FromNow] it begins at the end of the log.
// NewSubscription panics like [New], and when options give a version above 1, tables or DDL.
func NewSubscription(name string, options *Options, sources ...EffectSource) *Projection {
	p := mustMake("NewSubscription", name, options, sourcesOf(sources))
	if p.options.Version != 1 {
		panic(fmt.Sprintf("projection.NewSubscription: projection %q: Options.Version is %d: a subscription has no versions, leave it out", name, p.options.Version))
	}
	if p.options.DDL != "" {
		panic(fmt.Sprintf("projection.NewSubscription: projection %q: Options.Tables is %q: a subscription has no tables, leave Tables and DDL out", name, p.options.Tables))
	}
	p.effects = true
	return p
}

// ErrNoEvent is returned by [Once] outside a handler, and in a handler that is given a [Batch].
var ErrNoEvent = errors.New("projection.Once: the context is not that of a handler of one event")

// Once reports whether an effect of the event that is being handled has not happened yet, and notes in tx that it
// happens now. Commit tx together with the changes that the effect makes in the database. The effect then happens
// exactly once, however often the event is handled, and whichever versions of the projection handle it. The text effect
// distinguishes several effects of one event.
//
// In a version that is not live Once reports false, because rebuilding must not repeat effects. There are two
// exceptions: events that the live version has not reached, and events that are among its dead letters. Their effects
// have not happened.
func Once(ctx context.Context, tx pgx.Tx, effect string) (first bool, err error) {
	b, ok := ctx.Value(batchKey{}).(*batchInfo)
	if !ok || b.item == nil {
		return false, ErrNoEvent
	}
	position := b.item.raw.Position
	due := b.live || len(b.liveAt) > 0 && position > slices.Min(b.liveAt)
	timeout := b.projection.options.Timeout
	first, err = b.catalog.Note(ctx, tx, b.projection.name, position, effect, due,
		catalog.NoteLimits{Wait: min(onceWait, timeout/2), Idle: timeout + abandonAfter})
	if pgerr.Is(err, pgerr.LockNotAvailable) {
		return false, Transient(fmt.Errorf("projection %s: the transaction of another process has noted that %q happens, and has not ended%s: %w",
			b.projection.name, effect, b.noting(ctx, tx), err))
	}
	if err != nil {
		return false, fmt.Errorf("projection %s: note that %q has happened: %w", b.projection.name, effect, err)
	}
	return first, nil
}

// noting describes the transaction, other than tx, that has probably noted the effect: the oldest one that has written
// to the inbox. It returns "" if Postgres cannot be asked.
func (b *batchInfo) noting(ctx context.Context, tx pgx.Tx) string {
	if b.pool == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, notingWithin) // this time is part of the event's time
	defer cancel()
	s, err := b.catalog.OldestNoter(ctx, b.pool, tx.Conn().PgConn().PID())
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (the oldest is that of process %d of Postgres: %q, %s)", s.PID, s.ApplicationName, s.State)
}

// notingWithin is how long it may take to find out which transaction Once waits for.
const notingWithin = 200 * time.Millisecond

// onceWait is how long Once waits for the transaction of another process that has noted the same effect.
const onceWait = 2 * time.Second

// errReadOnly is why no effect is called: the database could not note that the effect has happened.
var errReadOnly = errors.New("the database is read-only")

// effect calls the effects of the items, and moves the checkpoint past the items whose effects have happened.
func (b *batch) effect(ctx context.Context, conn *pgx.Conn, items []item) error {
	w := b.worker
	var token int64
	var readOnly bool
	err := w.engine.answered(ctx, func(ctx context.Context) (err error) {
		token, readOnly, err = w.engine.catalog.EffectToken(ctx, conn, w.projection.id(), w.number, w.proof)
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errFenced
	case err != nil:
		return err
	case readOnly:
		return Transient(errReadOnly)
	}
	if token != w.token { // the partition was paused or stolen while there was nothing to do
		return errFenced
	}
	happened, failed := b.callEffects(ctx, items)
	happened = wholeEvents(items, happened)
	b.watchdog.Stop()
	if happened == 0 {
		return failed
	}
	if happened < len(items) {
		b.cut(items[happened-1].raw.Position)
		b.recount(items[:happened])
	}
	// Effects that have happened are noted even if one effect took too long, or the runner is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: b.beginSQL()})
	if err != nil {
		return &failure{-1, err}
	}
	defer func() { _ = tx.Rollback(ctx) }() // without effect after the commit
	if err := b.finish(ctx, tx, nil); err != nil {
		return err
	}
	return failed
}

// recount counts the items that were handled: the items without a dead letter.
func (b *batch) recount(items []item) {
	parked := make(map[itemID]bool)
	for _, l := range b.letters {
		parked[itemID{l.Position, l.Key}] = true
	}
	b.handled = amount{}
	for n := range items {
		if i := &items[n]; !parked[itemID{i.raw.Position, i.keyText()}] {
			b.handled.add(i)
		}
	}
}

// callEffects calls the effects of the items until one fails or the context is done. It returns how many of the items
// need not be called again.
func (b *batch) callEffects(ctx context.Context, items []item) (happened int, err error) {
	info := &batchInfo{projection: b.worker.projection, live: b.worker.live, catalog: b.worker.engine.catalog, pool: b.worker.engine.pool}
	hctx := context.WithValue(ctx, batchKey{}, info)
	start := time.Now()
	for n := 0; n < len(items); {
		if ctx.Err() != nil { // the worker may not wait for this goroutine any more, and divert reads the worker's fields
			if wholeEvents(items, n) == 0 {
				err = &failure{n, context.Cause(ctx)}
			}
			return n, err // an effect that was not called has not failed
		}
		next, at, err := b.handleNext(hctx, nil, items, n, nil)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return max(n, at), &failure{at, err}
		}
		if n = next; n < len(items) && time.Since(start) > batchTime && items[n].raw.Position > items[n-1].raw.Position {
			return n, nil // note the effects that have happened, so that a crash repeats few of them
		}
	}
	return len(items), nil
}

func callEffect(ctx context.Context, i *item) (err error) {
	defer panics.Recover(&err)
	if i.meaning.err != nil {
		return i.meaning.err
	}
	return i.source.effect(eventstore.WithCause(eventstore.WithoutKey(ctx), *i.raw), i.meaning)
}
