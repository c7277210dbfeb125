package pgtest

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgdatabase"
)

// run is one test binary's use of a server. It holds an advisory lock while it is connected, and its databases are
// named after it. So a database has no owner any more if its run does not hold its lock.
type run uint32

const (
	// lockClass is the first of the lock's two numbers; the second is the run.
	lockClass = 0x7469_6465 // "tide"
	prefix    = "tidemark_test_"
)

// database returns the name of the run's nth database.
func (r run) database(n int) string { return fmt.Sprintf("%s%08x_%d", prefix, uint32(r), n) }

// begin takes the run's lock and drops the databases of runs that are dead.
func (r run) begin(ctx context.Context, conn *pgx.Conn) error {
	// The lock comes before the first database. So another run that sees one of our databases and then looks for our
	// lock finds it.
	if _, err := conn.Exec(ctx, `select pg_advisory_lock($1, $2)`, int32(lockClass), int32(r)); err != nil {
		return fmt.Errorf("pgtest: lock the run: %w", err)
	}
	return sweep(ctx, conn)
}

// sqlDatabases lists the databases of all runs that we may drop.
const sqlDatabases = `
select datname
from pg_database
where starts_with(datname, $1)
  and pg_has_role(datdba, 'usage')`

// sqlLiving lists the runs that hold their lock. It looks at the locks of every database, because runs can be connected
// to different databases.
const sqlLiving = `
select objid::bigint
from pg_locks
where locktype = 'advisory'
  and classid::bigint = $1`

// sweep drops the databases of dead runs.
func sweep(ctx context.Context, conn *pgx.Conn) error {
	// The databases are read before the locks. So a run that begins in between has no database on our list.
	rows, _ := conn.Query(ctx, sqlDatabases, prefix)
	databases, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("pgtest: list databases: %w", err)
	}
	rows, _ = conn.Query(ctx, sqlLiving, int64(lockClass))
	living, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("pgtest: list runs: %w", err)
	}
	for _, name := range databases {
		var owner, n uint32
		if _, err := fmt.Sscanf(name, prefix+"%x_%d", &owner, &n); err != nil {
			continue // not one of ours after all
		}
		if slices.Contains(living, int64(owner)) {
			continue
		}
		// Another run can sweep at the same time.
		if err := pgdatabase.Drop(ctx, conn, name); err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
	}
	return nil
}
