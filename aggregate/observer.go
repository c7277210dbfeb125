package aggregate

import (
	"context"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Observer is told what a repository does, for metrics and traces. A nil function costs nothing. The functions run in
// the goroutine of the caller, and the work waits for them, so they must neither block nor panic. Several goroutines
// can call them at the same time.
type Observer struct {
	// Load is called when an aggregate was loaded, from the store or from the cache, or could not be.
	Load func(ctx context.Context, done LoadDone)
	// Conflict is called when another append was faster than a decision, before the decision is made again or given up.
	// attempt counts from 1.
	Conflict func(ctx context.Context, attempt int, conflict *eventstore.ConflictError)
}

// LoadDone is the end of loading an aggregate.
type LoadDone struct {
	Stream  eventstore.StreamID
	Version eventstore.Version // NoStream if there is none yet, or after an error
	From    eventstore.Version // of the snapshot that loading began with; NoStream if it began with the first event
	Events  int                // that were folded
	Cached  bool               // the state was in memory
	Took    time.Duration
	Err     error
}
