package projection_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// plainValue returns the number of an event, and an error if the number is bad.
func plainValue(e eventstore.Event[counted]) (any, error) {
	if e.Data.N == bad {
		return nil, errors.New("no value")
	}
	return e.Data.N, nil
}

// TestBatchAbandoned: when a handler never returns, the event that it was given is blamed, and not an event before it
// that is already parked.
func TestBatchAbandoned(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.put("a", bad, 2)
	last := f.put("b", 7)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	var calls atomic.Int32
	p := projection.New("p", &projection.Options{Timeout: 50 * time.Millisecond, MaxAttempts: 1}, projection.OnBatch(
		func(ctx context.Context, tx pgx.Tx, b projection.Batch) error {
			calls.Add(1)
			<-release
			return nil
		}, projection.Each(counting, nil, plainValue)))
	r, _ := f.start(quiet, f.store, p)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	if err := r.Wait(ctx, last); err != nil {
		t.Errorf("the projection makes no progress after %d calls: %v", calls.Load(), err)
	}
	f.equal("letters of a, whose value cannot be made", []string{"counter-a 1: 1 tries, 1 wait, no value", "counter-a 2: 0 tries, 0 wait, "},
		f.letters(r, "p", "counter-a", 0, 10))
	f.equal("letters of b, whose handler does not return",
		[]string{"counter-b 3: 1 tries, 0 wait, handling the event took longer than the projection's timeout, and its handler does not return"},
		f.letters(r, "p", "counter-b", 0, 10))
}

// TestRetryCountsEvents: an event that was parked under its stream and now has several keys counts as one event.
func TestRetryCountsEvents(t *testing.T) {
	t.Parallel()
	f := setup(t)
	b := f.book("book")
	b.broken.Store(true)
	keys := func(e eventstore.Event[change]) []string {
		if b.broken.Load() {
			return []string{""}
		}
		return e.Data.Keys
	}
	fold := func(row *entry, e eventstore.Event[change]) projection.Op {
		row.History = append(row.History, e.Data.N)
		return projection.Put
	}
	mk := func() *projection.Projection {
		return projection.NewTable("book", &projection.Options{DDL: "create table {book} (name text primary key, total bigint not null, history bigint[] not null)"},
			projection.FoldKeys(b.codecs[0], keys, fold), projection.FoldKeys(b.codecs[1], keys, fold))
	}
	r, _ := f.start(quiet, f.store, mk())
	f.wait(r, b.append(1, change{N: 1, Keys: []string{"a", "b", "c"}}))
	f.equal("handled", int64(0), f.status(r, "book").Handled)
	b.broken.Store(false)
	f.retry(r, 1, "book")
	f.equal("handled", int64(1), f.status(r, "book").Handled)
}

// TestBatchSlowParts: when the parts of one event are slow to handle, they are not repeated without end.
func TestBatchSlowParts(t *testing.T) {
	t.Parallel()
	f := setup(t)
	split := codec.New(codec.Split("counted", func(e counted) []counted { return []counted{{1}, {bad}} }))
	last := f.put("a", 0)
	var calls atomic.Int32
	p := projection.NewSubscription("p", &projection.Options{MaxAttempts: 1}, projection.EffectBatch(
		func(ctx context.Context, b projection.Batch) error {
			calls.Add(1)
			<-time.After(1100 * time.Millisecond)
			return nil
		}, projection.Each(split, func(e eventstore.Event[counted]) string {
			if e.Data.N == bad {
				return "z"
			}
			return "a"
		}, plainValue)))
	r, _ := f.start(quiet, f.store, p)
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	err := r.Wait(ctx, last)
	t.Logf("wait: %v; calls %d", err, calls.Load())
	if err != nil {
		t.Error("the event is handled again and again")
	}
}

// TestBatchOfOne: an error for a batch of one item is the error of that item.
func TestBatchOfOne(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.put("a", 0)
	last := f.append(other, 90)
	var calls atomic.Int32
	p := projection.NewSubscription("p", &projection.Options{MaxAttempts: 3}, projection.EffectBatch(
		func(ctx context.Context, b projection.Batch) error {
			if len(b.Items) != 1 {
				t.Errorf("%d items", len(b.Items))
			}
			calls.Add(1)
			return errors.New("it fails")
		}, projection.Each(counting, nil, plainValue)),
		projection.Effect(other, func(context.Context, eventstore.Event[counted]) error { return nil }))
	r, _ := f.start(quiet, f.store, p)
	f.wait(r, last)
	f.equal("calls of a batch with one item", int32(3), calls.Load())
}

// TestBatchIdle: when a batch handler leaves the transaction idle for too long, the partition looks for the event of
// the batch that is to blame.
func TestBatchIdle(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.put("a", 1)
	f.put("b", 2)
	last := f.put("c", 3)
	config := *quiet
	config.Lease = 300 * time.Millisecond
	var n atomic.Int32
	config.Observer.Failure = func(fa projection.Failure) {
		if n.Add(1) < 6 {
			t.Logf("failure class %s at %d parked %v: %v", fa.Class, fa.Position, fa.Parked, fa.Err)
		}
	}
	p := projection.New("p", &projection.Options{MaxAttempts: 1}, projection.OnBatch(
		func(ctx context.Context, tx pgx.Tx, b projection.Batch) error {
			for _, i := range b.Items {
				if i.Value == 3 { // only this event is slow
					<-time.After(900 * time.Millisecond)
				}
			}
			_, err := tx.Exec(ctx, `select`)
			return err
		}, projection.Each(counting, nil, plainValue)))
	r, _ := f.start(&config, f.store, p)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := r.Wait(ctx, last); err != nil {
		t.Errorf("no progress after %d failures: %v", n.Load(), err)
	}
	f.equal("letters of a", []string(nil), f.letters(r, "p", "counter-a", 0, 10))
	f.equal("letters of b", []string(nil), f.letters(r, "p", "counter-b", 0, 10))
	if c := f.letters(r, "p", "counter-c", 0, 10); len(c) != 1 || !strings.Contains(c[0], "counter-c 3: 1 tries, 0 wait, the handler left its transaction alone") {
		t.Errorf("letters of c: %q, want one for the handler that left its transaction alone", c)
	}
}
