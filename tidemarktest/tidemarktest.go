package tidemarktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// Config adjusts [New]. Nil and the zero value are the defaults.
type Config struct {
	// Image is the image of Postgres that testcontainers-go runs for the tests of this process. Empty means the value
	// of the environment variable TIDEMARKTEST_IMAGE. If that is empty too, it is the first server that package localpg
	// finds.
	Image string
	// Connections is how many connections the pool may have; 0 means 8.
	Connections int
	// Store and Runner are the configurations of the test's store and runner; nil means their defaults.
	Store  *eventstore.Config
	Runner *projection.Config
}

// Env is the database of a test, with a store. Its methods must be called from the goroutine of the test.
type Env struct {
	URL   string // of the database
	Pool  *pgxpool.Pool
	Store *eventstore.Store

	t      testing.TB
	config Config
}

// New returns a migrated database of the test's own, with a store over it. It fails the test if there is no Postgres.
func New(t testing.TB, config *Config) *Env {
	t.Helper()
	e := &Env{t: t}
	if config != nil {
		e.config = *config
	}
	if e.config.Connections == 0 {
		e.config.Connections = 8
	}
	e.URL = pgtest.URLAt(t, e.config.server(t))
	e.Pool = pgtest.Connect(t, e.URL, func(c *pgxpool.Config) { c.MaxConns = int32(e.config.Connections) })
	store, err := eventstore.New(e.Pool, e.config.Store)
	if err != nil {
		t.Fatal(err)
	}
	e.Store = store
	t.Cleanup(store.Close)
	return e
}

// EmptyURL returns the connection string of an empty database of the test's own, for a service that applies the
// migrations itself. Only the Image of config matters.
func EmptyURL(t testing.TB, config *Config) string {
	t.Helper()
	if config == nil {
		config = &Config{}
	}
	return pgtest.EmptyURLAt(t, config.server(t))
}

// server returns the connection string of the server for a test's database, or "" for the server that package localpg
// finds.
func (c *Config) server(t testing.TB) string {
	t.Helper()
	image := cmp.Or(c.Image, os.Getenv(imageVar))
	if image == "" {
		return ""
	}
	server, err := container(image)
	if err != nil {
		t.Fatalf("tidemarktest: run a container of %s: %v", image, err)
	}
	return server
}

// imageVar names the environment variable that stands for Config.Image.
const imageVar = "TIDEMARKTEST_IMAGE"

// Run runs projections until the end of the test. It returns the runner when the tables of the projections exist. To
// wait for an event, call [projection.Runner.Wait].
func (e *Env) Run(projections ...*projection.Projection) *projection.Runner {
	e.t.Helper()
	runner, err := projection.NewRunner(e.Pool, e.Store, e.config.Runner, projections...)
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	waiting, giveUp := context.WithCancelCause(e.t.Context())
	go func() {
		err := runner.Run(ctx)
		giveUp(err) // the runner reaches no further position
		ended <- err
	}()
	e.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			e.t.Errorf("tidemarktest: the runner has ended: %v", err)
		}
	})
	if err := runner.Wait(waiting, 0); err != nil {
		e.t.Fatal(err)
	}
	return runner
}

// Main runs the tests of a package, stops the servers that were started for them, and exits. A package need not call
// it: the servers of a process end with the process, and the reaper of testcontainers removes a container of
// [Config.Image].
func Main(m *testing.M) {
	code := m.Run()
	if err := errors.Join(pgtest.Stop(), stopContainers()); err != nil {
		fmt.Fprintln(os.Stderr, "tidemarktest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}
