package eventstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// AppendHook is what a store does in the transaction of every append: see [Config.Inline] and
// projection.NewInline.
type AppendHook interface {
	// Names are those of the projections that are kept so, for the database to compare.
	Names() []string
	// Apply is given the events that the transaction has stored, in the order of positions. When it returns an
	// error, nothing of the transaction remains. While it runs, and until the transaction ends, no projection
	// begins or ends to be kept so.
	Apply(ctx context.Context, tx pgx.Tx, events []Raw) error
}

// The names are for the append functions; a schema has a setting of its own, called by a number since its
// name might need quotes. While anybody holds the lock, no projection begins or ends to be kept inline. It
// is taken before the fence: who has to wait for it does not hold the tidemark back.
const declareSQL = `
select set_config('tidemark_inline.s' || 'SCHEMA.projections'::regclass::oid, $1::text[]::text, true),
       pg_advisory_xact_lock_shared(hashtext('SCHEMA.inline'), 0)`

// The events of a transaction that has stored a range of versions in each of some streams.
const storedSQL = `
select ` + columns + `
  from SCHEMA.events
  join unnest($1::text[], $2::bigint[], $3::bigint[]) as own (name, first, last)
    on stream = own.name
   and version between own.first and own.last
 where (select SCHEMA.proven())
 order by position`

// sendInline stores a group, and does what is to be done with its events, in one transaction. When that
// fails the group does; then it is split, until the request stands alone that it fails for.
func (g *group) sendInline(conn *pgpool.Conn, batch []*request) ([]row, error) {
	ctx := context.Background()
	// Whatever the default is: it must see what is kept inline by now.
	tx, err := conn.Conn().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return nil, &uncommitted{err, conn.Conn().IsClosed()}
	}
	defer func() { _ = tx.Rollback(ctx) }() // of no effect after the commit
	rows, err := g.inline.store(ctx, tx, newAppendArgs(batch).group(patience))
	if err != nil {
		return nil, &uncommitted{err, conn.Conn().IsClosed()}
	}
	if err := g.inline.apply(ctx, tx, batch, rows); err != nil {
		return nil, &uncommitted{err, false} // it may fail for one of the events, each time
	}
	return rows, tx.Commit(ctx)
}

// uncommitted is why nothing of a group was stored: its transaction ended before COMMIT was sent.
type uncommitted struct {
	error
	again bool // the same may succeed
}

func (e *uncommitted) Unwrap() error     { return e.error }
func (e *uncommitted) SafeToRetry() bool { return e.again } // see pgconn.SafeToRetry

// inliner does what Config.Inline says.
type inliner struct {
	hook AppendHook
	to   *Store
}

// store stores requests, and lets the database know which projections will be kept.
func (n *inliner) store(ctx context.Context, tx pgx.Tx, args []any) ([]row, error) {
	if _, err := tx.Exec(ctx, n.to.sql.declare, n.hook.Names()); err != nil {
		return nil, err
	}
	return appendGroup(ctx, tx, &n.to.sql, args)
}

// apply does what is to be done with the events that requests have stored.
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

// appendInTx appends in the caller's transaction. If something is done inline, an error leaves nothing of
// the append behind, so that the caller may go on.
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
