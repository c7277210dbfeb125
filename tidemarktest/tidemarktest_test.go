package tidemarktest_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

func TestMain(m *testing.M) { tidemarktest.Main(m) }

type deposited struct{ Amount int }

var events = codec.New(codec.Of("deposited", func(e deposited) deposited { return e }))

type balance struct {
	Account string `db:"account,key"`
	Amount  int
}

func balances() *projection.Projection {
	return projection.NewTable("balances", &projection.Options{DDL: `create table {balances} (account text primary key, amount int not null)`},
		projection.Fold(events, func(e eventstore.Event[deposited]) string { return e.Stream.Key },
			func(row *balance, e eventstore.Event[deposited]) projection.Op {
				row.Amount += e.Data.Amount
				return projection.Put
			}))
}

func deposit(t testing.TB, env *tidemarktest.Env, amount int) eventstore.Position {
	t.Helper()
	draft, err := events.Encode(deposited{amount})
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := env.Store.Append(t.Context(), eventstore.StreamID{Category: "account", Key: "ada"}, eventstore.Any, draft)
	if err != nil {
		t.Fatal(err)
	}
	return receipt.Position
}

// check fails unless a read model in a database of its own shows the events of this test alone.
func check(t *testing.T, config *tidemarktest.Config, amount int) {
	t.Helper()
	env := tidemarktest.New(t, config)
	runner := env.Run(balances())
	if err := runner.Wait(t.Context(), deposit(t, env, amount)); err != nil {
		t.Fatal(err)
	}
	var got int
	if err := env.Pool.QueryRow(t.Context(), `select amount from balances where account = 'ada'`).Scan(&got); err != nil || got != amount {
		t.Errorf("the balance is %d, %v; want %d", got, err, amount)
	}
}

// TestNew: tests in parallel have databases of their own.
func TestNew(t *testing.T) {
	t.Parallel()
	for n := range 8 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			check(t, nil, n+1)
		})
	}
}

// TestEnd: at the end of a test its database is gone, and no goroutine of it runs.
func TestEnd(t *testing.T) {
	t.Parallel()
	var env *tidemarktest.Env
	t.Run("inner", func(t *testing.T) {
		env = tidemarktest.New(t, nil)
		env.Run(balances())
	})
	if err := env.Pool.Ping(context.Background()); err == nil {
		t.Error("the pool is open after the test")
	}
	conn, err := pgx.Connect(t.Context(), env.URL)
	if err == nil {
		conn.Close(t.Context())
		t.Error("the database is there after the test")
	}
}

// TestContainer: tests have databases of their own in a container too, where the tests run with Docker.
func TestContainer(t *testing.T) {
	t.Parallel()
	image := os.Getenv("TIDEMARK_POSTGRES_IMAGE")
	if os.Getenv("TIDEMARK_POSTGRES") != "container" || image == "" {
		t.Skip("TIDEMARK_POSTGRES=container and TIDEMARK_POSTGRES_IMAGE ask for it")
	}
	for n := range 2 {
		check(t, &tidemarktest.Config{Image: image}, n+7)
	}
}

// failing is a test that records its failures.
type failing struct {
	testing.TB
	mu    sync.Mutex
	texts []string
}

func (f *failing) note(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.texts = append(f.texts, text)
}

func (f *failing) Errorf(format string, args ...any) { f.note(fmt.Sprintf(format, args...)) }

func (f *failing) Fatal(args ...any) {
	f.note(fmt.Sprint(args...))
	runtime.Goexit()
}

// TestRunnerEnds: a runner that cannot run fails the test twice: in Run, and at the end.
func TestRunnerEnds(t *testing.T) {
	t.Parallel()
	f := &failing{}
	t.Run("inner", func(t *testing.T) {
		f.TB = t
		done := make(chan struct{})
		go func() {
			defer close(done)
			tidemarktest.New(f, nil).Run(projection.New("broken",
				&projection.Options{DDL: "create tabel {broken} (a text)", Tables: []string{"broken"}},
				projection.On(events, func(context.Context, pgx.Tx, eventstore.Event[deposited]) error { return nil })))
		}()
		<-done
	})
	if len(f.texts) != 2 || !strings.Contains(f.texts[0], "the runner has ended") || !strings.Contains(f.texts[1], "tabel") {
		t.Errorf("the test has failed with %q, want two failures that say why", f.texts)
	}
}
