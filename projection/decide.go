package projection

import (
	"errors"
	"slices"

	"github.com/tidemark-es/tidemark/eventstore"
)

// The functions of this file decide what a worker does next, from values alone. The worker acts on the decisions.

// limits is how far a worker may go with the items of a page.
type limits struct {
	bounded  bool
	bound    eventstore.Position // if bounded: the worker may go up to this position
	before   eventstore.Position // the worker stays before this position; 0 for no such limit
	maxItems int                 // 0 for any number
}

// cut returns the items of a page that may be handled now, and the position that is reached with them. The items of one
// event stay together, because a checkpoint is either before all of them or after all of them.
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

// wholeEvents returns how many of the first n items belong to events whose items are all among the first n.
func wholeEvents(items []item, n int) int {
	for n > 0 && n < len(items) && items[n].raw.Position == items[n-1].raw.Position {
		n--
	}
	return n
}

// half returns how many items the next batch may have after a batch with n items failed. n can be above the limit of
// that batch, because cut adds the remaining items of an event. half divides the limit then, so that the next batch is
// smaller.
func half(n, limit int) int {
	if limit > 0 {
		n = min(n, limit)
	}
	return max(1, n/2)
}

// outcome is what a worker does after a step.
type outcome int

const (
	proceed outcome = iota // handle the next page
	reload                 // read the partition again: its token has changed
	wait                   // for a moment: another version is about to become the live one
	leave                  // this process must not run the partition
	end                    // the runner stops
	fail                   // log the error, pause, and try again
)

// after decides what follows a step that returned err. stale says that the worker was fenced for the first time under
// its token: the token that the worker has read is then an old one.
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

// verdict is what happens to a batch that has failed, or to its event.
type verdict int

const (
	retryBatch verdict = iota // after a pause: no event is to blame
	halve                     // one of several events is to blame: look for it with a smaller batch
	retryEvent                // after a pause: the event failed, but may still succeed
	giveUp                    // the event becomes a dead letter
)

// finding is what is known about a batch that has failed.
type finding struct {
	class       class
	fenced      bool // another process owns the partition now, or an operator has changed it
	named       bool // the item that failed is known
	alone       bool // no other item can have failed
	fold        bool // a pure function failed: it would fail in the same way again
	attempts    int  // of the event, this one included
	maxAttempts int  // until the event is given up
}

// verdict decides from the finding.
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
