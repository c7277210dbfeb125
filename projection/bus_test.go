package projection_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestUnsubscribe: after unsubscribe the effect is not called again, not even for an event that was read in the same
// page as the last one.
func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store)
	const subscriptions = 50
	var calls atomic.Int64
	ended := make(chan struct{}, subscriptions)
	for range subscriptions {
		unsubscribe := make(chan func(), 1)
		un, err := r.Subscribe(t.Context(), projection.Effect(counting,
			func(context.Context, eventstore.Event[counted]) error {
				calls.Add(1)
				select {
				case un := <-unsubscribe:
					un()
					ended <- struct{}{}
				default: // it has unsubscribed already
				}
				return nil
			}))
		if err != nil {
			t.Fatal(err)
		}
		unsubscribe <- un
	}
	f.append(counting, 5)
	for range subscriptions {
		f.await("a call", ended)
	}
	h := newHeard()
	if _, err := r.Subscribe(t.Context(), projection.Effect(counting, h.effect)); err != nil {
		t.Fatal(err)
	}
	h.until(t, f.append(counting, 1)) // without unsubscribe, the other effects would get this event too
	if n := calls.Load(); n != subscriptions {
		t.Errorf("%d calls after unsubscribe", n-subscriptions)
	}
}

// brokenLog is a log that cannot be read while broken is set.
type brokenLog struct {
	*eventstore.Store
	broken atomic.Bool
}

func (l *brokenLog) Next(
	ctx context.Context, after eventstore.Mark, filter eventstore.Filter, limit int,
) (eventstore.Page, error) {
	if l.broken.Load() {
		return eventstore.Page{}, errors.New("the disk is on fire")
	}
	return l.Store.Next(ctx, after, filter, limit)
}

// TestSubscribeToABrokenLog: when events cannot be read, that is logged, and the subscription gets them later.
func TestSubscribeToABrokenLog(t *testing.T) {
	t.Parallel()
	f := setup(t)
	log := &brokenLog{Store: f.store}
	log.broken.Store(true)
	config, said := rollNotice("the disk is on fire")
	r, _ := f.start(config, log)
	h := newHeard()
	if _, err := r.Subscribe(t.Context(), projection.Effect(counting, h.effect)); err != nil {
		t.Fatal(err)
	}
	last := f.append(counting, 1)
	f.until("it is logged", said.Load)
	log.broken.Store(false)
	h.until(t, last)
}
