package feed

import (
	"sync"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Page is a piece of the log: it holds all events with After < position <= Through.
type Page struct {
	After eventstore.Position
	eventstore.Page

	mu      sync.Mutex
	derived map[any]func() any
}

// NewPage returns a page that begins after a position.
func NewPage(after eventstore.Position, p eventstore.Page) *Page {
	return &Page{After: after, Page: p, derived: make(map[any]func() any)}
}

// Derive returns the value that compute returns for a key. It calls compute once for each key of a page.
func Derive[T any](p *Page, key any, compute func() T) T {
	p.mu.Lock()
	value, ok := p.derived[key]
	if !ok {
		value = sync.OnceValue(func() any { return compute() })
		p.derived[key] = value
	}
	p.mu.Unlock()
	return value().(T)
}
