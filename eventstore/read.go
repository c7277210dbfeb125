package eventstore

import (
	"context"
	"errors"
	"iter"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const streamSQL = `
select ` + columns + `
  from SCHEMA.events
 where stream = $1
   and version > $2
   and version <= $3
   and (select SCHEMA.PROVEN)
 order by version
 limit $4`

var backwardsSQL = strings.Replace(streamSQL, "order by version", "order by version desc", 1)

const asOfSQL = `
select version
  from SCHEMA.events
 where stream = $1
   and recorded_at <= $2
   and (select SCHEMA.PROVEN)
 order by version desc
 limit 1`

// Positions of a stream rise with its versions, so a binary search finds the last version up to a position.
const throughSQL = `
with recursive bisect (low, high) as (
    select 0::bigint,
           coalesce((select max(version)
                       from SCHEMA.events
                      where stream = $1), 0)
    union all
    select case when event.position <= $2 then event.version else low end,
           case when event.position <= $2 then high else event.version - 1 end
      from bisect
      join SCHEMA.events event on event.stream = $1 and event.version = (low + high + 1) / 2
     where low < high
)
select low
  from bisect
 where low = high
   and (select SCHEMA.PROVEN)`

// ReadOptions selects events of one stream. The zero value selects all, the first one first.
type ReadOptions struct {
	After     Version   // only events after this version
	To        Version   // only events up to this version; 0 means to the end
	AsOf      time.Time // only events up to the last one recorded at or before this time; zero means to the end
	Through   Position  // only events up to this position of the log; 0 means to the end
	Limit     int       // at most so many events; 0 means no limit
	Backwards bool      // the last event first
}

// Normalize checks the options and replaces zero values by the bounds they stand for. It is for
// implementations of another store.
func (o ReadOptions) Normalize() (ReadOptions, error) {
	if o.After < 0 || o.To < 0 || o.Through < 0 || o.Limit < 0 {
		return o, invalid("After %d, To %d, Through %d, Limit %d: want none of them negative",
			int64(o.After), int64(o.To), int64(o.Through), o.Limit)
	}
	if year := o.AsOf.Year(); year < 1 || year > 9999 {
		return o, invalid("AsOf in the year %d: want one from 1 to 9999", year)
	}
	if o.To == 0 {
		o.To = math.MaxInt64
	}
	if o.Through == 0 {
		o.Through = maxPosition
	}
	if o.Limit == 0 {
		o.Limit = math.MaxInt
	}
	return o, nil
}

// Read iterates over the events of one stream, by version. A stream without events yields nothing. Events are fetched
// by pages, and each page is one snapshot. The loop may or may not see an append that is made while it runs, but it
// never skips a version.
func (s *Store) Read(ctx context.Context, stream StreamID, options ReadOptions) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		if err := stream.Validate(); err != nil {
			yield(Raw{}, wrap(err, "read"))
			return
		}
		options, err := options.Normalize()
		if err != nil {
			yield(Raw{}, wrap(err, "read stream %s", stream))
			return
		}
		options.To, err = s.lastVersion(ctx, stream, options)
		if err != nil {
			yield(Raw{}, translateRead(err, "read stream %s", stream))
			return
		}
		sql := s.sql.stream
		if options.Backwards {
			sql = s.sql.backwards
		}
		for left := options.Limit; left > 0; {
			limit := min(left, s.config.PageSize)
			page, err := s.query(ctx, sql, stream.String(), options.After, options.To, limit)
			if err != nil {
				yield(Raw{}, translateRead(err, "read stream %s", stream))
				return
			}
			if !yieldAll(yield, page) || len(page) < limit {
				return
			}
			left -= limit
			if last := page[limit-1].Version; options.Backwards {
				options.To = last - 1
			} else {
				options.After = last
			}
		}
	}
}

// lastVersion returns the first of three versions: To, the version at AsOf, and the version at Through.
func (s *Store) lastVersion(ctx context.Context, stream StreamID, options ReadOptions) (Version, error) {
	to := options.To
	if !options.AsOf.IsZero() {
		version, err := queryOne[Version](ctx, s.db, s.sql.asOf, stream.String(), options.AsOf)
		if err != nil {
			return 0, err
		}
		to = min(to, version)
	}
	if options.Through < maxPosition {
		version, err := queryOne[Version](ctx, s.db, s.sql.through, stream.String(), options.Through)
		if err != nil {
			return 0, err
		}
		to = min(to, version)
	}
	return to, nil
}

// queryOne returns the only column of the only row, and the zero value if there is no row.
func queryOne[T any](ctx context.Context, db querier, sql string, args ...any) (T, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		var zero T
		return zero, err
	}
	value, err := pgx.CollectOneRow(rows, pgx.RowTo[T])
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return value, err
}
