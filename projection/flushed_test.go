package projection_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestFlushed: while there is a backlog, commits do not wait for the disk. The last commit does.
func TestFlushed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.put("a", 1, 2, 3, 4, 5)
	settings := f.pool.Config()
	settings.ConnConfig.RuntimeParams["synchronous_commit"] = "on"
	pool, err := pgxpool.NewWithConfig(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	var flushed []string
	p := projection.New("p", nil, projection.On(counting, func(ctx context.Context, tx pgx.Tx, e eventstore.Event[counted]) error {
		var setting string
		err := tx.QueryRow(ctx, `show synchronous_commit`).Scan(&setting)
		flushed = append(flushed, setting)
		return err
	}))
	config := *quiet
	config.BatchSize = 2
	f.wait(f.run(pool, &config, p), 5)
	f.equal("synchronous_commit", []string{"off", "off", "off", "off", "on"}, flushed)
}
