package projection_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// TestWrongProcess: a process that does not see the objects of a projection, or has no right to use them, leaves the
// projection to other processes and says why. It neither stops the projection nor blames an event.
func TestWrongProcess(t *testing.T) {
	t.Parallel()
	ways := map[string]struct {
		sql  string // the first statement of each connection of the wrong process
		says string
	}{
		"search_path": {`set search_path = pg_catalog`, "does not exist"},
		"role":        {`set role %s`, "permission denied"},
	}
	for name, way := range ways {
		for _, k := range kinds[:2] {
			for _, first := range []string{"right", "wrong"} {
				t.Run(fmt.Sprint(name, "/", k.name, "/", first), func(t *testing.T) {
					t.Parallel()
					f := setup(t)
					wrongPool := f.wrongPool(way.sql)
					config := *quiet
					config.Lease = time.Second
					one := func() *projection.Projection { return k.make(f, "a", projection.Options{Partitions: 4}, noHook) }
					right, stop := f.start(&config, f.store, one()) // creates the tables
					last := f.put("x", 1)
					f.wait(right, last)
					if first == "wrong" {
						stop()
					}
					wrong := f.run(wrongPool, &config, one())
					if first == "wrong" {
						for n := range 8 {
							last = f.put(fmt.Sprint("alone", n), n)
						}
						f.until("the status says why", func() bool { return strings.Contains(f.statusOf(wrong, "a").Problem(), way.says) })
						right, _ = f.start(&config, f.store, one())
					}
					f.until("the wrong process says why", func() bool {
						last = f.put(fmt.Sprint("key", last), 1)
						err := wrong.Health(t.Context())
						return err != nil && strings.Contains(err.Error(), "left to other processes") && strings.Contains(err.Error(), way.says)
					})
					f.wait(right, f.put("x", 2))
					f.until("the right one is well", func() bool { return right.Health(t.Context()) == nil })
					f.noLetters()
					f.checkFold(k, right, "a")
					var stops int
					if err := f.pool.QueryRow(t.Context(), `select count(*) from tidemark.projection_audit where action = 'stop'`).Scan(&stops); err != nil || stops > 0 {
						t.Errorf("the projection was stopped %d times, %v", stops, err)
					}
				})
			}
		}
	}
}

// wrongPool returns a pool whose connections begin with a statement. %s in the statement stands for a role without
// rights on the read models.
func (f *fixture) wrongPool(sql string) *pgxpool.Pool {
	f.Helper()
	role := f.pool.Config().ConnConfig.Database + "_wrong"
	name := pgx.Identifier{role}.Sanitize()
	if strings.Contains(sql, "%s") {
		f.exec(`create role ` + name)
		f.Cleanup(func() {
			_, _ = f.pool.Exec(context.Background(), fmt.Sprintf("drop owned by %s; drop role %[1]s", name))
		})
		f.exec(`grant usage on schema tidemark to ` + name)
		f.exec(`grant all on all tables in schema tidemark to ` + name)
		f.exec(`grant all on all sequences in schema tidemark to ` + name)
		f.exec(`grant all on all functions in schema tidemark to ` + name)
		sql = fmt.Sprintf(sql, name)
	}
	return pgtest.Connect(f.T, f.pool.Config().ConnString(), func(c *pgxpool.Config) {
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, sql)
			return err
		}
	})
}

// TestFirstReadFails: when a partition's first read fails, the status says why.
func TestFirstReadFails(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.put("a", 1)
	r, stop := f.start(quiet, f.store, record("a", nil))
	f.wait(r, f.put("a", 1))
	stop()
	f.exec(`alter table tidemark.dead_letters rename column key to k`)
	r, _ = f.start(quiet, f.store, record("a", nil))
	f.until("the status says why", func() bool { return strings.Contains(f.statusOf(r, "a").Problem(), `column "key" does not exist`) })
	f.exec(`alter table tidemark.dead_letters rename column k to key`)
	f.wait(r, f.put("a", 1))
}
