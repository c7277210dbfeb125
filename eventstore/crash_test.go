//go:build unix

package eventstore_test

import (
	"context"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// crashing is the Postgres server of a single test. It can be killed, and starts again with the same data.
type crashing struct{ node *pgtest.Node }

func startCrashing(t *testing.T) *crashing {
	t.Helper()
	return &crashing{pgtest.NewNode(t, nil)}
}

func (c *crashing) dial(ctx context.Context) (net.Conn, error) { return c.node.Dial(ctx) }

// pool returns a pool whose connections are made by dial. The pool is closed when the test ends.
func (c *crashing) pool(t *testing.T, connections int32, dial func(context.Context) (net.Conn, error)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(c.node.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = connections
	config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// crash kills all processes of the server, whatever they are doing, and starts it again.
func (c *crashing) crash() error {
	if err := c.node.Kill(); err != nil {
		return err
	}
	return c.node.Start()
}
