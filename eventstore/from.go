package eventstore

import (
	"context"
	"iter"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The second select leaves out a version that the read does not reach. So there is no row only if the stream has none.
const fromSQL = `
select ` + columns + `
  from SCHEMA.events
 where stream = $1
   and version >= coalesce((
       select version
         from SCHEMA.events
        where stream = $1
          and version = (START)
          and version <= $2), 1)
   and version <= $2
   and (select SCHEMA.PROVEN)
 order by version
 limit LIMIT`

// Start is a query that says at which version [Store.ReadFrom] begins. The query is on another table of the store's
// database, such as the table of the snapshots. Its parameters are the stream as $1, the last version of the read as
// $2, and Args from $3 on.
type Start struct {
	SQL  string
	Args []any
	// Scan takes the rows of SQL and returns the version, 0 for none. ReadFrom closes the rows.
	Scan func(pgx.Rows) (Version, error)
	// Version is a select with the parameters of SQL. It returns one number, the version, or no row. Postgres executes
	// it inside the statement that reads the events, so it should not select anything else.
	Version string
	// Within bounds how long SQL may take, with the wait for a connection.
	Within time.Duration
}

// Uses reports whether the store was made over a pool, and is not bound to a transaction.
func (s *Store) Uses(pool *pgxpool.Pool) bool { return !s.inTx && s.group.pool.Raw() == pool }

// ReadFrom is [Store.Read] from the version that a query finds, with that event, up to the version to; 0 means to the
// end. If the query finds no version, all events are read. The query and the first page take one round trip. If the
// two statements find different versions, because of a write between them, the page is read again.
//
// The error is that of the query, as Postgres or Scan returned it. The events can then be read without the query. The
// iterator returns the errors of the events. A store that is bound to a transaction returns an [InvalidError].
func (s *Store) ReadFrom(ctx context.Context, stream StreamID, to Version, start Start) (iter.Seq2[Raw, error], error) {
	options, err := ReadOptions{To: to}.Normalize()
	switch {
	case s.inTx:
		err = invalid("the store is bound to a transaction: use Read")
	case err == nil:
		err = stream.Validate()
	}
	if err != nil {
		return nil, wrap(err, "read stream %s", stream)
	}
	args := append([]any{stream.String(), int64(options.To)}, start.Args...)
	var batch pgx.Batch
	batch.Queue(start.SQL, args...)
	batch.Queue(strings.Replace(s.sql.from, "START", start.Version, 1), args...)
	var (
		version Version
		page    []Raw
	)
	missed, err := s.group.pool.QueryBoth(ctx, &batch, start.Within,
		func(rows pgx.Rows) (err error) { version, err = start.Scan(rows); return err },
		func(rows pgx.Rows) (err error) {
			page, err = collect(rows, math.MaxInt, s.config.PageSize, func() {})
			return err
		})
	if missed != nil {
		return nil, missed
	}
	return func(yield func(Raw, error) bool) {
		options.After = max(version, 1) - 1
		switch {
		case err != nil:
			yield(Raw{}, translateRead(err, "read stream %s", stream))
			return
		case len(page) > 0 && page[0].Version == options.After+1:
			if !yieldAll(yield, page) || len(page) < s.config.PageSize {
				return
			}
			options.After = page[len(page)-1].Version
		case len(page) == 0:
			return
		}
		s.Read(ctx, stream, options)(yield)
	}, nil
}
