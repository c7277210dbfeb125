package eventstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Inline is what a store does in the transaction of every append: see [Config.Inline] and
// projection.NewInline.
type Inline interface {
	// Names are those of the projections that are kept so, for the database to compare.
	Names() []string
	// Apply is given the events that the transaction has stored, in the order of positions. When it returns an
	// error, nothing of the transaction remains.
	Apply(ctx context.Context, tx pgx.Tx, events []Raw) error
}

const declareSQL = `select set_config($1, $2, true)`

// The events of a transaction that has stored a range of versions in each of some streams.
const storedSQL = `
select ` + columns + `
  from SCHEMA.events
  join unnest($1::text[], $2::bigint[], $3::bigint[]) as own (name, first, last)
    on stream = own.name
   and version between own.first and own.last
 order by position`

// sendInline stores a group, and does what is to be done with its events, in one transaction. When that
// fails the group does; then it is split, until the request stands alone that it fails for.
func (g *group) sendInline(conn *pgxpool.Conn, batch []*request) (rows []row, err error) {
	ctx := context.Background()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		rows, err = g.inline.append(ctx, tx, batch, newAppendArgs(batch).group(patience))
		return err
	})
	return rows, err
}

// inliner does what Config.Inline says.
type inliner struct {
	Inline
	store *Store
}

// append stores requests and applies what was stored.
func (n *inliner) append(ctx context.Context, tx pgx.Tx, batch []*request, args []any) ([]row, error) {
	if err := n.declare(ctx, tx); err != nil {
		return nil, err
	}
	rows, err := appendGroup(ctx, tx, &n.store.sql, args)
	if err != nil {
		return nil, err
	}
	var streams []string
	var first, last []int64
	rest := rows
	for _, r := range batch {
		for i, change := range r.changes {
			if rest[i].Outcome == "stored" {
				streams = append(streams, r.names[i])
				first = append(first, int64(rest[i].Version)-int64(len(change.Events))+1)
				last = append(last, int64(rest[i].Version))
			}
		}
		rest = rest[len(r.changes):]
	}
	if len(streams) == 0 {
		return rows, nil
	}
	bound := *n.store
	bound.db = tx
	events, err := bound.query(ctx, bound.sql.stored, streams, first, last)
	if err != nil {
		return nil, err
	}
	if err := n.Apply(ctx, tx, slices.Clip(events)); err != nil {
		return nil, fmt.Errorf("inline: %w", err)
	}
	return rows, nil
}

func (n *inliner) declare(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, declareSQL, n.store.schema+".inline", strings.Join(n.Names(), ","))
	return err
}

// appendInTx appends in the caller's transaction. If something is done inline, an error leaves nothing of
// the append behind, so that the caller may go on.
func (s *Store) appendInTx(ctx context.Context, r *request) ([]row, error) {
	args := newAppendArgs([]*request{r}).group(nil)
	tx, ok := s.db.(pgx.Tx)
	if s.inline == nil || !ok {
		return appendGroup(ctx, s.db, &s.sql, args)
	}
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.inline.append(ctx, savepoint, []*request{r}, args)
	if err != nil {
		return nil, errors.Join(err, savepoint.Rollback(ctx))
	}
	return rows, savepoint.Commit(ctx)
}
