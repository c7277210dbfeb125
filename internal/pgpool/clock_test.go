package pgpool

import (
	"testing"
	"time"
)

// TestClockOfAStoppedProcess: while the process stands still nobody can notice an answer, so nothing is due because of
// that time.
func TestClockOfAStoppedProcess(t *testing.T) {
	t.Parallel()
	var c clock
	rung := 0
	c.after(time.Hour, func() { rung++ })
	now := time.Now()
	c.look(now.Add(10 * time.Hour))
	if rung > 0 {
		t.Error("the alarm rang as soon as the process went on")
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
