package projection

import (
	"errors"
	"slices"

	"github.com/tidemark-es/tidemark/eventstore"
)

// What a worker does next is decided here, by functions of values alone. The worker acts on it.

// limits is how far a worker may go with the items of a page.
type limits struct {
	bounded  bool
	bound    eventstore.Position // if bounded: not beyond it
	before   eventstore.Position // up to what is before it; 0 for no such limit
	maxItems int                 // 0 for any number
}

// cut returns the items of a page that may be handled now, and the position that is reached with them. The items
// of one event stay together, since a checkpoint is behind all of them or before them.
func cut(items []item, through eventstore.Position, l limits) ([]item, eventstore.Position) {
	to := through
	if l.bounded {
		to = min(to, l.bound)
	}
	if l.before > 0 && slices.ContainsFunc(items, func(i item) bool { return i.raw.Position >= l.before && i.raw.Position <= to }) {
		to = l.before - 1
	}
	n := len(items)
	for n > 0 && items[n-1].raw.Position > to {
		n--
	}
	items = items[:n]
	if l.maxItems == 0 || len(items) <= l.maxItems {
		return items, to
	}
	n = l.maxItems
	for n < len(items) && items[n].raw.Position == items[n-1].raw.Position {
		n++
	}
	if n == len(items) {
		return items, to
	}
	return items[:n], items[n-1].raw.Position
}

// wholeEvents returns how many of the first n items are those of whole events.
func wholeEvents(items []item, n int) int {
	for n > 0 && n < len(items) && items[n].raw.Position == items[n-1].raw.Position {
		n--
	}
	return n
}

// half returns how many items the next batch may have when one with n items failed: fewer, although cut adds the rest
// of an event.
func half(n, limit int) int {
	if limit > 0 {
		n = min(n, limit)
	}
	return max(1, n/2)
}

// outcome is what a worker does after a step.
type outcome int

const (
	proceed outcome = iota // with the next page
	reload                 // read the partition again: its token has changed
	wait                   // for a moment: another version is about to take this one's place
	leave                  // the partition is not this process's to run
	end                    // the runner stops
	fail                   // say so, pause, and try again
)

// after decides what follows a step that has returned err. stale says that the worker was fenced, and was not yet under the
// same token: then the token that the worker has read is an old one.
func after(err error, stopped, stale bool) outcome {
	switch {
	case err == nil:
		return proceed
	case stopped:
		return end
	case errors.Is(err, errGone):
		return leave
	case errors.Is(err, errHeld):
		return wait
	case stale:
		return reload
	}
	return fail
}

// verdict is what becomes of a batch that has failed.
type verdict int

const (
	retryBatch verdict = iota // after a pause: no event is to blame
	halve                     // one of several events is to blame: look for it
	retryEvent                // after a pause: the event failed, and is not to blame yet
	giveUp                    // the event becomes a dead letter
)

// finding is what is known of a batch that has failed.
type finding struct {
	class       class
	fenced      bool // the batch was not this process's any more
	named       bool // it is known at which item
	alone       bool // there is no other item that it could be
	fold        bool // a pure function failed: it would fail again
	attempts    int  // of the event, this one included
	maxAttempts int  // until the event is given up
}

// verdict decides by what is known.
func (f finding) verdict() verdict {
	switch {
	case f.fenced, !f.named && f.class.ofAll():
		return retryBatch
	case !f.named && !f.alone:
		return halve
	case f.class.ofAll():
		return retryEvent
	case f.class == poison, f.fold, f.attempts >= f.maxAttempts:
		return giveUp
	}
	return retryEvent
}
