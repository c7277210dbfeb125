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

// item is an event, or what an event means for one of its keys. An event that concerns several rows has an item for
// each row, and an event that concerns none has no item. An item belongs to a page and is never changed.
type item struct {
	raw     *eventstore.Raw
	source  *source
	key     string // "" if the key is the stream: see keyText
	meaning meaning
	further bool // the event is counted with another item
}

// amount is a number of items, and of the events that they belong to.
type amount struct{ items, events int }

func (a *amount) addAll(b amount) { a.items, a.events = a.items+b.items, a.events+b.events }

func (a *amount) add(i *item) {
	a.items++
	if !i.further {
		a.events++
	}
}

// errNoKey is the error of an event for which the key function returned "" or a key that cannot be stored.
var errNoKey = errors.New("the key function returned no key that can be stored")

// items returns the items of a page that belong to a partition and are after a position.
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

// addItems adds the items of an event to their partitions.
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

// findKeys calls the key function, which may panic. It sets the item's key, or returns the item's parts if the event
// can have several keys or none. If a key is not valid, it sets the error in the item's meaning.
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

// maxKey bounds the length of a key in bytes, because keys are in an index.
const maxKey = 1000

// validKey reports whether a key is not empty, and Postgres can store it.
func validKey(key string) bool {
	return key != "" && len(key) <= maxKey && utf8.ValidString(key) && strings.IndexByte(key, 0) < 0
}

// keyText returns the item's key: the stream if there is no key function, or the function failed.
func (i *item) keyText() string {
	if i.key == "" {
		return i.raw.Stream.String()
	}
	return i.key
}

func (p *Projection) partitionOf(key string) int { return partitionOf(key, p.options.Partitions) }

// partitionOf returns the partition of a key, by the FNV-1a hash of the key. Stored checkpoints depend on the result,
// so the function must never change. Package hash/fnv would allocate twice for each key, and take ten times as long.
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

// guarded calls code of this package. If the code panics, the projection stops and the process survives.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = Fatal(fmt.Errorf("a defect of package projection: %w", panics.New(p)))
		}
	}()
	return do()
}
