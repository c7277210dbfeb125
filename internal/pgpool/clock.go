package pgpool

import (
	"sync"
	"time"
)

const (
	// tick is how exact a clock is.
	tick = 200 * time.Millisecond
	// late is how late the clock can look before it concludes that the process or the machine has stood still. Then no
	// answer could be noticed, so the time of the standstill does not count.
	late = time.Second
)

// clock calls functions when they are due. It has one timer, and none while no alarm is set. A timer for each statement
// would hardly ever fire, but it would wake a thread of the runtime, and make a short statement take twice as long.
type clock struct {
	mu    sync.Mutex
	due   map[*alarm]struct{}
	armed bool
	next  time.Time // when the clock looks
}

type alarm struct {
	made, at time.Time
	ring     func()
}

// after calls a function after a duration, unless the alarm is stopped first.
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
			a.at = a.at.Add(min(stood, now.Sub(a.made))) // the alarm may have been made in between
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
