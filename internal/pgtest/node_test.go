//go:build unix

package pgtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// TestNodes: a standby receives the writes of its primary, and accepts none itself. When the primary is killed, the
// standby can be promoted. The old primary can be started again, with its old state.
func TestNodes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	a := pgtest.NewNode(t, nil)
	must(t, a.Exec(ctx, `create table seen (n int)`))
	b := a.Standby(t, "b", nil)
	must(t, a.Exec(ctx, `insert into seen values (1)`))
	pgtest.Until(t, 30*time.Second, "the standby has the row", func() bool { return count(t, b.URL()) == 1 })
	if err := b.Exec(ctx, `insert into seen values (2)`); err == nil {
		t.Error("a standby accepts writes")
	}
	must(t, a.Kill())
	must(t, b.Promote(ctx))
	must(t, b.Exec(ctx, `insert into seen values (2)`))
	both, err := pgx.Connect(ctx, pgtest.URLOf("read-write", a, b))
	must(t, err)
	defer both.Close(ctx)
	if n := count(t, b.URL()); n != 2 {
		t.Errorf("the promoted standby has %d rows, want 2", n)
	}
	must(t, a.Start())
	if n := count(t, a.URL()); n != 1 {
		t.Errorf("the old primary has %d rows, want 1", n)
	}
}

// TestNodeRestore: a restored node has the state that was saved, at the same address.
func TestNodeRestore(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	n := pgtest.NewNode(t, nil)
	must(t, n.Exec(ctx, `create table seen (n int)`))
	must(t, n.Stop())
	saved := n.Save(t)
	must(t, n.Start())
	must(t, n.Exec(ctx, `insert into seen values (1)`))
	must(t, n.Stop())
	must(t, n.Restore(saved))
	must(t, n.Start())
	if rows := count(t, n.URL()); rows != 0 {
		t.Errorf("the restored copy has %d rows, want none", rows)
	}
}

// TestGateSilence: a silent gate tells neither side anything. After the silence, new connections work.
func TestGateSilence(t *testing.T) {
	t.Parallel()
	n := pgtest.NewNode(t, nil)
	old, err := pgx.Connect(t.Context(), n.URL())
	must(t, err)
	defer old.Close(context.Background())
	n.Gate.Silence()
	for _, use := range []func(context.Context) error{
		old.Ping,
		func(ctx context.Context) error {
			conn, err := pgx.Connect(ctx, n.URL())
			if err == nil {
				conn.Close(ctx)
			}
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := use(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("during the silence: %v, want a deadline", err)
		}
		cancel()
	}
	n.Gate.Open()
	conn, err := pgx.Connect(t.Context(), n.URL())
	must(t, err)
	must(t, conn.Close(t.Context()))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// count returns how many rows the table seen has.
func count(t *testing.T, url string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	must(t, err)
	defer conn.Close(context.Background())
	must(t, conn.QueryRow(t.Context(), `select count(*) from seen`).Scan(&n))
	return n
}
