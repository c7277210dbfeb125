package service_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
	"github.com/tidemark-es/tidemark/service"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestConnect: the schema is migrated, and the pool has the configured number of connections.
func TestConnect(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		suffix string
		config *service.Config
		conns  int32
	}{
		"default":              {"", nil, 16},
		"by the configuration": {"", &service.Config{MaxConns: 3, Schema: "other"}, 3},
		"by the address":       {"&pool_max_conns=5", &service.Config{MaxConns: 3}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := pgtest.EmptyURL(t)
			if test.suffix != "" && !strings.Contains(url, "?") {
				url += "?"
			}
			pool, err := service.Connect(t.Context(), url+test.suffix, test.config)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			schema := &migrations.Config{}
			if test.config != nil {
				schema.Schema = test.config.Schema
			}
			if err := migrations.Validate(t.Context(), pool, schema); err != nil {
				t.Error(err)
			}
			if conns := pool.Config().MaxConns; conns != test.conns {
				t.Errorf("%d connections, want %d", conns, test.conns)
			}
		})
	}
}

func TestConnectRefuses(t *testing.T) {
	t.Parallel()
	for url, config := range map[string]*service.Config{
		"postgres://localhost:none/":             nil,
		"postgres://localhost/x?sslmode=disable": {MaxConns: -1},
	} {
		if _, err := service.Connect(t.Context(), url, config); !errors.Is(err, eventstore.ErrInvalid) {
			t.Errorf("%s: %v, want an InvalidError", url, err)
		}
	}
	if _, err := service.Connect(t.Context(), "postgres://127.0.0.1:1/x?sslmode=disable", nil); err == nil || !strings.Contains(err.Error(), "service.Connect: ") {
		t.Errorf("no server listens there: %v", err)
	}
}

// TestAlongside: the background outlives ctx and ends with do. When the background fails, do ends too.
func TestAlongside(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	ended := false
	err := service.Alongside(ctx,
		func(background context.Context) error {
			<-background.Done()
			ended = true
			return nil
		},
		func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			if ended {
				t.Error("the background ended with ctx")
			}
			return ctx.Err()
		})
	if !errors.Is(err, context.Canceled) || !ended {
		t.Errorf("%v, background ended: %v", err, ended)
	}

	broken := errors.New("broken")
	err = service.Alongside(t.Context(),
		func(context.Context) error { return broken },
		func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
	if !errors.Is(err, broken) {
		t.Errorf("%v, want why the background failed", err)
	}
}

// runner is a runner that records the order of events.
type runner struct {
	events chan string
	fails  error
}

func (r *runner) Run(ctx context.Context) error {
	if r.fails != nil {
		return r.fails
	}
	<-ctx.Done()
	r.events <- "runner stopped"
	return nil
}

func (r *runner) Wait(ctx context.Context, position eventstore.Position, _ ...string) error {
	if r.fails != nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	r.events <- "tables are there"
	return nil
}

// TestRunAndServe: requests are taken when the tables exist. At the end a request under way is finished while the
// runner still runs.
func TestRunAndServe(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{events: make(chan string, 10)}
	begun, shutdown := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-shutdown
		r.events <- "request finished"
		_, _ = io.WriteString(w, "done")
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- service.Run(ctx, r, func(ctx context.Context) error {
			r.events <- "serving"
			return service.Serve(ctx, listener, handler, func() { close(shutdown) })
		})
	}()
	answers := make(chan string, 1)
	go func() {
		answer, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			answers <- err.Error()
			return
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		answers <- string(text)
	}()
	<-begun
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if answer := <-answers; answer != "done" {
		t.Errorf("the request under way was answered %q", answer)
	}
	for _, want := range []string{"tables are there", "serving", "request finished", "runner stopped"} {
		if got := <-r.events; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestRunFails: when the runner fails, nothing is served.
func TestRunFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	err := service.Run(t.Context(), &runner{fails: broken}, func(context.Context) error {
		t.Error("it serves")
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("%v, want why the runner failed", err)
	}
}
