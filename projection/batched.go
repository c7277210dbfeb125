package projection

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/panics"
)

// Batch is a piece of the log that is handled at once: the next events of a partition, in the order of positions,
// without parked events. It has at most [Config.BatchSize] events. It has more items than events if some events have
// several keys.
type Batch struct {
	Projection Ref
	Partition  int
	// Token is the fencing token of the partition. It is higher for each new owner, so a broker that is given the token
	// can refuse former owners. It is 0 while an operator retries dead letters, because they are older than the events
	// handled since. It is also 0 while an append keeps the projection inline: each event is then a batch of its own.
	Token int64
	// After is the position that the partition had reached before the batch.
	After eventstore.Position
	Items []BatchItem
}

// BatchItem is an event of a [Batch].
type BatchItem struct {
	Event *eventstore.Raw // must not be changed
	Key   string
	Value any // the value that the function given to Each returned for the event
}

// BatchItemError says which item of a [Batch] could not be handled. Any other error of a batch with several events is
// blamed on no event: the batch is tried again in parts.
type BatchItemError struct {
	Item int // index in Batch.Items
	Err  error
}

// Error is the item's error. The runner names the event.
func (e *BatchItemError) Error() string { return e.Err.Error() }

// Unwrap returns the item's error.
func (e *BatchItemError) Unwrap() error { return e.Err }

// BatchSource is a kind of events that are handled in batches: see [Each].
type BatchSource struct{ source source }

// Each says that a batch gets the events whose types are in the codec, and which value it gets for each event. The
// function value must be pure. When it returns an error, the event becomes a dead letter. key is like the key of
// [OnKeyed]; nil means the stream. Each panics when value is nil, or the codec is nil or decodes no type.
func Each[E any](c *codec.Codec[E], key func(eventstore.Event[E]) string, value func(eventstore.Event[E]) (any, error)) BatchSource {
	mustHave("Each", c, given{"the value", value == nil})
	s := newSource(c)
	if key != nil {
		s = keyed(s, key, nil)
	}
	s.values = func(d meaning) (values []any, err error) {
		defer panics.Recover(&err)
		for _, event := range d.events.([]eventstore.Event[E]) {
			v, err := value(event)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		}
		return values, nil
	}
	return BatchSource{s}
}

// OnBatch says that a projection gives events to handle in batches, in the transaction that moves the checkpoint past
// them. One round trip can write what hundreds of events mean. [Options.Timeout] is for a whole batch. After an error
// nothing of the batch is stored. OnBatch panics when handle is nil.
func OnBatch(handle func(ctx context.Context, tx pgx.Tx, batch Batch) error, sources ...BatchSource) HandlerSource {
	given{"the handler", handle == nil}.must("OnBatch", "")
	return HandlerSource{together(&batchHandler{handle}, sources)}
}

// EffectBatch says that a subscription calls do for events in batches, for example to publish them. After a crash,
// events are given to do again, as with [Effect]. A [BatchItemError] says that the effects of the items before it have
// happened. After any other error the runner assumes that no effect of the batch has happened. EffectBatch panics when
// do is nil.
func EffectBatch(do func(ctx context.Context, batch Batch) error, sources ...BatchSource) EffectSource {
	given{"the effect", do == nil}.must("EffectBatch", "")
	handle := func(ctx context.Context, _ pgx.Tx, b Batch) error { return do(ctx, b) }
	return EffectSource{together(&batchHandler{handle}, sources)}
}

// batchHandler handles the items of all sources that share it.
type batchHandler struct {
	handle func(context.Context, pgx.Tx, Batch) error
}

func together(h *batchHandler, sources []BatchSource) []source {
	all := make([]source, len(sources))
	for n, s := range sources {
		all[n] = s.source
		all[n].batch = h
	}
	return all
}

// gathered is a batch, and for each of its items the item of the partition that it comes from.
type gathered struct {
	batch   Batch
	handler *batchHandler
	of      []int // for each item of the batch, the index of that item among the items given to gather, ascending
	handled amount
	next    int // index of the first item after the batch
}

// gather makes a batch of the items from the n-th on. The batch ends before an item with another handler, or an item
// that cannot be handled.
func (b *batch) gather(items []item, n int) (g gathered, err error) {
	w := b.worker
	g = gathered{handler: items[n].source.batch, next: n}
	g.batch = Batch{Projection: w.ref(), Partition: w.number, Token: w.token, After: w.read}
	if n > 0 {
		g.batch.After = items[n-1].raw.Position
	}
	for ; g.next < len(items) && items[g.next].source.batch == g.handler; g.next++ {
		i := &items[g.next]
		if b.divert(i) {
			continue
		}
		if err = g.add(i, g.next); err != nil {
			break
		}
	}
	if len(g.batch.Items) > 0 { // the items before it are handled first
		err = nil
	}
	return g, err
}

// add adds an item.
func (g *gathered) add(i *item, n int) error {
	if i.meaning.err != nil {
		return i.meaning.err
	}
	values, err := i.source.values(i.meaning)
	if err != nil {
		return err
	}
	g.handled.add(i)
	for _, v := range values {
		g.batch.Items = append(g.batch.Items, BatchItem{i.raw, i.keyText(), v})
		g.of = append(g.of, n)
	}
	return nil
}

// only returns the index of the item that the batch comes from, -1 if there are several, or none.
func (g *gathered) only() int {
	if len(g.of) == 0 || g.of[0] != g.of[len(g.of)-1] {
		return -1
	}
	return g.of[0]
}

// call gives the batch to its handler. On an error, at is the index of the item that failed, -1 if it is not known.
func (g *gathered) call(ctx context.Context, tx pgx.Tx) (at int, err error) {
	defer panics.Recover(&err)
	at = g.only()
	if len(g.batch.Items) == 0 {
		return at, nil
	}
	err = g.handler.handle(eventstore.WithoutKey(ctx), tx, g.batch)
	var which *BatchItemError
	if errors.As(err, &which) && which.Item >= 0 && which.Item < len(g.of) {
		return g.of[which.Item], err
	}
	return at, err
}

// tellBatch tells the observer that the items of a batch were handled, or which item failed.
func (w *worker) tellBatch(g *gathered, items []item, began time.Time, at int, err error) {
	if w.engine.config.Observer.Event == nil || len(g.of) == 0 {
		return
	}
	share := time.Since(began) / time.Duration(g.handled.items)
	for k, n := range g.of {
		if k > 0 && g.of[k-1] == n {
			continue
		}
		switch {
		case err == nil || at > n:
			w.tellEvent(&items[n], time.Now().Add(-share), nil)
		case at == n || at < 0:
			w.tellEvent(&items[n], time.Now().Add(-share), err)
		}
	}
}
