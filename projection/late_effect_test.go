package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestAbandonedEffect: an effect that returns after it was abandoned does not disturb its partition, which has
// continued. The race detector would find it.
func TestAbandonedEffect(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var returned atomic.Bool // any other synchronization with the effect would hide a race from the race detector
	options := &projection.Options{Timeout: 500 * time.Millisecond, MaxAttempts: 1, StopAfter: 1000}
	f.put("a", -1)
	f.put("b", 0, 0, 0)
	r, _ := f.start(quiet, f.store, projection.NewSubscription("mails", options, projection.Effect(counting,
		func(_ context.Context, e eventstore.Event[counted]) error {
			switch e.Data.N {
			case -1:
				time.Sleep(1800 * time.Millisecond) // the effect is abandoned after 1500 ms
				returned.Store(true)
			case -2:
				return errors.New("it is parked")
			}
			return nil
		})))
	want := 1
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for ; !returned.Load(); want++ {
		<-pace.C
		f.put(fmt.Sprint("c", want), -2)
	}
	f.wait(r, f.put("d", 0))
	if s := f.statusOf(r, "mails"); s.Parked != want {
		t.Errorf("%d events are parked, want %d", s.Parked, want)
	}
}

// TestSlowEffect: the event after one that took longer than the timeout is not given up before it is tried.
func TestSlowEffect(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := newHeard()
	last := f.append(counting, 5)
	options := &projection.Options{Timeout: 500 * time.Millisecond, MaxAttempts: 1}
	r, _ := f.start(quiet, f.store, projection.NewSubscription("mails", options, projection.Effect(counting,
		func(ctx context.Context, e eventstore.Event[counted]) error {
			if e.Data.N == 1 {
				<-ctx.Done() // longer than the timeout, but then the effect succeeds
			}
			return h.effect(ctx, e)
		})))
	f.wait(r, last)
	if diff := cmp.Diff(f.log("counted"), h.all()); diff != "" {
		t.Errorf("effects (-log +heard):\n%s", diff)
	}
	if s := f.statusOf(r, "mails"); s.Parked != 0 {
		t.Errorf("%d events are parked, want none", s.Parked)
	}
}
