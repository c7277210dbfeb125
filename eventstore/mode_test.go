package eventstore_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// TestExecModes runs the suite in the modes for poolers in front of Postgres. These modes keep no prepared statement.
func TestExecModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			eventstoretest.Run(t, func(t *testing.T) eventstoretest.Store {
				config, err := pgxpool.ParseConfig(pgtest.URL(t))
				if err != nil {
					t.Fatal(err)
				}
				config.ConnConfig.DefaultQueryExecMode = mode
				pool, err := pgxpool.NewWithConfig(t.Context(), config)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(pool.Close)
				store, err := eventstore.New(pool, nil)
				if err != nil {
					t.Fatal(err)
				}
				return store
			})
		})
	}
}
