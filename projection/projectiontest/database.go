package projectiontest

import (
	"context"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgdatabase"
	"github.com/tidemark-es/tidemark/migrations"
)

// Databases returns a function for [Config.Database] that makes a database for each run. The databases are on the
// server of a pool whose role may create databases. Each has the store's tables, and the tables of the application if
// prepare creates them. Migrations and prepare run once, in one database, which is then copied. The end of t drops the
// databases that are left.
func Databases(t testing.TB, server *pgxpool.Pool, prepare func(ctx context.Context, pool *pgxpool.Pool) error) func(testing.TB) *pgxpool.Pool {
	t.Helper()
	if server == nil {
		t.Fatal("projectiontest.Databases: the server's pool is nil: pass one that pgxpool.New returned without an error")
	}
	template := sync.OnceValues(func() (string, error) {
		name, err := create(t, server, "template0")
		if err != nil {
			return "", err
		}
		pool, err := connect(t.Context(), server, name)
		if err != nil {
			return "", err
		}
		defer pool.Close() // a database cannot be copied while a client is connected to it
		if err := migrations.Up(t.Context(), pool, nil); err != nil {
			return "", err
		}
		if prepare != nil {
			err = prepare(t.Context(), pool)
		}
		return name, err
	})
	return func(t testing.TB) *pgxpool.Pool {
		t.Helper()
		copied, err := template()
		if err != nil {
			t.Fatalf("projectiontest: prepare a database: %v", err)
		}
		name, err := create(t, server, copied)
		if err != nil {
			t.Fatalf("projectiontest: %v", err)
		}
		pool, err := connect(t.Context(), server, name)
		if err != nil {
			t.Fatalf("projectiontest: %v", err)
		}
		t.Cleanup(pool.Close)
		return pool
	}
}

// create makes a database, and drops it at the end of t.
func create(t testing.TB, server *pgxpool.Pool, template string) (string, error) {
	name := "projectiontest_" + uuid.NewString()
	if err := pgdatabase.Create(t.Context(), server, name, template); err != nil {
		return "", err
	}
	t.Cleanup(func() {
		if err := pgdatabase.Drop(context.Background(), server, name); err != nil {
			t.Errorf("projectiontest: %v", err)
		}
	})
	return name, nil
}

func connect(ctx context.Context, server *pgxpool.Pool, database string) (*pgxpool.Pool, error) {
	config := server.Config()
	config.ConnConfig.Database = database
	return pgxpool.NewWithConfig(ctx, config)
}
