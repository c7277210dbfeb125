package pgpool

import (
	"testing"
	"time"
)

// TestClockOfAStoppedProcess: while the process stands still, no answer can be noticed. So this time makes no alarm
// due.
func TestClockOfAStoppedProcess(t *testing.T) {
	t.Parallel()
	var c clock
	rung := 0
	c.after(time.Hour, func() { rung++ })
	now := time.Now()
	c.look(now.Add(10 * time.Hour))
	if rung > 0 {
		t.Error("the alarm rang as soon as the process ran again")
	}
	c.look(c.next.Add(late / 2))
	if rung > 0 {
		t.Error("the alarm rang before its time, counted without the pause")
	}
	for rung == 0 && c.next.Before(now.Add(11*time.Hour+time.Minute)) {
		c.look(c.next)
	}
	if rung != 1 {
		t.Errorf("the alarm rang %d times, want once", rung)
	}
}
