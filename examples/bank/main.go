// Command bank is a bank on an event store: a complete service to read, run and copy from.
//
//	go run ./examples/bank                    # serve on http://localhost:8080
//	go run ./examples/bank import FILE[.gz]   # import a bank's transaction file
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
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/examples/internal/host"
	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/service"
	"github.com/tidemark-es/tidemark/snapshot"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "the `address` to serve on")
	data := flag.String("data", "", "a `folder` to keep the data of the bank's own Postgres in")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "usage: bank [flags]                    serve\n"+
			"       bank [flags] import FILE[.gz]   import a bank's transaction file\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if n := flag.NArg(); n != 0 && (n != 2 || flag.Arg(0) != "import") {
		fmt.Fprintf(os.Stderr, "bank: %q: want no arguments, or import and a file, after the flags\n", flag.Args())
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once

	var err error
	if file := flag.Arg(1); file != "" {
		err = runImport(ctx, *data, file)
	} else {
		err = serve(ctx, *addr, *data)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bank:", err)
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
	err = withBank(ctx, data, func(ctx context.Context, b *bank) error {
		slog.Info("the bank accepts requests", "url", "http://"+listener.Addr().String())
		return service.Serve(ctx, listener, b.mux, b.mux.Close)
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // interrupted while it started
	}
	return err
}

// withBank calls do with a bank whose projections run.
func withBank(ctx context.Context, data string, do func(context.Context, *bank) error) error {
	return host.WithPostgres(ctx, data, func(ctx context.Context, url string, kept bool) error {
		b, err := open(ctx, url)
		if err != nil {
			return err
		}
		defer b.close()
		b.kept = kept
		return service.Run(ctx, b.runner, func(ctx context.Context) error { return do(ctx, b) })
	})
}

// bank holds the parts of the service.
type bank struct {
	pool      *pgxpool.Pool
	store     *eventstore.Store
	snapshots *snapshot.Snapshotter
	accounts  *accounts
	bus       *command.Bus
	runner    *projection.Runner
	mux       *httpapi.Mux
	kept      bool // the database is kept when the program ends
}

type accounts = aggregate.Repository[account.Account, account.Event]

// cached is how many accounts are kept in memory, each in the state after its last command.
const cached = 1000

// open connects to Postgres, migrates the schema and builds the parts of the service. Nothing runs yet.
func open(ctx context.Context, url string) (*bank, error) {
	pool, err := service.Connect(ctx, url, &service.Config{MaxConns: importers + 8})
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
	if err := createReadModels(ctx, b.pool); err != nil {
		return err
	}
	if b.store, err = eventstore.New(b.pool, nil); err != nil {
		return err
	}
	saved, err := snapshot.NewPostgres(b.pool, &snapshot.PostgresConfig{
		Retention: snapshot.Retention{Latest: 1, Period: 24 * time.Hour},
	})
	if err != nil {
		return err
	}
	if b.snapshots, err = snapshot.NewSnapshotter(saved, nil); err != nil { // after every 100 events of an account
		return err
	}
	config := &aggregate.Config{Snapshots: b.snapshots, CacheSize: cached}
	if b.accounts, err = aggregate.NewRepository(b.store, account.Definition, config); err != nil {
		return err
	}
	b.bus = newBus(b.store, b.accounts)
	if b.runner, err = projection.NewRunner(b.pool, b.store, nil, readModels()...); err != nil {
		return err
	}
	a := &api{bus: b.bus, queries: newQueries(b.pool, b.runner), accounts: b.accounts, runner: b.runner}
	b.mux, err = a.mux()
	return err
}

// close saves the waiting snapshots and disconnects. The bank must not be used after that.
func (b *bank) close() {
	b.snapshots.Close()
	b.store.Close()
	b.pool.Close()
}
