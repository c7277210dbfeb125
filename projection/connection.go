package projection

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// watched runs a batch on a connection of its own, in a goroutine. If a handler does not return after its context is
// done, the goroutine is abandoned. Its connection is taken from the pool and closed.
func (b *batch) watched(ctx context.Context, run func(context.Context, *pgx.Conn) error) error {
	conn, err := b.worker.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.watchdog = time.AfterFunc(time.Hour, func() { cancel(ErrTimeout) })
	defer b.watchdog.Stop()
	done := make(chan error, 1)
	go func() { done <- guarded(func() error { return run(ctx, conn.Conn()) }) }()
	late := make(chan struct{})
	defer context.AfterFunc(ctx, func() { time.AfterFunc(abandonAfter, func() { close(late) }) })()
	select {
	case err = <-done:
	case <-late:
		pgpool.Cut(conn.Hijack())
		return &failure{b.current(), fmt.Errorf("%w, and %w", context.Cause(ctx), errAbandoned)}
	}
	defer conn.Release()
	var f *failure
	var said *pgconn.PgError
	if blamed := errors.As(err, &f) && (f.at >= 0 || errors.Is(err, errIdle) || errors.As(err, &said) || isUnsent(err)); err != nil && conn.Conn().IsClosed() && !blamed {
		return Transient(err)
	}
	return err
}

// isUnsent reports whether pgx could not encode an argument of a pgx.Batch. It then closes a connection that works if
// statements of the batch are queued already.
func isUnsent(err error) bool {
	return errors.As(err, new(pgx.ErrPreprocessingBatch)) && !pgerr.Network(err)
}

// connect acquires a connection, and gives up if Postgres does not answer.
func (w *worker) connect(ctx context.Context) (conn *pgpool.Conn, err error) {
	err = w.engine.answered(ctx, func(ctx context.Context) error {
		conn, err = w.engine.pool.Acquire(ctx)
		return err
	})
	return conn, err
}

// minSilence and maxSilence bound how long Postgres may take for work without the application's code. Otherwise a dead
// connection could block a partition while another connection keeps renewing its lease.
const (
	minSilence = 5 * time.Second
	maxSilence = 15 * time.Second
)

func (e *engine) silence() time.Duration {
	return min(max(6*e.config.Lease, minSilence), maxSilence)
}

// answered calls do, which uses Postgres and no application code, and gives up if Postgres does not answer.
func (e *engine) answered(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.silence(), pgpool.ErrNoAnswer)
	defer cancel()
	err := do(ctx)
	if err != nil && errors.Is(context.Cause(ctx), pgpool.ErrNoAnswer) {
		return Transient(fmt.Errorf("%w: %w", pgpool.ErrNoAnswer, err))
	}
	return err
}
