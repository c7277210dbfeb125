// Package host is what the examples have in common around the service itself: a Postgres to run
// on, a server to serve with, and a display of progress.
//
// # Guarantees
//
//   - What was started is stopped, in reverse order, before a function returns.
package host

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/localpg"
)

// WithPostgres calls do with the connection string of a Postgres: the one that DATABASE_URL names,
// or one that is started and stopped here, with its data in the folder dir. Without dir the data
// are gone at the end; kept says that they are not.
func WithPostgres(ctx context.Context, dir string, do func(ctx context.Context, url string, kept bool) error) error {
	if dir != "" && os.Getenv("DATABASE_URL") != "" {
		return errors.New("-data keeps a Postgres of the program's own, but DATABASE_URL names another one: choose one of them")
	}
	postgres, err := localpg.Start(ctx, &localpg.Config{Durable: true, Dir: dir})
	if err != nil {
		return err
	}
	kept := dir != "" || postgres.Source() == localpg.URL
	slog.Info("Postgres is ready", "source", postgres.Source(), "kept", kept)
	err = Alongside(ctx,
		func(ctx context.Context) error {
			select {
			case <-postgres.Done():
				return errors.New("the program's Postgres has ended")
			case <-ctx.Done():
				return nil
			}
		},
		func(ctx context.Context) error { return do(ctx, postgres.URL(), kept) })
	return errors.Join(err, postgres.Stop())
}

// Alongside runs background for as long as do runs: it is cancelled when do has returned, and not
// by ctx, so that what do finishes after ctx is done can still rely on it. When background fails,
// do is cancelled.
func Alongside(ctx context.Context, background, do func(context.Context) error) error {
	backgroundCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return background(backgroundCtx) })
	group.Go(func() error {
		defer stop()
		return do(ctx)
	})
	return group.Wait()
}

const (
	readTime  = 10 * time.Second // for a client to send a request
	drainTime = 10 * time.Second // for requests under way, when the service closes
)

// Serve serves until ctx is done, and then finishes the requests under way. onShutdown is called
// when that begins.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, onShutdown func()) error {
	server := &http.Server{Handler: handler, ReadTimeout: readTime, IdleTimeout: time.Minute}
	server.RegisterOnShutdown(onShutdown)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	slog.Info("closing")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		slog.Warn("some clients were cut off", "error", err)
		return server.Close()
	}
	return nil
}
