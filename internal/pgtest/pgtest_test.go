package pgtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestDatabasesAreIsolated(t *testing.T) {
	t.Parallel()
	for i := range 16 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Pool(t)
			// Each of these statements fails if another test has executed it in the same database.
			for _, sql := range []string{"create table mine()", "create schema mine", "drop table tidemark.events cascade"} {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestEmptyURLHasNothingInIt(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{pgtest.EmptyURL(t): false, pgtest.URL(t): true} {
		conn := connect(t, url)
		var migrated bool
		if err := conn.QueryRow(t.Context(), "select to_regclass('tidemark.events') is not null").Scan(&migrated); err != nil {
			t.Fatal(err)
		}
		if migrated != want {
			t.Errorf("%s: migrated = %t, want %t", url, migrated, want)
		}
	}
}

func TestDatabaseIsDroppedWithItsTest(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.EmptyURL(t))
	var name string
	t.Run("owner", func(t *testing.T) {
		pool := pgtest.Pool(t)
		if err := pool.QueryRow(t.Context(), "select current_database()").Scan(&name); err != nil {
			t.Fatal(err)
		}
		// A client that its test has not closed must not keep the database.
		forgotten, err := pgx.ConnectConfig(context.Background(), pool.Config().ConnConfig)
		if err != nil {
			t.Fatal(err)
		}
		_ = forgotten
	})
	if exists(t, conn, name) {
		t.Errorf("%s outlived its test", name)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func BenchmarkURL(b *testing.B) {
	for b.Loop() {
		pgtest.URL(b)
	}
}
