package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgpool"
	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// PostgresConfig adjusts a [Postgres]. Nil and the zero value are the defaults.
type PostgresConfig struct {
	// Schema is the Postgres schema the store was migrated into; empty means "tidemark".
	Schema string
	// Retention says which snapshots of a stream are kept.
	Retention
}

// Postgres keeps snapshots in the table "snapshots", in the schema of the events. Saving does not wait until the commit
// is flushed to disk. A snapshot that a crash of the server loses is taken again later.
type Postgres struct {
	pool      *pgpool.Pool
	retention Retention

	load, version, save, prune, remove, outdated string
}

// NewPostgres returns a store over a pool; it does not connect. The error is an [ErrInvalid].
func NewPostgres(pool *pgxpool.Pool, config *PostgresConfig) (*Postgres, error) {
	if pool == nil {
		return nil, fmt.Errorf("snapshot: %w: the pool is nil: pass one made by pgxpool.New", ErrInvalid)
	}
	var c PostgresConfig
	if config != nil {
		c = *config
	}
	schema, err := pgschema.Name(c.Schema)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w: %w", ErrInvalid, err)
	}
	retention, err := c.Retention.normalize()
	if err != nil {
		return nil, err
	}
	return &Postgres{
		pool:      pgpool.New(pool),
		retention: retention,
		load:      pgschema.In(schema, loadSQL),
		version:   pgschema.In(schema, versionSQL),
		save:      pgschema.In(schema, saveSQL),
		prune:     pgschema.In(schema, pruneSQL),
		remove:    pgschema.In(schema, removeSQL),
		outdated:  pgschema.In(schema, outdatedSQL),
	}, nil
}

// Postgres runs the second part only if the first part finds no row.
const loadSQL = `
(select version, event_id, recorded_at, type, shape, schema, data
   from SCHEMA.snapshots
  where stream = $1
    and version <= $2
    and type = $3
    and shape = $4
    and schema = $5
  order by version desc
  limit 1)
union all
(select version, event_id, recorded_at, type, shape, schema, null
   from SCHEMA.snapshots
  where stream = $1
    and version <= $2
    and (type, shape, schema) <> ($3, $4, $5)
  order by version desc
  limit 1)
 limit 1`

// versionSQL selects the version of the snapshot that loadSQL selects, if that one is of the kind.
const versionSQL = `
select version
  from SCHEMA.snapshots
 where stream = $1
   and version <= $2
   and type = $3
   and shape = $4
   and schema = $5
 order by version desc
 limit 1`

// Load is [Store].Load.
func (p *Postgres) Load(ctx context.Context, stream eventstore.StreamID, kind Kind, to eventstore.Version) (Snapshot, bool, error) {
	s := Snapshot{Stream: stream}
	err := s.scan(p.pool.QueryRow(ctx, p.load, stream.String(), int64(to), kind.Type, kind.Shape, kind.Schema))
	if errors.Is(err, pgx.ErrNoRows) {
		return Snapshot{}, false, nil
	}
	if err != nil {
		return Snapshot{}, false, failure(err, "load %s", stream)
	}
	return s, true, nil
}

func (s *Snapshot) scan(row pgx.Row) error {
	err := row.Scan((*int64)(&s.Version), (*[16]byte)(&s.EventID), &s.RecordedAt, &s.Kind.Type, &s.Kind.Shape, &s.Kind.Schema, &s.Data)
	s.RecordedAt = s.RecordedAt.UTC()
	return err
}

// loadAndRead is Load, and reads the events from the snapshot on, all of them if there is none of the kind.
func (p *Postgres) loadAndRead(ctx context.Context, events *eventstore.Store, stream eventstore.StreamID, kind Kind, to eventstore.Version) (s Snapshot, found bool, _ iter.Seq2[eventstore.Raw, error], err error) {
	s.Stream = stream
	read, err := events.ReadFrom(ctx, stream, to, eventstore.Start{
		SQL: p.load, Version: p.version, Args: []any{kind.Type, kind.Shape, kind.Schema}, Within: loadTimeout,
		Scan: func(rows pgx.Rows) (eventstore.Version, error) {
			if found = rows.Next(); !found {
				return 0, rows.Err()
			}
			if err := s.scan(rows); err != nil || s.Kind != kind {
				return 0, err
			}
			return s.Version, nil
		},
	})
	if err != nil {
		return Snapshot{}, false, nil, failure(err, "load %s", stream)
	}
	return s, found, read, nil
}

// settingsSQL sets options until the end of the transaction. To save a few snapshots, planning costs more than the
// work. So the plans are generic and made once. Without sequential scans they also fit a table that has grown since.
const settingsSQL = `
select set_config('synchronous_commit', 'off', true),
       set_config('plan_cache_mode', 'force_generic_plan', true),
       set_config('enable_seqscan', 'off', true)`

// Rows are written in the order of their streams, which is the order of the primary key. All processes lock rows in
// this order, so that they cannot deadlock.
const saveSQL = `
insert into SCHEMA.snapshots as old
       (stream, version, event_id, recorded_at, type, shape, schema, data)
select stream, version, event_id, recorded_at, type, shape, schema, data
  from unnest($1::text[], $2::bigint[], $3::text[]::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::int[], $8::bytea[])
       as new (stream, version, event_id, recorded_at, type, shape, schema, data)
 where not exists (
       select
         from SCHEMA.snapshots same
        where same.stream = new.stream
          and same.version >= new.version
          and same.type = new.type
          and same.shape = new.shape
          and same.schema = new.schema)
 order by stream collate "C"
    on conflict (stream, version) do update
   set event_id = excluded.event_id,
       recorded_at = excluded.recorded_at,
       type = excluded.type,
       shape = excluded.shape,
       schema = excluded.schema,
       data = excluded.data
 where (old.type, old.shape, old.schema) <> (excluded.type, excluded.shape, excluded.schema)`

// pruneSQL deletes, from the streams that were saved:
//
//   - snapshots of another type;
//   - snapshots of another shape or schema that are older than the second-latest of the saved kind;
//   - snapshots of the saved kind that are older than the latest $5, except the last of each period of $6 µs. A
//     snapshot is the last of its period if the next one of the kind is of another period.
//
// It skips rows that another process has locked: that process deletes them, or the next save does. A transaction that
// has written its own rows and then waits for other rows could deadlock.
const pruneSQL = `
delete from SCHEMA.snapshots
 where (stream, version) in (
       select old.stream, old.version
         from unnest($1::text[], $2::text[], $3::text[], $4::int[]) as saved (stream, type, shape, schema)
         join SCHEMA.snapshots old on old.stream = saved.stream
        where case when old.type <> saved.type then
                   true
              when (old.shape, old.schema) <> (saved.shape, saved.schema) then
                   old.version < (
                       select version
                         from SCHEMA.snapshots
                        where stream = saved.stream
                          and type = saved.type
                          and shape = saved.shape
                          and schema = saved.schema
                        order by version desc
                       offset 1
                        limit 1)
              else
                   old.version < (
                       select version
                         from SCHEMA.snapshots
                        where stream = saved.stream
                          and type = saved.type
                          and shape = saved.shape
                          and schema = saved.schema
                        order by version desc
                       offset $5::bigint - 1
                        limit 1)
                   and ($6::bigint = 0
                        or floor(extract(epoch from old.recorded_at) * 1000000 / $6) = (
                           select floor(extract(epoch from next.recorded_at) * 1000000 / $6)
                             from SCHEMA.snapshots next
                            where next.stream = old.stream
                              and next.version > old.version
                              and next.type = old.type
                              and next.shape = old.shape
                              and next.schema = old.schema
                            order by next.version
                            limit 1))
              end
        order by old.stream, old.version
          for update of old skip locked)`

// Save is [Store].Save. It takes one transaction and one round trip.
func (p *Postgres) Save(ctx context.Context, snapshots ...Snapshot) error {
	if err := validate(snapshots); err != nil || len(snapshots) == 0 {
		return err
	}
	sorted := slices.SortedFunc(slices.Values(snapshots), func(a, b Snapshot) int { return cmp.Compare(a.Stream.String(), b.Stream.String()) })
	var (
		streams, ids, types []string
		shapes              []string
		versions            []int64
		times               []time.Time
		schemas             []int
		data                [][]byte
	)
	for _, s := range sorted {
		streams = append(streams, s.Stream.String())
		versions = append(versions, int64(s.Version))
		ids = append(ids, s.EventID.String())
		times = append(times, s.RecordedAt)
		types = append(types, s.Kind.Type)
		shapes = append(shapes, s.Kind.Shape)
		schemas = append(schemas, s.Kind.Schema)
		data = append(data, slices.Clip(append([]byte{}, s.Data...))) // never null
	}
	var batch pgx.Batch // a batch is one transaction
	batch.Queue(settingsSQL)
	batch.Queue(p.save, streams, versions, ids, times, types, shapes, schemas, data)
	batch.Queue(p.prune, streams, types, shapes, schemas, p.retention.Latest, p.retention.Period.Microseconds())
	if err := p.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return failure(err, "save %d, of stream %s first", len(snapshots), sorted[0].Stream)
	}
	return nil
}

const removeSQL = `
delete from SCHEMA.snapshots
 where stream = $1
   and version = $2`

// Delete is [Store].Delete.
func (p *Postgres) Delete(ctx context.Context, stream eventstore.StreamID, version eventstore.Version) error {
	if _, err := p.pool.Exec(ctx, p.remove, stream.String(), int64(version)); err != nil {
		return failure(err, "delete %s at version %d", stream, version)
	}
	return nil
}

// The streams of a category are next to each other in the primary key, from '-' to the next character, '.'.
const outdatedSQL = `
delete from SCHEMA.snapshots
 where (stream, version) in (
       select stream, version
         from SCHEMA.snapshots
        where stream >= $1 || '-'
          and stream < $1 || '.'
          and (type <> $2 or schema < $4 or schema = $4 and shape <> $3)
        order by stream, version
        limit $5
          for update)`

// DeleteOutdated is [Store].DeleteOutdated.
func (p *Postgres) DeleteOutdated(ctx context.Context, category string, kind Kind, limit int) (int, error) {
	if err := validOutdated(category, kind, limit); err != nil {
		return 0, err
	}
	tag, err := p.pool.Exec(pgpool.Patient(ctx), p.outdated, category, kind.Type, kind.Shape, kind.Schema, limit)
	if err != nil {
		return 0, failure(err, "delete outdated of %s", category)
	}
	return int(tag.RowsAffected()), nil
}

// failure says what was being done and, if the cause of the error is known, what to do about it. Its sentinels are
// those of the event store.
func failure(err error, doing string, args ...any) error {
	doing = fmt.Sprintf(doing, args...)
	advice := pgerr.Advice(err)
	switch {
	case pgerr.NotMigrated(err):
		return fmt.Errorf("snapshot: %s: %w: call migrations.Up for its schema first, or correct PostgresConfig.Schema: %w", doing, eventstore.ErrNotMigrated, err)
	case pgerr.Is(err, pgerr.InsufficientPrivilege):
		return fmt.Errorf("snapshot: %s: %w: %w (%s)", doing, eventstore.ErrDenied, err, advice)
	case pgerr.Is(err, pgerr.ReadOnly):
		return fmt.Errorf("snapshot: %s: %w: %w (%s)", doing, eventstore.ErrReadOnly, err, advice)
	case advice != "":
		return fmt.Errorf("snapshot: %s: %w (%s)", doing, err, advice)
	}
	return fmt.Errorf("snapshot: %s: %w", doing, err)
}

var _, _ Store = (*Postgres)(nil), (*Memory)(nil)
