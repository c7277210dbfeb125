// Command orders is an order service on an event store: orders, stock, customers and revenue.
//
//	go run ./examples/orders                                          # serve on http://localhost:8080
//	go run ./examples/orders simulate -orders N -workers W -seed S    # let customers order, then check everything
//
// It uses the Postgres that DATABASE_URL names, or starts one of its own. The data of its own Postgres are
// deleted when the program ends, unless -data names a folder to keep them in.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/internal/host"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/service"
	"github.com/tidemark-es/tidemark/snapshot"
)

const usage = `usage: orders [flags]                     serve
       orders [flags] simulate [flags]    let customers order, then check everything
`

func main() {
	addr := flag.String("addr", "localhost:8080", "the `address` to serve on")
	data := flag.String("data", "", "a `folder` to keep the data of the service's own Postgres in")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once

	var err error
	switch flag.Arg(0) {
	case "":
		err = serve(ctx, *addr, *data)
	case "simulate":
		err = runSimulation(ctx, *data, parseSimulation(flag.Args()[1:]))
	default:
		fmt.Fprintf(os.Stderr, "orders: %q: want no arguments or simulate after the flags\n", flag.Args())
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

// serve answers requests until ctx is done.
func serve(ctx context.Context, addr, data string) error {
	listener, err := net.Listen("tcp", addr) // first, because everything else takes time
	if err != nil {
		return err
	}
	defer listener.Close()
	err = withApp(ctx, data, func(ctx context.Context, s *app) error {
		slog.Info("the order service accepts requests", "url", "http://"+listener.Addr().String())
		return service.Serve(ctx, listener, s.mux, s.mux.Close)
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // interrupted while it started
	}
	return err
}

// withApp calls do with an order service whose projections run.
func withApp(ctx context.Context, data string, do func(context.Context, *app) error) error {
	return host.WithPostgres(ctx, data, func(ctx context.Context, url string, kept bool) error {
		s, err := open(ctx, url)
		if err != nil {
			return err
		}
		defer s.close()
		s.kept = kept
		return service.Run(ctx, s.runner, func(ctx context.Context) error { return do(ctx, s) })
	})
}

// app holds the parts of the order service.
type app struct {
	pool      *pgxpool.Pool
	store     *eventstore.Store
	snapshots *snapshot.Snapshotter
	bus       *command.Bus
	runner    *projection.Runner
	mux       *httpapi.Mux
	kept      bool // the database is kept when the program ends
}

// open connects to Postgres, migrates the schema and builds the parts of the service. Nothing runs yet.
func open(ctx context.Context, url string) (*app, error) {
	pool, err := service.Connect(ctx, url, &service.Config{MaxConns: 24})
	if err != nil {
		return nil, err
	}
	s := &app{pool: pool}
	if err := s.wire(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return s, nil
}

func (s *app) wire(ctx context.Context) (err error) {
	if err := createReadModels(ctx, s.pool); err != nil {
		return err
	}
	if s.store, err = eventstore.New(s.pool, nil); err != nil {
		return err
	}
	saved, err := snapshot.NewPostgres(s.pool, nil)
	if err != nil {
		return err
	}
	if s.snapshots, err = snapshot.NewSnapshotter(saved, nil); err != nil { // popular items have thousands of events
		return err
	}
	// Many customers want the same items, so commands conflict often and need more attempts than the default.
	// In a simulation of 5000 orders with 64 workers, 271 commands were given up with 10 attempts, and 4 with 50.
	if s.bus, err = newBus(s.store, &aggregate.Config{MaxAttempts: 50, Snapshots: s.snapshots}); err != nil {
		return err
	}
	if s.runner, err = projection.NewRunner(s.pool, s.store, nil, readModels()...); err != nil {
		return err
	}
	a := &api{bus: s.bus, queries: newQueries(s.pool, s.runner), runner: s.runner}
	s.mux, err = a.mux()
	return err
}

// close saves the waiting snapshots and disconnects. The service must not be used after that.
func (s *app) close() {
	s.snapshots.Close()
	s.store.Close()
	s.pool.Close()
}
