package eventstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// AppendHook runs in the transaction of every append: see [Config.Inline] and projection.NewInline.
type AppendHook interface {
	// Names returns the projections that the hook keeps, each as "name:version". The database compares them with the
	// projections that appends must keep.
	Names() []string
	// Apply gets the events that the transaction has stored, in the order of positions. If it returns an error, these
	// events are not stored. While Apply runs, and until the transaction ends, no projection starts or stops being
	// kept inline.
	Apply(ctx context.Context, tx pgx.Tx, events []Raw) error
}

// declareSQL passes the names to the append functions in a setting. Each schema has a setting of its own. The
// setting's name has a number instead of the schema's name, which may need quotes. While any transaction holds the
// lock, no projection starts or stops being kept inline. The lock is taken before the fence, so that an append that
// waits for the lock does not hold the tidemark back.
const declareSQL = `
select set_config('tidemark_inline.s' || 'SCHEMA.projections'::regclass::oid, $1::text[]::text, true),
       pg_advisory_xact_lock_shared(hashtext('SCHEMA.inline'), 0)`

// storedSQL returns the events of a transaction that has stored a range of versions in each of some streams.
const storedSQL = `
select ` + columns + `
  from SCHEMA.events
  join unnest($1::text[], $2::bigint[], $3::bigint[]) as own (name, first, last)
    on stream = own.name
   and version between own.first and own.last
 where (select SCHEMA.proven())
 order by position`

// sendInline stores a group and applies the hook to its events, in one transaction. If the hook fails, the group
// fails. It is then split until the request that the hook fails for is alone.
func (g *group) sendInline(conn *pgpool.Conn, batch []*request) ([]row, error) {
	ctx := context.Background()
	// Read committed, whatever the default is: the transaction must see which projections are kept inline now.
	tx, err := conn.Conn().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return nil, &uncommitted{err, conn.Conn().IsClosed()}
	}
	defer func() { _ = tx.Rollback(ctx) }() // does nothing after the commit
	rows, err := g.inline.store(ctx, tx, newAppendArgs(batch).group(patience))
	if err != nil {
		return nil, &uncommitted{err, conn.Conn().IsClosed()}
	}
	if err := g.inline.apply(ctx, tx, batch, rows); err != nil {
		return nil, &uncommitted{err, false} // the hook may fail for one of the events each time
	}
	return rows, tx.Commit(ctx)
}

// uncommitted is an error after which nothing of a group is stored: the transaction ended before COMMIT was sent.
type uncommitted struct {
	error
	again bool // a second try may succeed
}

func (e *uncommitted) Unwrap() error     { return e.error }
func (e *uncommitted) SafeToRetry() bool { return e.again } // see pgconn.SafeToRetry

// inliner runs Config.Inline.
type inliner struct {
	hook AppendHook
	to   *Store
}

// store tells the database which projections the hook keeps, and stores requests.
func (n *inliner) store(ctx context.Context, tx pgx.Tx, args []any) ([]row, error) {
	if _, err := tx.Exec(ctx, n.to.sql.declare, n.hook.Names()); err != nil {
		return nil, err
	}
	return appendGroup(ctx, tx, &n.to.sql, args)
}

// apply applies the hook to the events that requests have stored.
func (n *inliner) apply(ctx context.Context, tx pgx.Tx, batch []*request, rows []row) error {
	var streams []string
	var first, last []int64
	for _, r := range batch {
		for i, change := range r.changes {
			if rows[i].Outcome == "stored" {
				streams = append(streams, r.names[i])
				first = append(first, int64(rows[i].Version)-int64(len(change.Events))+1)
				last = append(last, int64(rows[i].Version))
			}
		}
		rows = rows[len(r.changes):]
	}
	if len(streams) == 0 {
		return nil
	}
	bound := *n.to
	bound.db = tx
	events, err := bound.query(ctx, bound.sql.stored, streams, first, last)
	if err != nil {
		return err
	}
	if err := n.hook.Apply(WithoutKey(ctx), tx, slices.Clip(events)); err != nil {
		return fmt.Errorf("inline: %w", err)
	}
	return nil
}

// appendInTx appends in the caller's transaction. With Config.Inline it does so under a savepoint: an error undoes
// the whole append, and the caller can still use the transaction.
func (s *Store) appendInTx(ctx context.Context, r *request) ([]row, error) {
	args := newAppendArgs([]*request{r}).group(nil)
	if s.inline == nil {
		return appendGroup(ctx, s.tx, &s.sql, args)
	}
	savepoint, err := s.tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.inline.store(ctx, savepoint, args)
	if err == nil {
		err = s.inline.apply(ctx, savepoint, []*request{r}, rows)
	}
	if err != nil {
		return nil, errors.Join(err, savepoint.Rollback(ctx))
	}
	return rows, savepoint.Commit(ctx)
}
