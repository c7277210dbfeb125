package pgpool

import (
	"sync"
	"time"
)

// tick is how exact a clock is.
const tick = 200 * time.Millisecond

// clock calls functions when they are due. It has one timer, and none while nothing happens: a timer for each
// statement, which hardly ever fires, wakes a thread of the runtime and makes a short statement take twice as long.
type clock struct {
	mu    sync.Mutex
	due   map[*alarm]struct{}
	armed bool
}

type alarm struct {
	at   time.Time
	ring func()
}

// after calls a function after a duration, unless the alarm is stopped before.
func (c *clock) after(d time.Duration, ring func()) *alarm {
	a := &alarm{time.Now().Add(d), ring}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.due == nil {
		c.due = make(map[*alarm]struct{})
	}
	c.due[a] = struct{}{}
	if !c.armed {
		c.armed = true
		time.AfterFunc(tick, c.look)
	}
	return a
}

// stop forgets an alarm. Its function may be running.
func (c *clock) stop(a *alarm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.due, a)
}

func (c *clock) look() {
	now := time.Now()
	var ring []func()
	c.mu.Lock()
	for a := range c.due {
		if !a.at.After(now) {
			ring = append(ring, a.ring)
			delete(c.due, a)
		}
	}
	c.armed = len(c.due) > 0
	if c.armed {
		time.AfterFunc(tick, c.look)
	}
	c.mu.Unlock()
	for _, r := range ring {
		r()
	}
}
