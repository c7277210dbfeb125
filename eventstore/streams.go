package eventstore

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgpool"
)

// StreamInfo says where a stream ends, and when it began.
type StreamInfo struct {
	Stream   StreamID
	Version  Version   // of its last event; NoStream if it has none
	Position Position  // of its last event
	FirstAt  time.Time // when its first event was recorded, in UTC
	LastAt   time.Time // when its last event was recorded, in UTC
}

const statSQL = `
select last.stream, last.version, last.position, first.recorded_at, last.recorded_at
  from SCHEMA.events first
 cross join lateral (
       select stream, version, position, recorded_at
         from SCHEMA.events
        where stream = first.stream
        order by version desc
        limit 1) last
 where first.stream = $1
   and first.version = 1
   and (select SCHEMA.PROVEN)`

// Each step of the recursion jumps to the next stream in the index, however many events lie between.
const streamsSQL = `
with recursive streams as (
    (select stream, 1::bigint as n
       from SCHEMA.events
      where stream > $1
        and stream >= $2
        and starts_with(stream, $2)
      order by stream
      limit 1)
    union all
    select (select e.stream
              from SCHEMA.events e
             where e.stream > s.stream
             order by e.stream
             limit 1),
           s.n + 1
      from streams s
     where starts_with(s.stream, $2)
       and s.n <= $3
)
select last.stream, last.version, last.position, first.recorded_at, last.recorded_at
  from streams
 cross join lateral (
       select stream, version, position, recorded_at
         from SCHEMA.events
        where stream = streams.stream
        order by version desc
        limit 1) last
  join SCHEMA.events first on first.stream = streams.stream and first.version = 1
 where starts_with(streams.stream, $2)
   and (select SCHEMA.PROVEN)
 order by streams.n
 limit $3`

// An event is the last of its stream if there is no next version of it.
const recentSQL = `
select last.stream, last.version, last.position, first.recorded_at, last.recorded_at
  from SCHEMA.events last
  join SCHEMA.events first on first.stream = last.stream and first.version = 1
 where last.position < $1
   and starts_with(last.stream, $2)
   and not exists (
       select
         from SCHEMA.events later
        where later.stream = last.stream
          and later.version = last.version + 1)
   and (select SCHEMA.PROVEN)
 order by last.position desc
 limit $3`

// Stat returns the last version and position of a stream, and the times of its first and last event. A stream without
// events is at version NoStream.
func (s *Store) Stat(ctx context.Context, stream StreamID) (StreamInfo, error) {
	if err := stream.Validate(); err != nil {
		return StreamInfo{}, wrap(err, "stat")
	}
	found, err := s.infos(ctx, s.sql.stat, stream.String())
	if err != nil {
		return StreamInfo{}, translateRead(err, "stat stream %s", stream)
	}
	if len(found) == 0 {
		return StreamInfo{Stream: stream}, nil
	}
	return found[0], nil
}

// Streams lists streams whose text form starts with prefix, such as "account-", by name. It returns at most limit
// streams that come after the argument after; the zero StreamID lists from the first stream. For the next page pass
// the last stream of this page. limit is from 1 to 100,000. Streams takes one step in an index per stream.
func (s *Store) Streams(ctx context.Context, prefix string, after StreamID, limit int) ([]StreamInfo, error) {
	name := ""
	if after != (StreamID{}) {
		if err := after.Validate(); err != nil {
			return nil, wrap(err, "list streams")
		}
		name = after.String()
	}
	return s.list(ctx, s.sql.streams, name, prefix, limit)
}

// RecentStreams lists streams whose text form starts with prefix, the one with the latest event first. It returns at
// most limit streams whose last event is before the position before; 0 lists from the latest one. For the next page
// pass the Position of the last stream of this page. limit is from 1 to 100,000. RecentStreams reads the latest
// events, as many as it takes to find limit streams.
func (s *Store) RecentStreams(ctx context.Context, prefix string, before Position, limit int) ([]StreamInfo, error) {
	if err := validAfter(before, Filter{}); err != nil {
		return nil, err
	}
	if before == 0 {
		before = maxPosition
	}
	return s.list(ctx, s.sql.recent, before, prefix, limit)
}

func (s *Store) list(ctx context.Context, sql string, from any, prefix string, limit int) ([]StreamInfo, error) {
	if err := ValidateList(prefix, limit); err != nil {
		return nil, wrap(err, "list streams")
	}
	found, err := s.infos(ctx, sql, from, prefix, limit)
	if err != nil {
		return nil, translateRead(err, "list streams")
	}
	return found, nil
}

// ValidateList checks the arguments of a list of streams. It is for implementations of another store.
func ValidateList(prefix string, limit int) error {
	if prefix != "" {
		if err := validName("prefix", prefix); err != nil {
			return err
		}
	}
	if limit < 1 || limit > maxPage {
		return invalid("limit %d: want from 1 to %d", limit, maxPage)
	}
	return nil
}

func (s *Store) infos(ctx context.Context, sql string, args ...any) ([]StreamInfo, error) {
	rows, err := s.db.Query(pgpool.Patient(ctx), sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (info StreamInfo, err error) {
		var stream string
		err = row.Scan(&stream, (*int64)(&info.Version), (*int64)(&info.Position), &info.FirstAt, &info.LastAt)
		info.Stream = parseStored(stream)
		info.FirstAt, info.LastAt = info.FirstAt.UTC(), info.LastAt.UTC()
		return info, err
	})
}
