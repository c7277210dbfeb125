package service_test

import (
	"context"
	"net"
	"net/http"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/service"
)

// A whole program: a pool, the schema, projections, and a server that closes in order when ctx is done.
func ExampleRun() {
	serve := func(ctx context.Context, url string, handler http.Handler, projections ...*projection.Projection) error {
		pool, err := service.Connect(ctx, url, nil)
		if err != nil {
			return err
		}
		defer pool.Close()
		store, err := eventstore.New(pool, nil)
		if err != nil {
			return err
		}
		defer store.Close()
		runner, err := projection.NewRunner(pool, store, nil, projections...)
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", "localhost:8080")
		if err != nil {
			return err
		}
		return service.Run(ctx, runner, func(ctx context.Context) error { return service.Serve(ctx, listener, handler) })
	}
	_ = serve // with a context of signal.NotifyContext
}
