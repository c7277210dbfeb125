package projection

import (
	"math"
	"time"
)

// rate is how many events a partition handles per second. It is an average in which a value from ten seconds ago counts
// a third.
type rate struct {
	value float64
	since time.Time
}

const rateWindow = 10 * time.Second

func (r *rate) add(events int, now time.Time) {
	if r.since.IsZero() {
		r.since = now.Add(-time.Second)
	}
	passed := max(now.Sub(r.since), time.Millisecond).Seconds()
	r.since = now
	weight := 1 - math.Exp(-passed/rateWindow.Seconds())
	r.value += weight * (float64(events)/passed - r.value)
}

func (r *rate) perSecond() float32 { return float32(r.value) }
