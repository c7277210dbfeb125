package aggregate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/isnil"
)

// Commit decides on several aggregates and appends all their events in one commit, or none.
//
// decide loads aggregates with [Repository.Load], and returns a change, made by [Loaded.Change], for each aggregate
// that it changes. After a conflict Commit calls decide again, so decide must do nothing except load and decide. Commit
// also calls decide again after an error of decide, if decide has loaded several aggregates and one of them has changed
// since. Any other error of decide is returned as it is.
//
// In a caller's transaction (eventstore.Store.WithTx) a conflict of the append is returned at once, because only the
// caller can try the transaction again. At isolation level read committed a conflict leaves the transaction usable,
// unless the commit is to more than 1,000 streams.
//
// The receipt has the version of the first change's aggregate, so the first change must be that of the aggregate
// that the caller is asked about. Its position is that of the whole commit: a read model that has reached it shows all
// of the changes. Changes without events are left out. If no change is left, nothing is appended and the receipt is zero.
//
// Of config only the bounds of retries and Observer.Conflict matter.
//
// If ctx has an idempotency key, and an earlier attempt has committed something under it, decide is not called and the
// receipt is that of the earlier commit. A second commit of one attempt is an eventstore.KeySpentError, see
// eventstore.WithKey.
func Commit(ctx context.Context, store Store, config *Config, decide func(context.Context) ([]eventstore.Change, error)) (eventstore.Receipt, error) {
	return commit(ctx, store, config, nil, decide)
}

// commit is [Commit]. about are the streams of the commit if they are known before the decision, otherwise nil.
func commit(ctx context.Context, store Store, config *Config, about []eventstore.StreamID, decide func(context.Context) ([]eventstore.Change, error)) (eventstore.Receipt, error) {
	if isnil.Any(store) || decide == nil {
		return eventstore.Receipt{}, refused("commit", "the store or decide is nil: pass the event store and a function")
	}
	if err := config.validate(); err != nil {
		return eventstore.Receipt{}, fmt.Errorf("aggregate: commit: %w", err)
	}
	attempts := 0
	try := func() ([]eventstore.Receipt, error) {
		attempts++
		receipts, err := commitOnce(ctx, store, about, decide)
		var conflict *eventstore.ConflictError
		observe := config.observer().Conflict
		if final := (*backoff.PermanentError)(nil); observe != nil && !errors.As(err, &final) && errors.As(err, &conflict) {
			observe(ctx, attempts, conflict)
		}
		return receipts, err
	}
	receipts, err := backoff.Retry(ctx, try,
		backoff.WithMaxTries(config.tries()), backoff.WithMaxElapsedTime(0), backoff.WithBackOff(config.wait()))
	if last, ok := err.(*backoff.PermanentError); ok { //nolint:errorlint // Retry returns it as it is; one inside is the application's own
		return eventstore.Receipt{}, last.Err
	}
	if err != nil && attempts > 1 && uint(attempts) == config.tries() {
		err = fmt.Errorf("aggregate: gave up after %d attempts: %w", attempts, err)
	}
	return whole(receipts), err
}

// whole returns the receipt of a whole commit: the first version and the last position.
func whole(receipts []eventstore.Receipt) (r eventstore.Receipt) {
	if len(receipts) > 0 {
		r.Version = receipts[0].Version
	}
	for _, each := range receipts {
		r.Position = max(r.Position, each.Position)
	}
	return r
}

// commitOnce decides and commits. Its error is permanent unless another attempt makes sense.
func commitOnce(ctx context.Context, store Store, about []eventstore.StreamID, decide func(context.Context) ([]eventstore.Change, error)) ([]eventstore.Receipt, error) {
	key, _ := eventstore.KeyFrom(ctx)
	repeats := key.Repeats(about...)
	// Look for the answer before deciding: a repeated withdrawal would find the account empty.
	if repeats {
		if receipts, ok, err := answer(ctx, store, key, about); ok || err != nil {
			return receipts, permanent(err)
		}
	}
	var seen loads
	changes, err := decide(context.WithValue(ctx, loadsKey{}, &seen))
	changes = slices.DeleteFunc(changes, func(c eventstore.Change) bool { return len(c.Events) == 0 })
	if err != nil || len(changes) == 0 {
		// Look again: a repeat may have been stored since, and decide may have seen its events.
		if repeats || key.Doubtful() {
			if receipts, ok, storedErr := answer(ctx, store, key, about); ok || storedErr != nil {
				return receipts, permanent(storedErr)
			}
		}
		if err != nil || seen.isCached() {
			if moved := seen.moved(ctx, store); moved != nil {
				return nil, moved
			}
		}
		return nil, permanent(err)
	}
	receipts, err := store.Commit(ctx, changes...)
	if inTx(store) || !errors.Is(err, eventstore.ErrConflict) {
		err = permanent(err) // only the caller can try its transaction again
	}
	return receipts, err
}

// answer returns the receipts of the commit that is stored under the key in ctx, and whether there is one.
func answer(ctx context.Context, store Store, key eventstore.Key, about []eventstore.StreamID) ([]eventstore.Receipt, bool, error) {
	receipts, ok, err := store.Receipts(ctx)
	if err != nil || !ok {
		return nil, false, err
	}
	if err := key.Answer(about...); err != nil {
		return nil, false, err
	}
	return receipts, true, nil
}

// inTx reports whether a store is bound to a caller's transaction.
func inTx(store Store) bool {
	tx, ok := store.(interface{ InTx() bool })
	return ok && tx.InTx()
}

// loads are the aggregates that a decision has loaded.
type loads []load

type load struct {
	*eventstore.ConflictError           // the conflict to return if the stream is no longer at the loaded version
	last                      uuid.UUID // the event at that version
	cached                    bool
}

type loadsKey struct{}

// loadedIn notes an aggregate that a decision within Commit has loaded.
func loadedIn(ctx context.Context, stream eventstore.StreamID, at eventstore.Version, last uuid.UUID, cached bool) {
	if seen, ok := ctx.Value(loadsKey{}).(*loads); ok {
		*seen = append(*seen, load{&eventstore.ConflictError{Stream: stream, Expected: at}, last, cached})
	}
}

func (l loads) isCached() bool {
	return slices.ContainsFunc(l, func(one load) bool { return one.cached })
}

// moved returns a conflict if a refusal may rest on an outdated state, or on states of different moments that the log
// never had together. For example, an order is not placed yet, but an item is already reserved for it. A refusal on one
// aggregate that was just loaded is always valid.
func (l loads) moved(ctx context.Context, store Store) error {
	if len(l) < 2 && !l.isCached() {
		return nil
	}
	for _, loaded := range l {
		moved, err := loaded.moved(ctx, store)
		switch {
		case err != nil && l.isCached():
			return permanent(fmt.Errorf("aggregate: check %s: %w", loaded.Stream, err))
		case err != nil:
			return nil // the refusal itself says more
		case moved:
			return fmt.Errorf("aggregate: %w", loaded.ConflictError)
		}
	}
	return nil
}

// moved reports whether the stream no longer ends with the event that it was loaded with: events were appended, or the
// log went back.
func (l *load) moved(ctx context.Context, store Store) (bool, error) {
	l.Actual = 0
	for event, err := range store.Read(ctx, l.Stream, eventstore.ReadOptions{After: max(l.Expected, 1) - 1, Limit: 2}) {
		if err != nil {
			return false, err
		}
		l.Actual = event.Version
		if event.Version == l.Expected && event.ID != l.last {
			l.Replaced = true
			return true, nil
		}
	}
	return l.Actual != l.Expected, nil
}

func permanent(err error) error {
	if err == nil {
		return nil
	}
	return backoff.Permanent(err)
}
