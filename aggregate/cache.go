package aggregate

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/tidemark-es/tidemark/eventstore"
)

// cache keeps folded aggregates, and drops the least recently used one when it is full. take removes an entry, so that
// each state has a single owner until it is put back: no goroutine reads a state that another one is changing. A
// nil cache is empty.
type cache[S any] struct {
	mu      sync.Mutex
	entries *simplelru.LRU[eventstore.StreamID, *folded[S]]
}

func newCache[S any](size int) *cache[S] {
	entries, err := simplelru.NewLRU[eventstore.StreamID, *folded[S]](size, nil)
	if err != nil {
		panic("aggregate: " + err.Error()) // the size was checked
	}
	return &cache[S]{entries: entries}
}

// take removes and returns an aggregate, nil if it is not there.
func (c *cache[S]) take(stream eventstore.StreamID) *folded[S] {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.entries.Peek(stream)
	if !ok {
		return nil
	}
	c.entries.Remove(stream)
	return f
}

// put adds an aggregate unless a later state of it is there.
func (c *cache[S]) put(f *folded[S]) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, ok := c.entries.Peek(f.stream); !ok || other.version <= f.version {
		c.entries.Add(f.stream, f)
	}
}
