package projection

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/panics"
	"github.com/tidemark-es/tidemark/projection/internal/feed"
)

// item is an event, or what it means for one of its keys: an event that concerns several rows has an item for each, one
// that concerns none has no item. It belongs to a page and is never changed.
type item struct {
	raw     *eventstore.Raw
	source  *source
	key     string // "" if it is the stream: see keyText
	meaning meaning
	further bool // the event is counted with another item
}

// amount is how much was handled.
type amount struct{ items, events int }

func (a *amount) addAll(b amount) { a.items, a.events = a.items+b.items, a.events+b.events }

func (a *amount) add(i *item) {
	a.items++
	if !i.further {
		a.events++
	}
}

// errNoKey is why an event of which the key function returned "" cannot be handled.
var errNoKey = errors.New("the key function returned no key that can be stored")

// items returns those of a page's events after a position that belong to a partition.
func (p *Projection) items(pg *feed.Page, after eventstore.Position, partition int) []item {
	items := p.itemsOf(pg)[partition]
	first := sort.Search(len(items), func(n int) bool { return items[n].raw.Position > after })
	return slices.Clip(items[first:])
}

// divide returns the items of a page by partition.
func (p *Projection) divide(pg *feed.Page) [][]item {
	parts := make([][]item, p.options.Partitions)
	for n := range p.sources {
		s := &p.sources[n]
		all := s.meaningsOf(pg)
		for k := range parts {
			parts[k] = slices.Grow(parts[k], len(all)/len(parts))
		}
		for _, d := range all {
			p.addItems(parts, item{raw: &pg.Events[d.index], source: s, meaning: d})
		}
	}
	if len(p.sources) > 1 {
		for _, items := range parts {
			slices.SortStableFunc(items, func(a, b item) int { return a.meaning.index - b.meaning.index })
		}
	}
	return parts
}

// addItems adds an event to the partitions it belongs to.
func (p *Projection) addItems(parts [][]item, i item) {
	var split []part
	if i.meaning.err == nil && i.source.split != nil {
		split = i.findKeys()
	}
	for k, s := range split {
		n := p.partitionOf(s.key)
		parts[n] = append(parts[n], item{raw: i.raw, source: i.source, key: s.key, meaning: s.meaning, further: k > 0})
	}
	if split == nil {
		n := 0
		if len(parts) > 1 {
			n = p.partitionOf(i.keyText())
		}
		parts[n] = append(parts[n], i)
	}
}

// findKeys asks the key function, which may panic. It sets the item's key, or returns its parts if the event may have
// several keys or none; or it sets why there is no key.
func (i *item) findKeys() (parts []part) {
	defer panics.Recover(&i.meaning.err)
	if parts = i.source.split(i.meaning); parts == nil {
		if i.key = i.source.key(i.meaning); !validKey(i.key) {
			i.key, i.meaning.err = "", fmt.Errorf("%w: %.100q", errNoKey, i.key)
		}
	}
	for _, p := range parts {
		if !validKey(p.key) {
			i.meaning.err = fmt.Errorf("%w: %.100q", errNoKey, p.key)
			return nil
		}
	}
	return parts
}

// maxKey is how long a key may be, in bytes: it is in an index.
const maxKey = 1000

// validKey reports whether a key is one, and Postgres can store it.
func validKey(key string) bool {
	return key != "" && len(key) <= maxKey && utf8.ValidString(key) && strings.IndexByte(key, 0) < 0
}

// keyText returns the item's key: the stream if there is no function for it, or it failed.
func (i *item) keyText() string {
	if i.key == "" {
		return i.raw.Stream.String()
	}
	return i.key
}

func (p *Projection) partitionOf(key string) int { return partitionOf(key, p.options.Partitions) }

// partitionOf returns which of some partitions a key belongs to, by the FNV-1a hash of the key. Stored checkpoints depend
// on it: the function never changes. Package hash/fnv allocates twice for each key, and takes ten times as long.
func partitionOf(key string, partitions int) int {
	if partitions == 1 {
		return 0
	}
	hash := uint32(2166136261)
	for n := range len(key) {
		hash = (hash ^ uint32(key[n])) * 16777619
	}
	return int(hash % uint32(partitions))
}

// guarded does something of ours, which should not panic: if it does, the projection stops and the process lives.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Fatal(fmt.Errorf("a defect of package projection: %w", panics.New(p)))
		}
	}()
	return do()
}
