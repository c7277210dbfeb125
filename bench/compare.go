package main

import (
	"context"
	"slices"
	"time"
)

// turns is how often a reference and what is compared with it take turns, so that whatever else
// the machine does slows down both.
const turns = 10

// tally is work that was done.
type tally struct {
	events int
	took   time.Duration
}

func (t tally) rate() float64 { return float64(t.events) / t.took.Seconds() }

func (t *tally) add(other tally) {
	t.events += other.events
	t.took += other.took
}

// work does something for about so long.
type work func(ctx context.Context, d time.Duration) (tally, error)

// comparison is what came of taking turns.
type comparison struct {
	reference, measured tally
	low, high           float64 // the ratios of single turns
}

// ratio is how many times faster the measured work is.
func (c comparison) ratio() float64 { return c.measured.rate() / c.reference.rate() }

// compare measures work in turns with a reference, each for d in all.
func compare(ctx context.Context, d time.Duration, reference, measured work) (c comparison, err error) {
	d /= turns
	for turn := range turns + 1 {
		var r, m tally
		if turn%2 == 0 { // who goes first in one turn goes last in the next
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
		if turn == 0 { // connections are made and statements prepared
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

// again repeats something that is about so many events until d has passed.
func again(events int, do func(context.Context) error) work {
	return func(ctx context.Context, d time.Duration) (t tally, err error) {
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
