package pgtest

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// run is one test binary's use of a server. It holds an advisory lock for as
// long as it is connected, and its databases are named after it: so a database
// whose run does not hold its lock has no owner any more.
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
	// The lock comes before the first database: whoever sees one of our
	// databases and then looks for the lock finds it.
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

// sqlLiving lists the runs that hold their lock. Runs may be connected to
// different databases, so every database's locks are looked at.
const sqlLiving = `
select objid::bigint
from pg_locks
where locktype = 'advisory'
  and classid::bigint = $1`

// sweep drops the databases of dead runs.
func sweep(ctx context.Context, conn *pgx.Conn) error {
	// The databases have to be read before the locks: a run that begins in
	// between then has none on our list.
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
		if err := drop(ctx, conn, name); err != nil {
			return err
		}
	}
	return nil
}

// drop removes a database, connected clients or not. It may be gone already:
// another run may be sweeping too.
func drop(ctx context.Context, conn *pgx.Conn, name string) error {
	sql := "drop database if exists " + pgx.Identifier{name}.Sanitize() + " with (force)"
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("pgtest: drop %s: %w", name, err)
	}
	return nil
}
