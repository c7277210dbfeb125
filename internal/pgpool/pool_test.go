//go:build unix

package pgpool_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgpool"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func newPool(t *testing.T, conns int32) *pgxpool.Pool {
	t.Helper()
	return pgtest.Connect(t, pgtest.URL(t), func(c *pgxpool.Config) { c.MaxConns = conns })
}

// inUse takes all connections of a pool until the test ends.
func inUse(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for range pool.Config().MaxConns {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Release)
	}
}

// TestSparesInTurn: connections beside the pool are given in the order of arrival. So no caller waits without end
// behind callers that always want one.
func TestSparesInTurn(t *testing.T) {
	t.Parallel()
	raw := newPool(t, 1)
	inUse(t, raw)
	pool := pgpool.New(raw)
	ctx, cancel := context.WithCancel(t.Context())
	greedy := make(chan struct{})
	const many = 8
	for range many {
		go func() {
			defer func() { greedy <- struct{}{} }()
			for ctx.Err() == nil {
				conn, err := pool.Acquire(ctx)
				if err != nil {
					return
				}
				select { // the connection is used for some time
				case <-time.After(500 * time.Millisecond):
				case <-ctx.Done():
				}
				conn.Release()
			}
		}()
	}
	for range 4 {
		start := time.Now()
		conn, err := pool.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		conn.Release()
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("a connection after %s", took)
		}
	}
	cancel()
	for range many {
		<-greedy
	}
}

// TestBusyPool: a pool whose connections are all in use is not treated as a pool whose connections are dead: each
// caller waits for it the full time before a connection is made beside it.
func TestBusyPool(t *testing.T) {
	t.Parallel()
	raw := newPool(t, 2)
	inUse(t, raw)
	pool := pgpool.New(raw)
	for range 2 {
		start := time.Now()
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		if took := time.Since(start); took < pgpool.Connect {
			t.Errorf("a connection beside the pool after %s, want it after %s", took, pgpool.Connect)
		}
	}
}

// TestSilentHost: a host that does not answer leaves time for the next one.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	node := pgtest.NewNode(t, nil)
	silent, good := pgtest.NewGate(t, node.Socket), pgtest.NewGate(t, node.Socket)
	silent.Silence()
	raw := pgtest.Connect(t, "postgres://postgres@"+silent.Address()+","+good.Address()+"/postgres?sslmode=disable", nil)
	t.Cleanup(silent.Cut) // done before the pool is closed, because closing waits for the connections
	start := time.Now()
	conn, err := pgpool.New(raw).Dial(t.Context())
	if err != nil {
		t.Fatalf("after %s: %v", time.Since(start), err)
	}
	pgpool.Close(conn)
}

// TestPatient: a patient statement that works for longer than usual is left alone. It is given up as soon as its
// session is known to do nothing.
func TestPatient(t *testing.T) {
	t.Parallel()
	node := pgtest.NewNode(t, nil)
	ctx := pgpool.Patient(t.Context())
	t.Run("works", func(t *testing.T) {
		t.Parallel()
		pool := pgpool.New(pgtest.NewGate(t, node.Socket).Pool(t, 1))
		if _, err := pool.Exec(ctx, `select pg_sleep(13)`); err != nil {
			t.Error(err)
		}
	})
	t.Run("does nothing", func(t *testing.T) {
		t.Parallel()
		gate := pgtest.NewGate(t, node.Socket)
		pool := pgpool.New(gate.Pool(t, 1))
		if _, err := pool.Exec(ctx, `select`); err != nil {
			t.Fatal(err)
		}
		start, forget := time.Now(), time.AfterFunc(time.Second, gate.Forget)
		defer forget.Stop()
		_, err := pool.Exec(ctx, `select pg_sleep(3)`)
		if took := time.Since(start); !errors.Is(err, pgpool.ErrNoAnswer) || took > pgpool.Answer+2*pgpool.Connect {
			t.Errorf("%v after %s, want ErrNoAnswer", err, took)
		}
	})
}

// TestCommitWaitsForStandby: a commit that waits for a synchronous standby is not taken for a dead connection.
func TestCommitWaitsForStandby(t *testing.T) {
	t.Parallel()
	node := pgtest.NewNode(t, nil)
	pool := pgpool.New(pgtest.NewGate(t, node.Socket).Pool(t, 2))
	if _, err := pool.Exec(t.Context(), `create table t (n int)`); err != nil {
		t.Fatal(err)
	}
	later := time.AfterFunc(pgpool.Answer+3*time.Second, node.AwaitStandby(t))
	defer later.Stop()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	start := time.Now()
	watch := pool.WatchCommit(conn.Conn(), pgpool.Answer)
	_, err = conn.Conn().Exec(t.Context(), `insert into t values (1)`)
	if err := watch.Stop(err); err != nil || time.Since(start) < pgpool.Answer {
		t.Errorf("%v after %s, want no error once the commit does not wait for the standby", err, time.Since(start))
	}
}

// TestNobodyThere: if it is not possible to connect to Postgres in time, the error is ErrNoAnswer and says that nothing
// was done. It is not mistaken for the end of the caller's context.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	gate := pgtest.NewGate(t, func() (string, error) { return "", nil })
	gate.Silence()
	_, err := pgpool.New(gate.Pool(t, 0)).Exec(t.Context(), `select`)
	if !errors.Is(err, pgpool.ErrNoAnswer) || errors.Is(err, context.DeadlineExceeded) || !pgerr.NothingDone(fmt.Errorf("append: %w", err)) {
		t.Errorf("%v", err)
	}
}
