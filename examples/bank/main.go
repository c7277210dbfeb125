// Command bank is a bank on an event store: a complete service to read, run and copy from.
//
//	go run ./examples/bank                    # serve on http://localhost:8080
//	go run ./examples/bank import FILE[.gz]   # import a bank's transaction file
//
// It uses the Postgres that DATABASE_URL names, or starts one of its own, which is gone when the
// program ends unless -data names a folder to keep it in.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/internal/localpg"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/projection"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "the address to serve on")
	data := flag.String("data", "", "a folder to keep the bank's own Postgres in")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: bank [flags] [import FILE[.gz]]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if n := flag.NArg(); n != 0 && (n != 2 || flag.Arg(0) != "import") {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *data, flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, "bank:", err)
		stop()
		os.Exit(1)
	}
}

// run serves until ctx is done or, with a file, imports it and returns.
func run(ctx context.Context, addr, data, file string) error {
	postgres, err := localpg.Start(ctx, &localpg.Config{Durable: true, Dir: data})
	if err != nil {
		return err
	}
	return errors.Join(runOn(ctx, postgres.URL(), addr, file), postgres.Stop())
}

func runOn(ctx context.Context, url, addr, file string) error {
	b, err := open(ctx, url)
	if err != nil {
		return err
	}
	defer b.pool.Close()

	// The projections outlive the requests that wait for them.
	runnerCtx, stopRunner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRunner()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return b.runner.Run(runnerCtx) })
	group.Go(func() error {
		defer stopRunner()
		if file != "" {
			return runImport(ctx, b, file, os.Stdout)
		}
		return serve(ctx, addr, b.handler())
	})
	return group.Wait()
}

// bank is the service, wired.
type bank struct {
	pool   *pgxpool.Pool
	store  *eventstore.Store
	bus    *command.Bus
	runner *projection.Runner
}

// open connects, migrates and wires the service. Nothing runs yet.
func open(ctx context.Context, url string) (*bank, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = max(config.MaxConns, importers+8)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	b := &bank{pool: pool}
	if err := b.wire(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return b, nil
}

func (b *bank) wire(ctx context.Context) (err error) {
	if err := migrations.Up(ctx, b.pool, nil); err != nil {
		return err
	}
	if err := createReadModels(ctx, b.pool); err != nil {
		return err
	}
	if b.store, err = eventstore.New(b.pool, nil); err != nil {
		return err
	}
	b.bus = newBus(b.store)
	b.runner, err = projection.NewRunner(b.pool, b.store, nil, readModels()...)
	return err
}

func (b *bank) handler() http.Handler {
	a := &api{
		bus:      b.bus,
		queries:  newQueries(b.pool, b.runner),
		accounts: aggregate.NewRepository(b.store, account.Definition, nil),
		runner:   b.runner,
	}
	return a.handler()
}

// serve answers requests until ctx is done, and then finishes those under way.
func serve(ctx context.Context, addr string, handler http.Handler) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	slog.Info("the bank is open", "url", "http://"+listener.Addr().String())

	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	slog.Info("closing")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxTime+5*time.Second)
	defer cancel()
	return server.Shutdown(drain)
}
