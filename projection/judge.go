package projection

import (
	"context"
	"errors"
	"slices"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// judge decides what to do about a batch that failed. It returns nil if the next step acts on the decision at once.
// Otherwise it returns an error, and the worker pauses and tries again.
//
//	class of the error            the item that failed is known        it is not known
//	fatal, unable                 nothing is committed                 nothing is committed
//	transient                     items before it are committed,       the whole batch is tried again
//	                              then it is tried again
//	poison, any error of a fold   items before it are committed,       smaller batches, until one event is left
//	                              then it becomes a dead letter
//	unclear                       the same after MaxAttempts           smaller batches, until one event is left
func (w *worker) judge(ctx context.Context, items []item, f *failure) error {
	n, parts := w.pending.items+len(items), 1 // how many items can have failed, and how many fail together
	if w.pending.items == 0 && f.at < 0 && isOneEvent(items) {
		parts = len(items)
	}
	found := finding{
		class: classify(f.err), fenced: fenced(f.err), named: f.at >= 0, alone: len(items) > 0 && n == parts,
		fold: w.projection.table != nil && f.at >= 0, maxAttempts: w.projection.options.MaxAttempts,
	}
	switch found.verdict() {
	case retryBatch:
		return f.err
	case halve:
		w.maxItems, w.halved = half(n, w.maxItems), true
		w.forget()
		return nil
	}
	return w.judgeItem(ctx, items, max(f.at, 0), parts, found, f.err)
}

// judgeItem decides what to do about an item that failed. parts is more than 1 if the items of one event were handled
// together, and it is not known which of them failed.
func (w *worker) judgeItem(ctx context.Context, items []item, at, parts int, found finding, why error) error {
	i := &items[at]
	position := i.raw.Position
	err := w.projection.handlerError(i, why)
	if found.class.ofAll() && found.class != transient {
		return err
	}
	first := w.handleFirst(items, position, found.fold)
	if found.class == transient {
		return err
	}
	if w.isEnvironment(ctx, position, why) {
		return Transient(err)
	}
	w.passed(items[:at])
	w.attempts[position]++
	w.forget()
	found.attempts = w.attempts[position]
	if found.verdict() == giveUp {
		return w.poisonItems(items[at:at+parts], why, err)
	}
	if first {
		return nil
	}
	return err
}

// poisonItems makes items become dead letters in the next step. It returns an error instead if the events of too many
// keys have failed for the same reason.
func (w *worker) poisonItems(items []item, why, err error) error {
	position, key := items[0].raw.Position, items[0].keyText()
	if stop := w.drained(key, position, err); stop != nil {
		return stop
	}
	for n := range items {
		w.poison[itemID{position, items[n].keyText()}] = failedItem{why, w.attempts[position]}
	}
	w.tellFailure(err, true)
	w.engine.logger.Error("projection cannot handle an event: the event and the later events of its key become dead letters",
		"projection", w.projection.name, "version", w.projection.options.Version, "key", key, "attempts", w.attempts[position], "error", err)
	return nil
}

// handleFirst arranges that the events before an event that has failed are handled and committed without it. It reports
// whether the next step gives them to handlers.
func (w *worker) handleFirst(items []item, position eventstore.Position, fold bool) bool {
	earlier := slices.IndexFunc(items, func(i item) bool { return i.raw.Position == position })
	w.until = 0
	switch {
	case fold && (earlier > 0 || w.pending.items > 0):
		w.until = position
	case earlier > 0 && w.projection.table == nil && !w.projection.effects:
		w.maxItems, w.halved = earlier, false
		return true
	}
	return false
}

// isOneEvent reports whether all items belong to one event. Such items are handled together.
func isOneEvent(items []item) bool {
	last := len(items) - 1
	return last >= 0 && items[0].raw.Position == items[last].raw.Position
}

// failed records that the partition makes no progress, and stops the projection if another attempt would fail too. The
// log comes last, so that an operator who reads the log finds the same failure in the status.
func (w *worker) failed(ctx context.Context, err error) {
	w.failing = true
	w.deployment.failed(w.number, err)
	w.tellFailure(err, false)
	var at *int64
	var h *HandlerError
	if errors.As(err, &h) {
		at = new(int64)
		*at = int64(h.Position)
	}
	does := "projection failed and will be tried again"
	f := catalog.Failure{ID: w.projection.id(), Partition: w.number, Token: max(w.token, w.leased), Error: storable(err.Error()), At: at}
	switch classify(err) {
	case unable:
		if w.deployment.giveAway(err) {
			does = "projection failed: this process leaves it to other processes"
			defer w.engine.db.changed.Notify()
		}
	case fatal:
		does = "projection has stopped: remove the reason and call Operator.Resume"
		f.Stop = true
	}
	// If Postgres is away the failure cannot be stored.
	_ = w.engine.answered(ctx, func(ctx context.Context) error { return w.engine.catalog.Fail(ctx, w.engine.db.send, f) })
	w.engine.logger.ErrorContext(ctx, does,
		"projection", w.projection.name, "version", w.projection.options.Version, "partition", w.number, "checkpoint", w.checkpoint, "error", err)
}
