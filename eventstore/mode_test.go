package eventstore_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// TestExecModes runs the suite in the modes for poolers in front of Postgres. These modes keep no prepared statement.
// Each run has other settings as well, because a run of the suite is long: another schema beside a store in the
// default one; the rights of the operator's role alone, and pages of two events, so that most reads need several pages.
func TestExecModes(t *testing.T) {
	t.Parallel()
	t.Run("exec, in another schema", func(t *testing.T) {
		t.Parallel()
		eventstoretest.Run(t, func(t *testing.T) eventstoretest.Store {
			store, pool := open(t)
			t.Cleanup(func() { checkEmpty(t, store) })
			return openSchema(t, openMode(t, pool, pgx.QueryExecModeExec), "my_own")
		})
	})
	t.Run("simple protocol, as operator, with small pages", func(t *testing.T) {
		t.Parallel()
		eventstoretest.Run(t, func(t *testing.T) eventstoretest.Store {
			_, _, operator := roles(t)
			store, err := eventstore.New(openMode(t, operator, pgx.QueryExecModeSimpleProtocol), &eventstore.Config{PageSize: 2})
			if err != nil {
				t.Fatal(err)
			}
			return store
		})
	})
}

// openMode returns a pool like another one, in a mode.
func openMode(t *testing.T, like *pgxpool.Pool, mode pgx.QueryExecMode) *pgxpool.Pool {
	t.Helper()
	config := like.Config()
	config.ConnConfig.DefaultQueryExecMode = mode
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
