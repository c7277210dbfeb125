package catalog

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// NewLetter is a dead letter that is not stored yet.
type NewLetter struct {
	Key      string
	Position eventstore.Position
	Stream   string
	Type     string
	Error    *string // nil for an event that waits behind another one
	Attempts int
}

const parkSQL = `
insert into SCHEMA.dead_letters (projection, version, partition, key, position, stream, type, error, attempts)
select $1, $2, $3, u.key, u.position, u.stream, u.type, u.error, u.attempts
  from unnest($4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::int[]) as u (key, position, stream, type, error, attempts)`

// Park stores dead letters. The caller counts them with Advance.
func (c *Catalog) Park(ctx context.Context, tx pgx.Tx, id ID, partition int, letters []NewLetter) error {
	var keys, streams, types []string
	var positions []int64
	var reasons []*string
	var attempts []int32
	for _, l := range letters {
		keys, positions = append(keys, l.Key), append(positions, int64(l.Position))
		streams, types = append(streams, l.Stream), append(types, l.Type)
		reasons, attempts = append(reasons, l.Error), append(attempts, int32(l.Attempts))
	}
	_, err := c.exec(ctx, tx, parkSQL, id.Name, id.Version, partition, keys, positions, streams, types, reasons, attempts)
	return err
}

const parkedSQL = `
select coalesce(sum(parked), 0)
  from SCHEMA.projection_partitions
 where projection = $1
   and version = $2`

// Parked returns how many dead letters a version has.
func (c *Catalog) Parked(ctx context.Context, db DB, id ID) (int, error) {
	return one[int](ctx, c, db, parkedSQL, id.Name, id.Version)
}

const parkedKeysSQL = `
select distinct key
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and partition = $3`

// ParkedKeys returns the keys of a partition that have dead letters.
func (c *Catalog) ParkedKeys(ctx context.Context, db DB, id ID, partition int) ([]string, error) {
	return collect(ctx, c, db, pgx.RowTo[string], parkedKeysSQL, id.Name, id.Version, partition)
}

// Letter is a dead letter.
type Letter struct {
	Key        string
	Position   eventstore.Position
	Stream     string
	Type       string
	Error      string // "" if the event only waits
	Attempts   int
	Edited     json.RawMessage
	Waiting    int // events of the key behind this one
	RecordedAt time.Time
}

const lettersSQL = `
select l.key, l.position, l.stream, l.type, coalesce(l.error, ''), l.attempts, l.edited,
       (select count(*)
          from SCHEMA.dead_letters b
         where (b.projection, b.version, b.key) = (l.projection, l.version, l.key)
           and b.position > l.position),
       l.recorded_at
  from SCHEMA.dead_letters l
 where l.projection = $1
   and l.version = $2
   and (l.key = $3 or $3 = '' and not exists (
        select
          from SCHEMA.dead_letters b
         where (b.projection, b.version, b.key) = (l.projection, l.version, l.key)
           and b.position < l.position))
   and l.position > $4
 order by l.position
 fetch first ($5) rows with ties`

// Letters returns dead letters after a position, in the order of positions: the first of each key, or all of one key.
// It returns at most most of them, and more only if several have the last position.
func (c *Catalog) Letters(ctx context.Context, db DB, id ID, key string, after eventstore.Position, most int) ([]Letter, error) {
	return collect(ctx, c, db, pgx.RowToStructByPos[Letter], lettersSQL, id.Name, id.Version, key, after, most)
}

// LetterGroup are the dead letters whose errors have the same first line.
type LetterGroup struct {
	Error       string
	Count       int // events that failed with this error
	Waiting     int // events behind them
	First, Last eventstore.Position
	Since       time.Time
}

const groupsSQL = `
select error, count(*)::int, sum(waiting)::int, min(position), max(position), min(recorded_at)
  from (select split_part(l.error, E'\n', 1) as error, l.position, l.recorded_at,
               (select count(*)
                  from SCHEMA.dead_letters b
                 where (b.projection, b.version, b.key) = (l.projection, l.version, l.key)
                   and b.error is null) as waiting
          from SCHEMA.dead_letters l
         where l.projection = $1
           and l.version = $2
           and l.error is not null) failed
 group by error`

// LetterGroups returns the dead letters of a version, grouped by the first line of their errors.
func (c *Catalog) LetterGroups(ctx context.Context, db DB, id ID) ([]LetterGroup, error) {
	return collect(ctx, c, db, pgx.RowToStructByPos[LetterGroup], groupsSQL, id.Name, id.Version)
}

const letterKeysSQL = `
select key
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and (cardinality($3::text[]) = 0 or key = any ($3))
 group by key
 order by min(position)`

// LetterKeys returns the given keys that have dead letters, or all keys that have some if none is given. The key with
// the oldest dead letter comes first.
func (c *Catalog) LetterKeys(ctx context.Context, db DB, id ID, keys []string) ([]string, error) {
	return collect(ctx, c, db, pgx.RowTo[string], letterKeysSQL, id.Name, id.Version, append([]string{}, keys...))
}

// KeyLetter is a dead letter of one key, and the payload that was put in the place of its own.
type KeyLetter struct {
	Position eventstore.Position
	Edited   []byte
}

const keyLettersSQL = `
select position, edited
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and key = $3
 order by position
 limit $4`

// KeyLetters returns the first dead letters of a key.
func (c *Catalog) KeyLetters(ctx context.Context, db DB, id ID, key string, most int) ([]KeyLetter, error) {
	return collect(ctx, c, db, pgx.RowToStructByPos[KeyLetter], keyLettersSQL, id.Name, id.Version, key, most)
}

const failLetterSQL = `
update SCHEMA.dead_letters
   set error = $5, attempts = attempts + 1
 where projection = $1
   and version = $2
   and key = $3
   and position = $4`

// FailLetter notes that a dead letter has failed again.
func (c *Catalog) FailLetter(ctx context.Context, db DB, id ID, key string, position eventstore.Position, reason string) error {
	_, err := c.exec(ctx, db, failLetterSQL, id.Name, id.Version, key, position, reason)
	return err
}

const editSQL = `
update SCHEMA.dead_letters
   set edited = $5
 where projection = $1
   and version = $2
   and key = $3
   and position = $4`

// Edit puts another payload in the place of a dead letter's payload. It reports whether the dead letter exists.
func (c *Catalog) Edit(ctx context.Context, tx pgx.Tx, id ID, key string, position eventstore.Position, data string) (found bool, err error) {
	n, err := c.exec(ctx, tx, editSQL, id.Name, id.Version, key, position, data)
	return n > 0, err
}

const deleteLettersSQL = `
with gone as (
    delete from SCHEMA.dead_letters
     where projection = $1
       and version = $2
       and key = $3
       and position = any ($4)
    returning 1)
update SCHEMA.projection_partitions
   set parked = parked - (select count(*) from gone), handled = handled + $6
 where projection = $1
   and version = $2
   and partition = $5`

// DeleteLetters deletes dead letters of a key and updates the counts of the partition. handled is how many of them
// count as handled. The caller fences the partition.
func (c *Catalog) DeleteLetters(ctx context.Context, tx pgx.Tx, id ID, partition int, key string, positions []int64, handled int) error {
	_, err := c.exec(ctx, tx, deleteLettersSQL, id.Name, id.Version, key, positions, partition, handled)
	return err
}

const dropLettersSQL = `
delete from SCHEMA.dead_letters
 where projection = $1
   and version = $2`

// DropLetters deletes all dead letters of a version. It does not update the counts of the partitions.
func (c *Catalog) DropLetters(ctx context.Context, tx pgx.Tx, id ID) error {
	_, err := c.exec(ctx, tx, dropLettersSQL, id.Name, id.Version)
	return err
}

const parkedAmongSQL = `
select key
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and key = any ($3)
 limit 1`

// ParkedAmong returns one of the given keys that has dead letters, or [pgx.ErrNoRows].
func (c *Catalog) ParkedAmong(ctx context.Context, db DB, id ID, keys []string) (string, error) {
	return one[string](ctx, c, db, parkedAmongSQL, id.Name, id.Version, keys)
}

// LetterID names a dead letter of a version.
type LetterID struct {
	Position eventstore.Position
	Key      string
}

// The dead letters of the key, and those of events that may have had no key when they were parked.
const concernedSQL = `
select position, key
  from SCHEMA.dead_letters
 where projection = $1
   and version = $2
   and (key = $3 or key = stream)`

// Concerned returns the dead letters of a key, and the dead letters that were parked under their stream.
func (c *Catalog) Concerned(ctx context.Context, db DB, id ID, key string) ([]LetterID, error) {
	return collect(ctx, c, db, pgx.RowToStructByPos[LetterID], concernedSQL, id.Name, id.Version, key)
}
