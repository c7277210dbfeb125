package pgdatabase_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgdatabase"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestDrop drops a database whose clients are connected, or have just closed their connections, and one that does not
// exist.
func TestDrop(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := pgtest.Pool(t)
	name := server.Config().ConnConfig.Database + " copy"
	exists := func() (there bool) {
		if err := server.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, name).Scan(&there); err != nil {
			t.Fatal(err)
		}
		return there
	}
	for _, closed := range []bool{true, false} {
		if err := pgdatabase.Create(ctx, server, name, "template0"); err != nil {
			t.Fatal(err)
		}
		config := server.Config().ConnConfig.Copy()
		config.Database = name
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(ctx) })
		if err := pgdatabase.Create(ctx, server, name, "template0"); err == nil {
			t.Error("a database was created twice")
		}
		if closed {
			if err := conn.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if err := pgdatabase.Drop(ctx, server, name); err != nil || exists() {
			t.Errorf("closed %t: drop: %v; the database exists: %t", closed, err, exists())
		}
	}
	if err := pgdatabase.Drop(ctx, server, name); err != nil {
		t.Errorf("drop a database that does not exist: %v", err)
	}
}

// TestDropWithoutRights says which database could not be dropped.
func TestDropWithoutRights(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := pgtest.Pool(t)
	name := server.Config().ConnConfig.Database
	if _, err := server.Exec(ctx, `create role "`+name+`"`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := server.Exec(context.Background(), `drop role "`+name+`"`); err != nil {
			t.Error(err)
		}
	})
	other := pgtest.Connect(t, pgtest.EmptyURL(t), func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["role"] = name })
	if err := pgdatabase.Drop(ctx, other, name); err == nil {
		t.Error("a role dropped the database of another role")
	}
}
