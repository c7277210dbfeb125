package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// forceVar names the environment variable that forces one [Source].
const forceVar = "TIDEMARK_POSTGRES"

// ErrNoPostgres is returned when there is no Postgres. The error that wraps it says what to provide.
var ErrNoPostgres = errors.New("no Postgres found")

// Source says where a [Server] comes from. The environment variable TIDEMARK_POSTGRES has the same values.
type Source string

// The sources, in the order in which Start tries them.
const (
	URL       Source = "url"
	Local     Source = "local"
	Container Source = "container"
	Download  Source = "download"
)

// Config says what kind of server to start. Nil and the zero value ask for a temporary server that is fast rather than
// durable.
type Config struct {
	// URL is the connection string of an existing server. If it is set, no other source is tried. Empty means none.
	URL string

	// URLVar names the environment variable that holds an existing server's
	// connection string. Empty means DATABASE_URL.
	URLVar string

	// Durable leaves fsync, synchronous_commit and full_page_writes on, as examples and benchmarks want. By default
	// they are off, and on Linux the data are in memory (/dev/shm) if 4 GiB are free there and Dir is empty.
	Durable bool

	// Dir keeps the cluster in this folder across runs. Empty means a private
	// temporary folder that disappears with the server.
	Dir string

	// Settings are further server settings, which win over ours. They do not apply to a server named by its URL.
	Settings map[string]string

	// Logger is told, at debug level, which server was started. Nil means
	// slog.Default().
	Logger *slog.Logger
}

// Server is a running Postgres. It is safe for concurrent use.
type Server struct {
	url    string
	source Source
	stop   func() error
	done   <-chan struct{} // nil if the end of the server cannot be noticed
}

// URL returns a connection string for a database that exists, with a user who may create other databases.
func (s *Server) URL() string { return s.url }

// Source returns where the server comes from.
func (s *Server) Source() Source { return s.source }

// Done returns a channel that is closed when the server has ended, by Stop or by itself. It is nil for a server that
// was not started from binaries.
func (s *Server) Done() <-chan struct{} { return s.done }

// Stop stops the server and returns when nothing of it is left. A server named by its URL is left alone. Stop can be
// called again, and then returns the same error.
func (s *Server) Stop() error { return s.stop() }

// errAbsent means that a source is not there at all, so that the next one is tried. A source that is there but does not
// work ends the search with its error.
var errAbsent = errors.New("absent")

// absence is the reason why a source is not there. Its text is that of the reason alone.
type absence struct{ reason error }

func (a absence) Error() string        { return a.reason.Error() }
func (a absence) Is(target error) bool { return target == errAbsent }
func (a absence) Unwrap() error        { return a.reason }

// Start returns a Postgres that accepts connections. Cancelling ctx ends an attempt to start one. It has no effect on a
// server that Start has returned.
func Start(ctx context.Context, config *Config) (*Server, error) {
	if config == nil {
		config = &Config{}
	}
	begun := time.Now()
	server, err := config.choose(func(source Source) (*Server, error) {
		switch source {
		case URL:
			return config.startURL(ctx)
		case Local:
			return config.startLocal(ctx)
		case Container:
			return config.startContainer(ctx)
		default:
			return config.startDownload(ctx)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("localpg: %w", err)
	}
	server.stop = sync.OnceValue(server.stop)
	logger := cmp.Or(config.Logger, slog.Default())
	logger.DebugContext(ctx, "postgres started", "source", server.source, "took", time.Since(begun))
	return server, nil
}

// choose tries the sources in turn until one is there.
func (c *Config) choose(try func(Source) (*Server, error)) (*Server, error) {
	sources := []Source{URL, Local, Container, Download}
	if c.URL != "" {
		return try(URL)
	}
	if forced := Source(os.Getenv(forceVar)); forced != "" {
		if !slices.Contains(sources, forced) {
			return nil, fmt.Errorf("%s=%s: want url, local, container or download", forceVar, forced)
		}
		sources = []Source{forced}
	}
	var reasons []error
	for _, source := range sources {
		server, err := try(source)
		if !errors.Is(err, errAbsent) {
			return server, err
		}
		reasons = append(reasons, err)
	}
	if len(sources) == 1 {
		return nil, fmt.Errorf("%w: %s=%s, but %w", ErrNoPostgres, forceVar, sources[0], reasons[0])
	}
	return nil, fmt.Errorf("%w: none is installed, Docker does not answer, and %w. Set %s to the connection "+
		"string of a server, install Postgres (its folder on PATH or in PG_BIN), start Docker, or connect this "+
		"machine to a network, for a download", ErrNoPostgres, reasons[len(reasons)-1], c.urlVar())
}

// answerWithin is how long a server that is named by its URL can take to answer.
const answerWithin = 10 * time.Second

var errSilent = fmt.Errorf("no answer within %s: is it Postgres?", answerWithin)

func (c *Config) startURL(ctx context.Context) (*Server, error) {
	url, from := c.URL, "Config.URL"
	if url == "" {
		url, from = os.Getenv(c.urlVar()), c.urlVar()
	}
	if url == "" {
		return nil, fmt.Errorf("%s is %w", c.urlVar(), errAbsent)
	}
	// A port can accept connections and send nothing back.
	ctx, cancel := context.WithTimeoutCause(ctx, answerWithin, errSilent)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = fmt.Errorf("%w: %w", errSilent, err)
	}
	if err != nil {
		return nil, fmt.Errorf("the server named by %s: %w", from, err)
	}
	if err := conn.Close(ctx); err != nil {
		return nil, fmt.Errorf("the server named by %s: %w", from, err)
	}
	return &Server{url: url, source: URL, stop: func() error { return nil }}, nil
}

func (c *Config) urlVar() string { return cmp.Or(c.URLVar, "DATABASE_URL") }

// settings returns the server's settings as command-line arguments.
func (c *Config) settings() []string {
	settings := map[string]string{
		"max_connections":           "200",
		"max_prepared_transactions": "16",
	}
	if !c.Durable {
		settings["fsync"] = "off"
		settings["synchronous_commit"] = "off"
		settings["full_page_writes"] = "off"
		settings["max_wal_size"] = "256MB"              // the WAL may be in memory
		settings["dynamic_shared_memory_type"] = "mmap" // in the server's folder, which is removed with the server
	}
	maps.Copy(settings, c.Settings)
	var args []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}

// readyTimeout bounds the wait for a server that runs but does not answer.
const readyTimeout = time.Minute

// awaitReady returns when url accepts connections. It returns an error when ctx is done, when the server has ended, or
// after readyTimeout.
func awaitReady(ctx context.Context, url string, ended func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := pgx.Connect(ctx, url)
		if err == nil {
			return conn.Close(ctx)
		}
		if ended() {
			return errors.New("the server ended before it was ready")
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer yet: %w", errors.Join(context.Cause(ctx), err))
		}
	}
}
