package service

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/migrations"
)

// Config adjusts [Connect]. Nil and the zero value are the defaults.
type Config struct {
	// Schema is the Postgres schema of Tidemark's tables; empty means "tidemark".
	Schema string
	// MaxConns is how many connections the pool can have, unless the connection string sets pool_max_conns. 0 means 16:
	// a runner takes at most half of them for its batches.
	MaxConns int32
}

const (
	defaultConns = 16
	readTime     = 10 * time.Second // for a client to send a request
	idleTime     = time.Minute      // of a connection between two requests
	drainTime    = 10 * time.Second // for requests under way, when the service closes
)

// Connect returns a pool of connections to the database that url names. Before that it applies the migrations that are
// missing; several processes may do so at the same time. The caller closes the pool. Connect returns an
// [eventstore.InvalidError] for a Config or a url that is not valid.
func Connect(ctx context.Context, url string, config *Config) (*pgxpool.Pool, error) {
	var c Config
	if config != nil {
		c = *config
	}
	if c.MaxConns < 0 {
		return nil, &eventstore.InvalidError{Reason: fmt.Sprintf("service.Connect: Config.MaxConns is %d: want a number of connections, or 0 for %d", c.MaxConns, defaultConns)}
	}
	settings, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, &eventstore.InvalidError{Reason: fmt.Sprintf("service.Connect: %v", err)}
	}
	if !strings.Contains(url, "pool_max_conns") {
		settings.MaxConns = c.MaxConns
		if settings.MaxConns == 0 {
			settings.MaxConns = defaultConns
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, settings)
	if err != nil {
		return nil, fmt.Errorf("service.Connect: %w", err)
	}
	if err := migrations.Up(ctx, pool, &migrations.Config{Schema: c.Schema}); err != nil {
		pool.Close()
		return nil, fmt.Errorf("service.Connect: %w", err)
	}
	return pool, nil
}

// Runner runs projections: a projection.Runner is one.
type Runner interface {
	// Run runs until ctx is done.
	Run(ctx context.Context) error
	// Wait returns when the named projections, or all of them, have reached a position. Position 0 is reached when
	// their tables exist.
	Wait(ctx context.Context, position eventstore.Position, names ...string) error
}

// Run runs a runner until do has returned. It calls do when the tables of the read models exist. When ctx is done, the
// runner keeps running until do has returned. When the runner fails, the context of do is done. Run returns the first
// error of the two.
func Run(ctx context.Context, runner Runner, do func(context.Context) error) error {
	return Alongside(ctx, runner.Run, func(ctx context.Context) error {
		if err := runner.Wait(ctx, 0); err != nil {
			return err
		}
		return do(ctx)
	})
}

// Alongside runs background until do has returned. The context of background is done only then, so that do can rely on
// background while it finishes. When background fails, the context of do is done. Alongside returns the first error of
// the two.
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

// Serve serves until ctx is done. Then it calls the functions onShutdown, such as httpapi.Mux.Close, which ends
// requests that wait. The requests under way get 10 s. After that their connections are closed.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, onShutdown ...func()) error {
	server := &http.Server{Handler: handler, ReadTimeout: readTime, IdleTimeout: idleTime}
	for _, f := range onShutdown {
		server.RegisterOnShutdown(f)
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	slog.Info("service: closing")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		slog.Warn("service: some clients were cut off", "error", err)
		return server.Close()
	}
	return nil
}
