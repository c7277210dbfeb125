package projection

import (
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"

	"github.com/tidemark-es/tidemark/eventstore"
)

// item is an event as a partition handles it.
type item struct {
	raw    *eventstore.Raw
	source *Source
	key    string // "" until somebody asks, if it is the stream
	decoded
}

// errNoKey is why an event of which the key function returned "" cannot be handled.
var errNoKey = errors.New(`the key function returned ""`)

// items returns those of a page's events after a position that belong to a partition.
func (p *Projection) items(pg *page, after eventstore.Position, partition int) []item {
	var items []item
	for n := range p.sources {
		s := &p.sources[n]
		for _, d := range pg.of(s) {
			if raw := &pg.Events[d.index]; raw.Position > after {
				items = p.addItems(items, item{raw: raw, source: s, decoded: d}, partition)
			}
		}
	}
	if len(p.sources) > 1 {
		slices.SortStableFunc(items, func(a, b item) int { return a.index - b.index })
	}
	return items
}

// addItems adds what of an event belongs to the partition.
func (p *Projection) addItems(items []item, i item, partition int) []item {
	if i.err == nil && i.source.key != nil {
		parts, err := i.keys()
		if err != nil {
			i.err = err
		}
		for _, key := range slices.Sorted(maps.Keys(parts)) {
			if p.partitionOf(key) == partition {
				items = append(items, item{raw: i.raw, source: i.source, key: key, decoded: parts[key]})
			}
		}
		if err == nil {
			return items
		}
	}
	if p.options.Partitions > 1 && p.partitionOf(i.keyText()) != partition {
		return items
	}
	return append(items, i)
}

// keys asks the key function, which may panic.
func (i *item) keys() (parts map[string]decoded, err error) {
	defer recovered(&err)
	if parts = i.source.split(i.decoded); parts == nil {
		parts = map[string]decoded{i.source.key(i.decoded): i.decoded}
	}
	if _, ok := parts[""]; ok {
		return nil, errNoKey
	}
	return parts, nil
}

// keyText returns the item's key: the stream if there is no function for it, or it failed.
func (i *item) keyText() string {
	if i.key == "" {
		i.key = i.raw.Stream.String()
	}
	return i.key
}

// partitionOf returns which partition a key belongs to: FNV-1a of the key, for ever.
func (p *Projection) partitionOf(key string) int {
	if p.options.Partitions == 1 {
		return 0
	}
	hash := uint32(2166136261)
	for n := range len(key) {
		hash = (hash ^ uint32(key[n])) * 16777619
	}
	return int(hash % uint32(p.options.Partitions))
}

// panicError is a panic of the application's code.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// recovered turns a panic into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = &panicError{r, debug.Stack()}
	}
}
