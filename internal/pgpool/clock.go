package pgpool

import (
	"sync"
	"time"
)

const (
	// tick is how exact a clock is.
	tick = 200 * time.Millisecond
	// late is how much later than it should a clock may look until the process must have stood still meanwhile, or the
	// machine: then an answer could not have been noticed.
	late = time.Second
)

// clock calls functions when they are due. It has one timer, and none while nothing happens: a timer for each
// statement, which hardly ever fires, wakes a thread of the runtime and makes a short statement take twice as long.
type clock struct {
	mu    sync.Mutex
	due   map[*alarm]struct{}
	armed bool
	next  time.Time // when it is to look
}

type alarm struct {
	made, at time.Time
	ring     func()
}

// after calls a function after a duration, unless the alarm is stopped before.
func (c *clock) after(d time.Duration, ring func()) *alarm {
	now := time.Now()
	a := &alarm{made: now, at: now.Add(d), ring: ring}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.due == nil {
		c.due = make(map[*alarm]struct{})
	}
	c.due[a] = struct{}{}
	if !c.armed {
		c.arm(now)
	}
	return a
}

func (c *clock) arm(now time.Time) {
	c.armed, c.next = true, now.Add(tick)
	time.AfterFunc(tick, func() { c.look(time.Now()) })
}

// stop forgets an alarm. Its function may be running.
func (c *clock) stop(a *alarm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.due, a)
}

func (c *clock) look(now time.Time) {
	var ring []func()
	c.mu.Lock()
	stood := now.Sub(c.next)
	for a := range c.due {
		switch {
		case stood > late:
			a.at = a.at.Add(min(stood, now.Sub(a.made))) // it may have been made since
		case !a.at.After(now):
			ring = append(ring, a.ring)
			delete(c.due, a)
		}
	}
	c.armed = false
	if len(c.due) > 0 {
		c.arm(now)
	}
	c.mu.Unlock()
	for _, r := range ring {
		r()
	}
}
