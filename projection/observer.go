package projection

import (
	"errors"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Observer is told what a runner does, for metrics and traces. Each function may be nil, which costs nothing. They are
// called in the goroutines that do the work, by several at a time, and the work waits for them, so they must neither block nor panic. What happens in
// other processes is told to their observers.
type Observer struct {
	// Batch is called when a partition has committed what became of some events, and its checkpoint.
	Batch func(done BatchDone)
	// Event is called when an event was given to its handler, its fold or its effect. A handler's transaction is not committed
	// yet, and what was folded is not written yet: after a failure events are handled, and told, again. Of a batch each event
	// has its share of the time.
	Event func(done EventDone)
	// Failure is called when a partition has failed, before it pauses or stops, and when an event is given up.
	Failure func(f Failure)
	// Switch is called when this process has made a version the live one.
	Switch func(live Ref)
}

// BatchDone is the end of a transaction.
type BatchDone struct {
	Projection Ref
	Partition  int
	Checkpoint eventstore.Position
	Events     int // that were handled; one with several keys counts where its first key is
	Parked     int // that became dead letters, or wait behind them
	Took       time.Duration
}

// EventDone is the end of handling an event.
type EventDone struct {
	Projection Ref
	Partition  int
	Key        string
	Event      *eventstore.Raw // must not be changed
	Took       time.Duration
	Err        error
}

// Failure is why a partition makes no progress, or an event is given up.
type Failure struct {
	Projection Ref
	Partition  int
	// Class is what the error means: "transient" is tried again until it passes, "unclear" a few times; "poison" makes the
	// event a dead letter, "fatal" stops the projection, "unable" leaves the projection to other processes.
	Class    string
	Position eventstore.Position // of the event that could not be handled; 0 if the failure is about none
	Parked   bool                // the event becomes a dead letter
	Err      error
}

func (w *worker) ref() Ref {
	return Ref{Name: w.projection.name, Version: w.projection.options.Version}
}

// begin returns when an event begins to be handled, if anybody wants to know.
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
