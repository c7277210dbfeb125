package projection

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/signal"
)

func itemsAt(positions ...eventstore.Position) []item {
	items := make([]item, len(positions))
	for n, p := range positions {
		items[n].raw = &eventstore.Raw{Position: p}
	}
	return items
}

// TestCut: cut leaves out the items beyond a limit, and keeps the items of one event together.
func TestCut(t *testing.T) {
	t.Parallel()
	page := []eventstore.Position{2, 4, 4, 4, 7, 9}
	for _, test := range []struct {
		limits limits
		items  int
		to     eventstore.Position
	}{
		{limits{}, 6, 10},
		{limits{bounded: true, bound: 20}, 6, 10},
		{limits{bounded: true, bound: 8}, 5, 8},
		{limits{bounded: true, bound: 4}, 4, 4},
		{limits{bounded: true, bound: 0}, 0, 0},
		{limits{before: 7}, 4, 6},
		{limits{before: 4}, 1, 3},
		{limits{before: 2}, 0, 1},
		{limits{before: 10}, 6, 10}, // this partition has no item there
		{limits{before: 20}, 6, 10},
		{limits{bounded: true, bound: 5, before: 7}, 4, 5},
		{limits{bounded: true, bound: 8, before: 7}, 4, 6},
		{limits{maxItems: 1}, 1, 2},
		{limits{maxItems: 2}, 4, 4}, // the parts of one event
		{limits{maxItems: 4}, 4, 4},
		{limits{maxItems: 5}, 5, 7},
		{limits{maxItems: 6}, 6, 10},
		{limits{maxItems: 9}, 6, 10},
		{limits{maxItems: 2, before: 4}, 1, 3},
		{limits{maxItems: 3, before: 7}, 4, 6}, // no item before the limit is left: up to the limit
	} {
		items, to := cut(itemsAt(page...), 10, test.limits)
		if len(items) != test.items || to != test.to {
			t.Errorf("%+v: %d items up to %d, want %d up to %d", test.limits, len(items), to, test.items, test.to)
		}
	}
}

// TestCutAgrees: with any limits, cut takes all items up to the position that it returns, and no item after it. So it
// keeps the items of one event together.
func TestCutAgrees(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		positions := rapid.SliceOfN(rapid.Int64Range(1, 30), 0, 20).Draw(t, "positions")
		slices.Sort(positions)
		var page []eventstore.Position
		for _, p := range positions {
			page = append(page, eventstore.Position(p))
		}
		l := limits{
			bounded: rapid.Bool().Draw(t, "bounded"), bound: eventstore.Position(rapid.Int64Range(0, 40).Draw(t, "bound")),
			before: eventstore.Position(rapid.Int64Range(0, 40).Draw(t, "before")), maxItems: rapid.IntRange(0, 8).Draw(t, "most"),
		}
		items, to := cut(itemsAt(page...), 30, l)
		if l.bounded && to > l.bound || to > 30 {
			t.Fatalf("%+v: up to %d, which is beyond the bound or the page", l, to)
		}
		for n, p := range page {
			if taken := n < len(items); taken != (p <= to) {
				t.Fatalf("%+v of %v: up to %d, and the item at %d is taken: %v", l, page, to, p, taken)
			}
			if l.before > 0 && p >= l.before && n < len(items) {
				t.Fatalf("%+v of %v: the item at %d is taken", l, page, p)
			}
		}
	})
}

// TestHalf: for every batch, halving ends with the items of one event.
func TestHalf(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var page []eventstore.Position
		for at, n := range rapid.SliceOfN(rapid.IntRange(1, 5), 1, 20).Draw(t, "items of each event") {
			page = append(page, slices.Repeat([]eventstore.Position{eventstore.Position(at + 1)}, n)...)
		}
		items, limit := itemsAt(page...), 0
		for range 20 {
			if isOneEvent(items) {
				return
			}
			limit = half(len(items), limit)
			items, _ = cut(itemsAt(page...), 30, limits{maxItems: limit})
		}
		t.Fatalf("after halving 20 times there are %d items with the limit %d", len(items), limit)
	})
}

// TestAfter: what a worker does after the outcome of a batch.
func TestAfter(t *testing.T) {
	t.Parallel()
	other := errors.New("anything")
	for _, test := range []struct {
		err            error
		stopped, stale bool
		want           outcome
	}{
		{nil, false, false, proceed},
		{nil, true, true, proceed}, // the worker's loop notices the stop by itself
		{other, false, false, fail},
		{other, false, true, reload},
		{other, true, true, end},
		{errGone, false, true, leave},
		{errGone, true, false, end},
		{fmt.Errorf("load: %w", errGone), false, false, leave},
		{errHeld, false, false, wait},
		{errHeld, true, false, end},
		{errFenced, false, true, reload},
		{errFenced, false, false, fail}, // fenced, and the token is still the same
	} {
		if got := after(test.err, test.stopped, test.stale); got != test.want {
			t.Errorf("after %v, stopped %v, stale %v: %d, want %d", test.err, test.stopped, test.stale, got, test.want)
		}
	}
}

// TestVerdict: an event is given up only if the finding says that this event is to blame.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		finding finding
		want    verdict
	}{
		{finding{class: poison, fenced: true, named: true}, retryBatch},
		{finding{class: transient}, retryBatch},
		{finding{class: fatal}, retryBatch},
		{finding{class: unable}, retryBatch},
		{finding{class: transient, alone: true}, retryBatch}, // there is one item, but a transient error blames no item
		{finding{class: poison}, halve},
		{finding{class: unclear}, halve},
		{finding{class: transient, named: true, attempts: 99, maxAttempts: 3}, retryEvent},
		{finding{class: fatal, named: true}, retryEvent},
		{finding{class: poison, named: true, maxAttempts: 3}, giveUp},
		{finding{class: poison, alone: true, maxAttempts: 3}, giveUp},
		{finding{class: unclear, named: true, attempts: 2, maxAttempts: 3}, retryEvent},
		{finding{class: unclear, named: true, attempts: 3, maxAttempts: 3}, giveUp},
		{finding{class: unclear, alone: true, attempts: 3, maxAttempts: 3}, giveUp},
		{finding{class: unclear, named: true, fold: true, attempts: 1, maxAttempts: 3}, giveUp},
	} {
		if got := test.finding.verdict(); got != test.want {
			t.Errorf("%+v: %d, want %d", test.finding, got, test.want)
		}
	}
}

// TestPartitionOf: a key has the same partition in every release.
func TestPartitionOf(t *testing.T) {
	t.Parallel()
	for key, want := range map[string][3]int{ // of 4, 16 and 1000 partitions
		"a": {0, 12, 220}, "account-42": {1, 5, 565}, "": {1, 5, 261}, "ä": {2, 2, 122}, "日本": {1, 1, 721},
	} {
		got := [3]int{partitionOf(key, 4), partitionOf(key, 16), partitionOf(key, 1000)}
		if got != want {
			t.Errorf("%q: %v, want %v", key, got, want)
		}
		hash := fnv.New32a()
		hash.Write([]byte(key))
		if want := int(hash.Sum32() % 1024); partitionOf(key, 1024) != want {
			t.Errorf("%q: %d of 1024, want %d as in hash/fnv", key, partitionOf(key, 1024), want)
		}
		if partitionOf(key, 1) != 0 {
			t.Errorf("%q: partition %d of 1, want 0", key, partitionOf(key, 1))
		}
	}
}

// TestTroubleOfOnePartition: a partition that recovers, or that another process takes over, does not hide the failure of
// another partition.
func TestTroubleOfOnePartition(t *testing.T) {
	t.Parallel()
	first, second, away := errors.New("first"), errors.New("second"), errors.New("away")
	v := &deployment{moved: signal.New(), failing: make(map[int]error), away: away}
	expect := func(when string, want error) {
		t.Helper()
		if got := v.trouble(); got != want {
			t.Errorf("%s: the version makes no progress because of %v, want %v", when, got, want)
		}
	}
	expect("no partition fails", away)
	v.failed(2, second)
	v.failed(1, first)
	expect("two partitions fail", first)
	v.recovered(1)
	expect("one has recovered", second)
	v.failed(1, first)
	v.disowned(1)
	expect("one is taken over", second)
	v.recovered(2)
	expect("both have recovered", away)
}
