package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// LogStatus says where the log ends, and which transaction holds its readers back.
type LogStatus struct {
	Tidemark Position // the position up to which readers may read
	End      Position // the position of the last stored event
	// HeldFor is how long ago the first event after the tidemark was recorded; 0 if there is none.
	HeldFor time.Duration
	// Holder is the transaction that holds the tidemark back most; nil if none does.
	Holder *Holder
}

// Holder is a transaction that holds the tidemark back.
type Holder struct {
	PID             int32 // of the Postgres backend; 0 for a prepared transaction
	ApplicationName string
	Age             time.Duration // of the transaction; 0 if this role has no right to see it
	// GID is the name of a prepared transaction, empty for other transactions. A prepared transaction has no session
	// any more. It ends when an operator with the rights of Owner executes "rollback prepared 'gid'" or "commit
	// prepared 'gid'".
	GID   string
	Owner string
}

const statusSQL = `
select SCHEMA.tidemark(), (select coalesce(max(position), 0) from SCHEMA.events)`

const heldForSQL = `
select greatest(clock_timestamp() - recorded_at, interval '0')
  from SCHEMA.events
 where position > $1
 order by position
 limit 1`

const holderSQL = `
select coalesce(pid, 0), application_name, coalesce(greatest(clock_timestamp() - since, '0'), '0'), coalesce(gid, ''), coalesce(owner, '')
  from SCHEMA.tidemark_holders()
 limit 1`

// Status returns where the log ends and, if a transaction holds the tidemark back, which one. It returns the errors
// of [Store.Tidemark].
func (s *Store) Status(ctx context.Context) (status LogStatus, err error) {
	defer func() {
		if err != nil {
			err = translate(err, "read the status of the log")
		}
	}()
	rows, err := s.db.Query(ctx, s.sql.status)
	if err != nil {
		return status, err
	}
	ends, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[struct{ Tidemark, End Position }])
	if err != nil {
		return status, err
	}
	status.Tidemark, status.End = ends.Tidemark, ends.End
	if status.Tidemark >= status.End {
		return status, nil
	}
	if rows, err = s.db.Query(ctx, s.sql.holder); err != nil {
		return status, err
	}
	holder, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Holder])
	if err == nil {
		status.Holder = &holder
	} else if !errors.Is(err, pgx.ErrNoRows) { // no row: the transaction has just ended
		return status, err
	}
	status.HeldFor, err = queryOne[time.Duration](ctx, s.db, s.sql.heldFor, status.Tidemark)
	return status, err
}

const countSQL = `
select (select count(*)
          from (select
                  from SCHEMA.events
                 where position > $1
                   and position <= $2
                   and` + matches + `
                 limit $6) counted),
       (select recorded_at
          from SCHEMA.events
         where position > $1
           and position <= $2
           and` + matches + `
         order by position
         limit 1)
 where (select SCHEMA.proven(last => $2))`

const estimateSQL = `
explain (format json)
select
  from SCHEMA.events
 where position > $1
   and position <= $2
   and` + matches

// Count returns how many events a filter selects after one position and up to another one. It also returns when the
// first of them was recorded, the zero time if there is none. through must be the position of a stored event, such as
// a tidemark. Count reads the events that it counts. It stops when it has counted as many as the argument most.
func (s *Store) Count(ctx context.Context, after, through Position, filter Filter, most int64) (n int64, first time.Time, err error) {
	if err := validAfter(after, filter); err != nil {
		return 0, first, err
	}
	rows, err := s.db.Query(ctx, s.sql.count, after, through, filter.types(), filter.categories(), filter.streams(), most)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&n, (*zeronull.Timestamptz)(&first)}, func() error { return nil })
	}
	if err != nil {
		return 0, time.Time{}, translateRead(err, "count the events after position %d", after)
	}
	return n, first, nil
}

// Estimate returns about how many events a filter selects after one position and up to another one. The number is an
// estimate of the planner of Postgres. Estimate reads none of the events.
func (s *Store) Estimate(ctx context.Context, after, through Position, filter Filter) (int64, error) {
	if err := validAfter(after, filter); err != nil {
		return 0, err
	}
	text, err := queryOne[[]byte](ctx, s.db, s.sql.estimate, after, through, filter.types(), filter.categories(), filter.streams())
	if err != nil {
		return 0, translateRead(err, "estimate the events after position %d", after)
	}
	var plans []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		}
	}
	if err := json.Unmarshal(text, &plans); err != nil {
		return 0, wrap(err, "read the plan of Postgres")
	}
	var total float64
	for _, p := range plans {
		total += p.Plan.Rows
	}
	return int64(total), nil
}

const eventsAtSQL = `
select ` + columns + `
  from SCHEMA.events
 where position = any ($1)
   and (select SCHEMA.proven())
 order by position`

// EventsAt returns the events at some positions, at most 100,000, in order of position. It leaves out a position
// without a stored event, or with an append that is still open.
func (s *Store) EventsAt(ctx context.Context, positions ...Position) ([]Raw, error) {
	if len(positions) > maxPage {
		return nil, wrap(invalid("%d positions: want up to %d", len(positions), maxPage), "read events")
	}
	numbers := make([]int64, len(positions))
	for n, p := range positions {
		numbers[n] = int64(p)
	}
	events, err := s.query(ctx, s.sql.eventsAt, numbers)
	if err != nil {
		return nil, translateRead(err, "read events by their positions")
	}
	return events, nil
}
