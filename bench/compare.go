package main

import (
	"context"
	"slices"
	"time"
)

// turns is how many turns the reference and the measured work each get. The two alternate, so that other load
// on the machine slows down both.
const turns = 10

// tally is how many events were handled, how long that took, and how long processors were busy with them.
type tally struct {
	events int
	took   time.Duration
	cpu    cpu
}

func (t tally) rate() float64 { return float64(t.events) / t.took.Seconds() }

func (t *tally) add(other tally) {
	t.events += other.events
	t.took += other.took
	t.cpu = t.cpu.plus(other.cpu)
}

// work does something for about the duration d.
type work func(ctx context.Context, d time.Duration) (tally, error)

// comparison is the result of all turns.
type comparison struct {
	reference, measured tally
	low, high           float64 // the lowest and the highest ratio of a turn
}

// ratio is the rate of the measured work, divided by that of the reference.
func (c comparison) ratio() float64 { return c.measured.rate() / c.reference.rate() }

// compare measures work and a reference in alternate turns, each for d in total.
func compare(ctx context.Context, d time.Duration, reference, measured work) (c comparison, err error) {
	d /= turns
	for turn := range turns + 1 {
		var r, m tally
		if turn%2 == 0 { // the two change their order after each turn
			r, err = reference(ctx, d)
		}
		if err == nil {
			m, err = measured(ctx, d)
		}
		if err == nil && turn%2 == 1 {
			r, err = reference(ctx, d)
		}
		if err != nil {
			return c, err
		}
		if turn == 0 { // not counted: it opens connections and prepares statements
			continue
		}
		c.reference.add(r)
		c.measured.add(m)
		ratio := m.rate() / r.rate()
		if turn == 1 {
			c.low, c.high = ratio, ratio
		}
		c.low, c.high = min(c.low, ratio), max(c.high, ratio)
	}
	return c, nil
}

// again returns work that repeats do until d has passed. Each call of do handles the given number of events.
func (m meter) again(events int, do func(context.Context) error) work {
	return func(ctx context.Context, d time.Duration) (t tally, err error) {
		used := m.start()
		defer func() { t.cpu = used() }()
		for start := time.Now(); t.took < d; t.took = time.Since(start) {
			if err := do(ctx); err != nil {
				return t, err
			}
			t.events += events
		}
		return t, nil
	}
}

// percentile returns the duration that p percent of the sample do not exceed.
func percentile(sample []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(sample))
	return sorted[(len(sorted)*p+99)/100-1]
}
