package migrations

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// ErrUnsuitable means that the server lacks something that the guarantees of a store need: advisory locks that show in
// pg_locks, or sequences that count at once and never go back. Some distributed and forked servers use the protocol of
// Postgres and have neither. On such a server, readers of a store would skip events.
var ErrUnsuitable = errors.New("this server cannot hold a store of tidemark")

// The names have no schema: the search_path of the migrator decides which functions they mean.
const (
	shareSQL = `select pg_advisory_xact_lock_shared(hashtext('tidemark probe'), $1::int)::text`
	// seenSQL looks for locks in the same way as the SQL function tidemark().
	seenSQL = `
select exists (
       select
         from pg_locks l
        where l.locktype = 'advisory'
          and l.database = (select d.oid from pg_database d where d.datname = current_database())
          and l.classid = hashtext('tidemark probe')::oid
          and l.objid::bigint = $1::int & 4294967295
          and l.objsubid = 2
          and l.granted)`
	excludeSQL  = `select pg_try_advisory_xact_lock(hashtext('tidemark probe'), $1::int)`
	shareTooSQL = `select pg_try_advisory_xact_lock_shared(hashtext('tidemark probe'), $1::int)`
)

// lockProbe holds what a second session sees of a shared lock that the first session takes.
type lockProbe struct {
	seen, excluded, shared bool // while the first session holds the lock
	stillSeen, freed       bool // after the transaction of the first session has ended
}

// problem says what is wrong with the locks. It returns "" if nothing is wrong.
func (p lockProbe) problem() string {
	switch {
	case !p.seen:
		return "an advisory lock of another session does not show in pg_locks"
	case p.excluded:
		return "an exclusive advisory lock was given while another session had a shared one"
	case !p.shared:
		return "a shared advisory lock was refused while another session had a shared one"
	case p.stillSeen:
		return "an advisory lock shows in pg_locks after its transaction has ended"
	case !p.freed:
		return "an advisory lock is held after its transaction has ended"
	}
	return ""
}

// sequenceProbe holds the values that a second session reads from a sequence: after the first session has taken a
// value, and after the first session has rolled back.
type sequenceProbe struct{ uncommitted, rolledBack int64 }

func (p sequenceProbe) problem() string {
	switch {
	case p.uncommitted != 1:
		return fmt.Sprintf("pg_sequence_last_value says %d when another session has taken 1", p.uncommitted)
	case p.rolledBack != 1:
		return fmt.Sprintf("pg_sequence_last_value says %d when another session has taken 1 and rolled back", p.rolledBack)
	}
	return ""
}

// probe returns an [ErrUnsuitable] unless advisory locks work as a store needs them. If sequences is true, it also
// checks sequences.
func (m *migrator) probe(ctx context.Context, pool *pgpool.Pool, sequences bool) error {
	other, err := pool.Dial(ctx) // beside the pool, which may have a single connection
	if pgerr.Is(err, pgerr.TooManyConnections) && !sequences {
		return nil // the store exists, so the server was checked when it was made
	}
	if err != nil {
		return fmt.Errorf("migrations: connect a second time: %w", err)
	}
	defer pgpool.Close(other)
	locks, err := probeLocks(ctx, m.conn, other)
	if err != nil {
		return fmt.Errorf("migrations: try advisory locks: %w", err)
	}
	problem := locks.problem()
	if problem == "" && sequences {
		p, err := probeSequence(ctx, m.conn, other, m.schema)
		if err != nil {
			return fmt.Errorf("migrations: try a sequence: %w", err)
		}
		problem = p.problem()
	}
	if problem != "" {
		return fmt.Errorf("migrations: %w: %s: use Postgres itself, or a service that runs it unchanged", ErrUnsuitable, problem)
	}
	return nil
}

// one returns the only value of a statement.
func one[T any](ctx context.Context, conn *pgx.Conn, sql string, args ...any) (value T, err error) {
	err = conn.QueryRow(ctx, sql, args...).Scan(&value)
	return value, err
}

func probeLocks(ctx context.Context, first, second *pgx.Conn) (p lockProbe, err error) {
	key := -1 - rand.Int32N(1<<30) // a negative number shows in pg_locks as a large one
	tx, err := first.Begin(ctx)
	if err != nil {
		return p, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, shareSQL, key); err != nil {
		return p, err
	}
	look := func(sql string, into *bool) {
		if err == nil {
			*into, err = one[bool](ctx, second, sql, key)
		}
	}
	look(seenSQL, &p.seen)
	look(excludeSQL, &p.excluded)
	look(shareTooSQL, &p.shared)
	if err == nil {
		err = tx.Rollback(ctx)
	}
	look(seenSQL, &p.stillSeen)
	look(excludeSQL, &p.freed)
	return p, err
}

// probeSequence makes a sequence in the schema, or in a schema of its own if the schema does not exist yet. The right
// to make schemas is needed only in the second case.
func probeSequence(ctx context.Context, first, second *pgx.Conn, schema string) (p sequenceProbe, err error) {
	there, err := one[bool](ctx, first, `select to_regnamespace(quote_ident($1)) is not null`, schema)
	if err != nil {
		return p, err
	}
	probe := fmt.Sprintf("tidemark_probe_%d", rand.Int64())
	name := pgx.Identifier{schema, probe}.Sanitize()
	create, drop := "create sequence "+name, "drop sequence "+name
	if !there {
		name = probe + ".probe"
		create, drop = "create schema "+probe+"; create sequence "+name, "drop schema "+probe+" cascade"
	}
	if _, err := first.Exec(ctx, create); err != nil {
		return p, err
	}
	defer func() {
		_, dropped := first.Exec(context.WithoutCancel(ctx), drop)
		err = errors.Join(err, dropped)
	}()
	tx, err := first.Begin(ctx)
	if err != nil {
		return p, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "select nextval($1::text::regclass)", name); err != nil {
		return p, err
	}
	const lastSQL = `select coalesce(pg_sequence_last_value($1::text::regclass), 0)`
	if p.uncommitted, err = one[int64](ctx, second, lastSQL, name); err != nil {
		return p, err
	}
	if err := tx.Rollback(ctx); err != nil {
		return p, err
	}
	p.rolledBack, err = one[int64](ctx, second, lastSQL, name)
	return p, err
}
