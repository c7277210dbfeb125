package projection

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// worker runs one projection and tells how far it is.
type worker struct {
	*Projection
	checkpoints *checkpoints
	feed        *feed
	logger      *slog.Logger
	maxBackoff  time.Duration

	mu     sync.Mutex
	status Status
	moved  chan struct{} // closed and replaced when status.Checkpoint changes
}

// start finds out where the projection is.
func (w *worker) start(ctx context.Context) error {
	at, err := w.checkpoints.get(ctx, w.name)
	if err == nil {
		w.reached(at)
	}
	return err
}

// run handles batch after batch until ctx is done. After a failure it pauses, longer each time.
func (w *worker) run(ctx context.Context) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = min(100*time.Millisecond, w.maxBackoff), w.maxBackoff
	for ctx.Err() == nil {
		err := w.step(ctx)
		if ctx.Err() != nil {
			return
		}
		w.report(err)
		if err == nil {
			pause.Reset()
			continue
		}
		delay := min(pause.NextBackOff(), w.maxBackoff) // jitter goes both ways
		w.logger.ErrorContext(ctx, "projection failed and will be tried again",
			"projection", w.name, "checkpoint", w.at(), "retry_in", delay, "error", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
}

// step handles the next batch.
func (w *worker) step(ctx context.Context) error {
	from := w.at()
	page, err := w.feed.next(ctx, from)
	if err != nil {
		return err
	}
	events := w.matching(page.Events)
	err = w.checkpoints.advance(ctx, w.name, from, page.Through, func(tx pgx.Tx) error {
		return w.apply(ctx, tx, events)
	})
	if errors.Is(err, errMoved) { // another process did this batch
		return w.start(ctx)
	}
	if err != nil {
		return err
	}
	w.reached(page.Through)
	return nil
}

// now returns the status, and what is closed when its checkpoint changes.
func (w *worker) now() (Status, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status, w.moved
}

func (w *worker) at() eventstore.Position {
	status, _ := w.now()
	return status.Checkpoint
}

// reached notes the checkpoint and wakes those who wait for it.
func (w *worker) reached(position eventstore.Position) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Checkpoint = position
	close(w.moved)
	w.moved = make(chan struct{})
}

// report notes the outcome of a step.
func (w *worker) report(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err == nil:
		w.status.Err, w.status.FailingSince = nil, time.Time{}
	case w.status.Err == nil:
		w.status.FailingSince = time.Now()
		fallthrough
	default:
		w.status.Err = err
	}
}

// wait returns when the projection has reached a position.
func (w *worker) wait(ctx context.Context, position eventstore.Position) error {
	for {
		status, moved := w.now()
		if status.Checkpoint >= position {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			status, _ = w.now()
			return &WaitError{Status: status, Position: position, Err: context.Cause(ctx)}
		}
	}
}
