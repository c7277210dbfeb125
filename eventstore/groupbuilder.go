package eventstore

// groupBuilder chooses the requests of a group, in the order of the queue.
type groupBuilder struct {
	writing map[string]struct{} // names of streams and keys that are being written
	waiting bool                // a request that waits for other transactions is being written
	taken   map[string]bool     // names of the group's requests; true if other requests may share the name
	passed  map[string]struct{} // names of requests that were left; later requests for these names are left too

	requests               []*request
	most                   int // bounds the number of requests
	streams, events, bytes int
}

func newGroupBuilder(writing map[string]struct{}, waiting bool) *groupBuilder {
	return &groupBuilder{
		writing: writing, waiting: waiting, most: maxGroup,
		taken: make(map[string]bool), passed: make(map[string]struct{}),
	}
}

func (b *groupBuilder) isFull() bool { return len(b.requests) >= b.most }

// fits reports whether a request may join the group. The first request may be of any size. A request that waits for
// other transactions is a group of its own, and only one such group is written at a time.
func (b *groupBuilder) fits(r *request) bool {
	if len(b.requests) == 0 && r.blocks && b.waiting {
		return false
	}
	if len(b.requests) > 0 && (len(b.requests) >= r.limit || b.streams+len(r.changes) > maxGroup ||
		b.events+r.events > maxGroupEvents || b.bytes+r.bytes > maxGroupBytes) {
		return false
	}
	for _, name := range r.names {
		_, isWriting := b.writing[name]
		_, isPassed := b.passed[name]
		shared, isTaken := b.taken[name]
		if isWriting || isPassed || isTaken && !(shared && r.shares) {
			return false
		}
	}
	return true
}

func (b *groupBuilder) add(r *request) {
	b.requests = append(b.requests, r)
	b.most = min(b.most, r.limit)
	b.streams, b.events, b.bytes = b.streams+len(r.changes), b.events+r.events, b.bytes+r.bytes
	for _, name := range r.names {
		b.taken[name] = r.shares
	}
}

// pass leaves a request to a later group.
func (b *groupBuilder) pass(r *request) {
	for _, name := range r.names {
		b.passed[name] = struct{}{}
	}
}
