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

// ErrUnsuitable means that the server lacks what the promises of a store rest on: advisory locks that show in
// pg_locks, or sequences that count at once and never go back. Some distributed and forked servers speak as
// Postgres does and have neither; readers of a store would pass over events there.
var ErrUnsuitable = errors.New("this server cannot hold a store of tidemark")

// The names are not qualified: they are found as the migrator's search_path says.
const (
	shareSQL = `select pg_advisory_xact_lock_shared(hashtext('tidemark probe'), $1::int)::text`
	// seenSQL looks for locks as the function tidemark() does.
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

// lockProbe is what a second session sees of a shared lock.
type lockProbe struct {
	seen, excluded, shared bool // while the first session holds it
	stillSeen, freed       bool // when its transaction has ended
}

// problem returns what is wrong with the locks, "" if nothing is.
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

// sequenceProbe is what a second session reads of a sequence of which the first one has taken a value, before and
// after that was rolled back.
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

// probe returns an [ErrUnsuitable] unless locks, and with sequences these too, are as a store needs them.
func (m *migrator) probe(ctx context.Context, pool *pgpool.Pool, sequences bool) error {
	other, err := pool.Dial(ctx) // beside the pool, which may have a single connection
	if pgerr.Is(err, pgerr.TooManyConnections) && !sequences {
		return nil // the store is there, so it was tried
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

// probeSequence makes a sequence in the schema, or in one of its own: the right to make schemas is needed only where there
// is none.
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
