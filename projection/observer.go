package projection

import (
	"errors"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Observer is told about a runner's work, for metrics and traces. Each function may be nil, which costs nothing. The
// functions are called in the goroutines that do the work, several at a time. The work waits for them, so they must
// neither block nor panic. The observers of other processes are told about the work there.
type Observer struct {
	// Batch is called when a partition has committed a batch and its checkpoint.
	Batch func(done BatchDone)
	// Event is called when an event was given to its handler, its fold or its effect. At that time a handler's
	// transaction is not committed and folded rows are not written. After a failure an event is handled again, and
	// reported again. Each event of a batch is reported with an equal share of the batch's time.
	Event func(done EventDone)
	// Failure is called when a partition has failed, before it pauses or stops, and when an event is given up.
	Failure func(f Failure)
	// Switch is called when this process has made a version the live version.
	Switch func(live Ref)
}

// BatchDone describes a batch that was committed.
type BatchDone struct {
	Projection Ref
	Partition  int
	Checkpoint eventstore.Position
	Events     int // events that were handled; an event with several keys counts in the partition of its first key
	Parked     int // events that became dead letters, or wait behind one
	Took       time.Duration
}

// EventDone describes an event that was handled, or could not be.
type EventDone struct {
	Projection Ref
	Partition  int
	Key        string
	Event      *eventstore.Raw // must not be changed
	Took       time.Duration
	Err        error
}

// Failure describes why a partition makes no progress, or why an event is given up.
type Failure struct {
	Projection Ref
	Partition  int
	// Class is the meaning of the error. "transient" is tried again until it passes, "unclear" a few times. "poison"
	// makes the event a dead letter, "fatal" stops the projection, "unable" leaves the projection to other processes.
	Class    string
	Position eventstore.Position // of the event that could not be handled; 0 if the failure is about no event
	Parked   bool                // the event becomes a dead letter
	Err      error
}

func (w *worker) ref() Ref {
	return Ref{Name: w.projection.name, Version: w.projection.options.Version}
}

// begin returns the time at which an event begins to be handled. It returns the zero time if there is no observer.
func (w *worker) begin() (began time.Time) {
	if w.engine.config.Observer.Event != nil {
		began = time.Now()
	}
	return began
}

// tellEvent tells the observer that an event was handled.
func (w *worker) tellEvent(i *item, began time.Time, err error) {
	if observe := w.engine.config.Observer.Event; observe != nil {
		observe(EventDone{w.ref(), w.number, i.keyText(), i.raw, time.Since(began), err})
	}
}

// tellFailure tells the observer why the partition has failed.
func (w *worker) tellFailure(err error, parked bool) {
	observe := w.engine.config.Observer.Failure
	if observe == nil {
		return
	}
	f := Failure{Projection: w.ref(), Partition: w.number, Class: string(classify(err)), Parked: parked, Err: err}
	var h *HandlerError
	if errors.As(err, &h) {
		f.Position = h.Position
	}
	observe(f)
}
