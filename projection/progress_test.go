package projection_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/projection"
)

// TestProgressOfALongLog: when a version over a long log is registered, others wait, so the log is not counted. The
// total is the planner's estimate. Here the estimate is ten times too high, which shows that the estimate is used.
func TestProgressOfALongLog(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]pgx.QueryExecMode{
		"as usual":      pgx.QueryExecModeCacheStatement,
		"with a pooler": pgx.QueryExecModeExec,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.exec(`select setval('tidemark.events_position_seq', 1000000)`)
			r1, _ := f.rollProcess(quiet, rollTable(projection.Options{}, nil))
			f.append(other, 100)
			f.wait(r1, f.rollHistory(10, 30))
			f.exec(`analyze tidemark.events`)
			f.exec(`update pg_class set reltuples = 10 * reltuples where oid = 'tidemark.events'::regclass`)

			config := f.pool.Config()
			config.ConnConfig.DefaultQueryExecMode = mode
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			pooled := *f
			pooled.pool = pool
			gate := newRollGate(f, 10)
			r2, _ := pooled.rollProcess(small(), rollHandler(projection.Options{Version: 2}, gate.hook))
			<-gate.reached
			if p := f.rollStatus(r2, 2).Progress; p.Total < 2500 || p.Total > 3500 {
				t.Errorf("the total is %d events, want about 3,000", p.Total)
			}
			gate.open()
			f.rollPhase(2, "live")
			f.checkRolled()
		})
	}
}
