package projection_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestShares: the partitions are spread evenly whenever a runner starts or stops.
func TestShares(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run := func(who int) (*projection.Runner, func()) { return f.start(quiet, f.store, by(who, "a", 16, nil)) }
	first, stopFirst := run(1)
	f.awaitShares(first, 16)
	_, stopSecond := run(2)
	f.awaitShares(first, 8, 8)
	f.appendKeys(30)
	third, _ := run(3)
	f.awaitShares(third, 5, 5, 6)
	f.appendKeys(30)
	stopFirst()
	f.awaitShares(third, 8, 8)
	stopSecond()
	f.awaitShares(third, 16)
	f.wait(third, f.appendKeys(30))
	f.checkSet("a", "counted")
}

// TestSharesOfManyProjections: projections with one partition are spread over the runners.
func TestSharesOfManyProjections(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run := func(who int) *projection.Runner {
		var all []*projection.Projection
		for i := range 6 {
			all = append(all, by(who, fmt.Sprint("p", i), 1, nil))
		}
		r, _ := f.start(quiet, f.store, all...)
		return r
	}
	r := run(1)
	f.awaitShares(r, 6)
	run(2)
	f.awaitShares(r, 3, 3) // even, because the names follow one another
}

// TestTakeover: when a runner stops, other runners take over its partitions long before a lease expires. Runners that
// listen do so within milliseconds, and runners that only poll within a second or two.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pollOnly bool
		within   time.Duration
	}{"listening": {false, time.Second / 2}, "polling": {true, 3 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			config := *quiet
			config.Lease, config.PollOnly = 30*time.Second, test.pollOnly
			_, stop := f.start(&config, f.store, by(1, "a", 16, nil))
			r, _ := f.start(&config, f.store, by(2, "a", 16, nil))
			f.awaitShares(r, 8, 8)
			last := f.appendKeys(30)
			start := time.Now()
			stop()
			f.awaitShares(r, 16)
			took := time.Since(start)
			t.Logf("taken over after %s", took)
			if took > test.within {
				t.Errorf("the partitions of a runner that stopped were taken over after %s, want less than %s", took, test.within)
			}
			f.wait(r, last)
			f.checkSet("a", "counted")
		})
	}
}

// TestSilentRunner: when a runner is not heard of, its partitions are taken over when its leases expire, and not
// before. When the runner is back, it gets its share again.
func TestSilentRunner(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const lease = 2 * time.Second
	config := *quiet
	config.Lease = lease
	silent := f.staller()
	silent.start(&config, f.store, by(1, "a", 4, nil))
	r, _ := f.start(&config, f.store, by(2, "a", 4, nil))
	f.awaitShares(r, 2, 2)
	start := time.Now()
	wake := silent.stall()
	f.awaitShares(r, 4)
	took := time.Since(start)
	t.Logf("taken over after %s", took)
	if took < lease/2 || took > 2*lease { // its last renewal was up to lease/3 before, and the other runner looks every lease/3
		t.Errorf("the partitions of a runner that is not heard of were taken over after %s, its lease is %s", took, lease)
	}
	f.wait(r, f.appendKeys(10))
	wake()
	f.awaitShares(r, 2, 2)
	f.wait(r, f.appendKeys(10))
	f.checkSet("a", "counted")
}

// TestMembersThatAreGone: a member that has expired does not count when partitions are spread.
func TestMembersThatAreGone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, by(1, "a", 4, nil))
	f.awaitShares(r, 4)
	stop()
	const member = `insert into tidemark.projection_members (projection, version, owner, expires) values ('a', 1, $1, clock_timestamp() + $2)`
	f.exec(member, "long dead", -time.Minute)
	f.exec(member, "just dead", 2*time.Second)
	r, _ = f.start(quiet, f.store, by(1, "a", 4, nil))
	f.until("two partitions are left for another member", func() bool { return f.shares(r)[""] == 2 })
	f.awaitShares(r, 4)
}

// TestPartitionsShareReading: all partitions of all projections are fed by reading the log once.
func TestPartitionsShareReading(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const events, names = 300, 3
	last := f.appendKeys(events)
	log := &countingLog{Store: f.store}
	var all []*projection.Projection
	for i := range names {
		all = append(all, by(1, fmt.Sprint("p", i), 4, nil))
	}
	config := *quiet
	config.BatchSize = 50
	r, _ := f.start(&config, log, all...)
	f.wait(r, last)
	for i := range names {
		f.checkSet(fmt.Sprint("p", i), "counted")
	}
	if n := log.events.Load(); n != events {
		t.Errorf("%d events were read, want the log once: %d", n, events)
	}
}

// TestWaitForAnotherRunner: Wait returns within milliseconds after another runner has reached the position.
func TestWaitForAnotherRunner(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var worker atomic.Int64
	note := func(who int) *projection.Projection {
		return by(who, "a", 1, func(context.Context, eventstore.Event[counted]) { worker.Store(int64(who)) })
	}
	first, _ := f.start(quiet, f.store, note(0))
	f.wait(first, f.append(counting, 1))
	second, _ := f.start(quiet, f.store, note(1))
	f.until("the second runner is a member", func() bool {
		var n int
		err := f.pool.QueryRow(t.Context(), `select count(*) from tidemark.projection_members`).Scan(&n)
		return err == nil && n == 2
	})
	var took []time.Duration
	for range 30 {
		last := f.append(counting, 1)
		start := time.Now()
		f.wait(second, last)
		if worker.Load() == 0 { // false if the partition was handed over to the second runner
			took = append(took, time.Since(start))
		}
		last = f.append(counting, 1)
		start = time.Now()
		f.wait(first, last)
		if worker.Load() == 1 {
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	if len(took) == 0 {
		t.Fatal("neither runner has waited for the other")
	}
	median := took[len(took)/2]
	t.Logf("median of %d: %s", len(took), median)
	if median > 200*time.Millisecond {
		t.Errorf("Wait for another runner takes %s (median), want milliseconds", median)
	}
}
