package projection_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestBatch: a batch has the events of several codecs in the order of the log, each with its key and its value. It does
// not have events that cannot be handled. It has its projection and partition, its fencing token, and the position that
// was reached before it.
func TestBatch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var mu sync.Mutex
	var batches []projection.Batch
	value := func(e eventstore.Event[counted]) (any, error) {
		if e.Data.N == bad {
			return nil, errors.New("no value")
		}
		return fmt.Sprint(e.Type, " ", e.Data.N), nil
	}
	relay := projection.NewSubscription("relay", nil, projection.EffectBatch(func(ctx context.Context, b projection.Batch) error {
		mu.Lock()
		defer mu.Unlock()
		batches = append(batches, b)
		_, err := projection.Once(ctx, nil, "effect")
		if !errors.Is(err, projection.ErrNoEvent) {
			return fmt.Errorf("Once: %w", err)
		}
		return nil
	}, projection.Each(counting, nil, value), projection.Each(other, func(eventstore.Event[counted]) string { return "k" }, value)))
	f.put("a", 1, bad, 2)
	f.append(other, 2)
	last := f.put("b", 4)
	r, stop := f.start(quiet, f.store, relay)
	f.wait(r, last)
	mu.Lock()
	var all []string
	token := batches[0].Token
	for _, b := range batches {
		if b.Projection != (projection.Ref{Name: "relay", Version: 1}) || b.Partition != 0 || b.Token != token || token == 0 || b.After >= b.Items[0].Event.Position {
			t.Errorf("batch %+v", b)
		}
		for _, i := range b.Items {
			all = append(all, fmt.Sprint(i.Event.Position, " ", i.Key, ": ", i.Value))
		}
	}
	if len(batches) > 3 {
		t.Errorf("%d batches, want one before the event that has no value, and one or two after it", len(batches))
	}
	batches = nil
	mu.Unlock()
	want := []string{"1 counter-a: counted 1", "4 k: other 0", "5 k: other 1", "6 counter-b: counted 4"}
	if got := slices.Compact(slices.Sorted(slices.Values(all))); !slices.Equal(got, want) {
		t.Errorf("items\n%q, want\n%q", got, want)
	}
	f.equal("dead letters", []string{"counter-a 2: 3 tries, 1 wait, no value"}, f.letters(r, "relay", "", 0, 10))

	if n, err := r.Operator().Skip(t.Context(), projection.Ref{Name: "relay", Version: projection.Live}, "counter-a", 2, "a test"); n != 1 || err != nil {
		t.Errorf("skip: %d, %v; want 1: the event behind it", n, err)
	}
	mu.Lock()
	if len(batches) != 1 || len(batches[0].Items) != 1 || batches[0].Token != 0 || batches[0].Items[0].Value != "counted 2" {
		t.Errorf("a dead letter is handled as %+v", batches)
	}
	mu.Unlock()
	stop()
	r, _ = f.start(quiet, f.store, relay)
	f.wait(r, f.put("b", 5))
	mu.Lock()
	defer mu.Unlock()
	if later := batches[len(batches)-1]; later.Token <= token || later.After < last {
		t.Errorf("after a restart the token is %d, and the batch begins after %d; want more than %d, and %d", later.Token, later.After, token, last)
	}
}

// TestBatchTogether: one statement writes a thousand events, in the transaction of their checkpoint. When the handler
// returns an error that names no event, no good event is blamed.
func TestBatchTogether(t *testing.T) {
	t.Parallel()
	f := setup(t)
	calls, refuse := 0, true
	p := projection.New("together", &projection.Options{Tables: []string{"written"}, DDL: `create table {written} (position bigint primary key)`},
		projection.OnBatch(func(ctx context.Context, tx pgx.Tx, b projection.Batch) error {
			calls++
			var positions []int64
			poison := false
			for _, i := range b.Items {
				positions = append(positions, int64(i.Event.Position))
				poison = poison || i.Value == bad
			}
			_, err := tx.Exec(ctx, `insert into {written} select unnest($1::bigint[])`, positions)
			if err == nil && poison && refuse {
				err = errors.New("one of them is bad")
			}
			return err
		}, projection.Each(counting, nil, func(e eventstore.Event[counted]) (any, error) { return e.Data.N, nil })))
	numbers := make([]int, 900)
	f.put("good", numbers...)
	f.put("bad", bad)
	last := f.put("fine", numbers[:99]...)
	r, _ := f.start(quiet, f.store, p)
	f.wait(r, last)
	f.equal("rows", 999, count(f, `select position from written`))
	f.equal("dead letters", []string{"counter-bad 901: 3 tries, 0 wait, one of them is bad"}, f.letters(r, "together", "", 0, 10))
	if calls > 30 {
		t.Errorf("%d calls to handle 1000 events, of which one is bad", calls)
	}
	refuse = false
	f.retry(r, 1, "together")
	f.equal("rows", 1000, count(f, `select position from written`))
}

// TestBatchRefused: Runner.Subscribe refuses EffectBatch, and NewSubscription refuses an EffectBatch without sources.
func TestBatchRefused(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, _ := f.start(quiet, f.store)
	do := func(context.Context, projection.Batch) error { return nil }
	each := projection.Each(counting, nil, func(eventstore.Event[counted]) (any, error) { return nil, nil })
	if _, err := r.Subscribe(t.Context(), projection.EffectBatch(do, each)); err == nil || !strings.Contains(err.Error(), "not by EffectBatch") {
		t.Errorf("Subscribe: %v", err)
	}
	defer func() {
		if text := fmt.Sprint(recover()); !strings.Contains(text, "source 1 of 1 is empty") {
			t.Errorf("EffectBatch without sources: %s", text)
		}
	}()
	projection.NewSubscription("nothing", nil, projection.EffectBatch(do))
}
