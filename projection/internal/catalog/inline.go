package catalog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

const keptInlineSQL = `
select exists (
       select
         from SCHEMA.projections
        where name = $1
          and ($2 = 0 or version = $2)
          and inline is not null)`

// KeptInline reports whether appends keep a version, or will keep it soon. With version 0 it reports so for any version
// of the name.
func (c *Catalog) KeptInline(ctx context.Context, db DB, id ID) (bool, error) {
	return one[bool](ctx, c, db, keptInlineSQL, id.Name, id.Version)
}

const activeInlineSQL = `
select name || ':' || version
  from SCHEMA.projections
 where inline >= 0
   and name || ':' || version = any ($1)`

// ActiveInline returns the versions that appends keep, of those with the given names in the form name:version.
func (c *Catalog) ActiveInline(ctx context.Context, tx pgx.Tx, names []string) ([]string, error) {
	return collect(ctx, c, tx, pgx.RowTo[string], activeInlineSQL, names)
}

// The locks are taken in the order of the hashes, so that two appends cannot deadlock.
const lockKeysSQL = `
select pg_advisory_xact_lock(hashtext($1), h.hash)
  from (select distinct hashtext(key) as hash
          from unnest($2::text[]) key
         order by 1) h`

// LockKeys makes appends write the rows of some keys one after the other. The locks last until the transactions end.
func (c *Catalog) LockKeys(ctx context.Context, tx pgx.Tx, name string, keys []string) error {
	_, err := tx.Exec(ctx, lockKeysSQL, name, keys)
	return err
}

// Appends through stores with Config.Inline hold this lock shared, from before they store anything until they end.
const excludeAppendsSQL = `select pg_advisory_xact_lock(hashtext('SCHEMA.inline'), 0)`

// ExcludeAppends makes all appends through stores with Config.Inline wait until the transaction ends.
func (c *Catalog) ExcludeAppends(ctx context.Context, tx pgx.Tx) error {
	_, err := c.exec(ctx, tx, excludeAppendsSQL)
	return err
}

// nextval is not transactional: an append with an old snapshot also sees that the sequence has moved.
const armInlineSQL = `
update SCHEMA.projections
   set inline = -1, updated_at = clock_timestamp()
 where name = $1
   and version = $2
   and inline is null
returning nextval('SCHEMA.inline_starts')`

const disarmInlineSQL = `
update SCHEMA.projections
   set inline = null, updated_at = clock_timestamp()
 where name = $1
   and version = $2
   and inline = -1`

// ArmInline stores that appends will keep a version soon. It reports whether that was not stored before.
func (c *Catalog) ArmInline(ctx context.Context, db DB, id ID) (armed bool, err error) {
	n, err := c.exec(ctx, db, armInlineSQL, id.Name, id.Version)
	return n == 1, err
}

// DisarmInline undoes ArmInline.
func (c *Catalog) DisarmInline(ctx context.Context, db DB, id ID) error {
	_, err := c.exec(ctx, db, disarmInlineSQL, id.Name, id.Version)
	return err
}

const logEndSQL = `
select coalesce(max(position), 0)
  from SCHEMA.events`

// LogEnd returns the position of the last event that the statement sees.
func (c *Catalog) LogEnd(ctx context.Context, db DB) (eventstore.Position, error) {
	return one[eventstore.Position](ctx, c, db, logEndSQL)
}

// Appending returns the ids of the open transactions that have appended, or are about to.
func (c *Catalog) Appending(ctx context.Context, db DB) ([]string, error) {
	return collect(ctx, c, db, pgx.RowTo[string], `select t from SCHEMA.appending() t`)
}

const setInlineSQL = `
update SCHEMA.projections
   set inline = $3, updated_at = clock_timestamp()
 where name = $1
   and version = $2`

// SetInline stores that appends keep a version after a position. The caller fences the version.
func (c *Catalog) SetInline(ctx context.Context, tx pgx.Tx, id ID, after eventstore.Position) error {
	_, err := c.exec(ctx, tx, setInlineSQL, id.Name, id.Version, after)
	return err
}

// InlineState is the state that decides whether appends may keep a version.
type InlineState struct {
	Inline *int64 // nil: no, -1: soon, otherwise after this position
	Phase  string
	State  string
	Types  []string
	Parked int
	Behind bool // there are events that the runner has not handled
}

const inlineStateSQL = `
select v.inline, v.phase, v.state, v.types, p.parked,
       exists (
       select
         from SCHEMA.events e
        where e.position > p.checkpoint
          and e.position <= $3
          and e.type = any (v.types)) as behind
  from SCHEMA.projections v
  join SCHEMA.projection_partitions p on (p.projection, p.version) = (v.name, v.version)
 where v.name = $1
   and v.version = $2`

// InlineState returns whether appends may keep a version with one partition. Behind concerns the events up to end.
func (c *Catalog) InlineState(ctx context.Context, db DB, id ID, end eventstore.Position) (s InlineState, err error) {
	found, err := db.Query(ctx, c.SQL(inlineStateSQL), id.Name, id.Version, end)
	if err != nil {
		return s, err
	}
	return pgx.CollectExactlyOneRow(found, pgx.RowToStructByPos[InlineState])
}

const moveInlineSQL = `
update SCHEMA.projection_partitions p
   set checkpoint = $3
  from SCHEMA.projections v
 where (v.name, v.version) = (p.projection, p.version)
   and v.inline >= 0
   and p.projection = $1
   and p.version = $2`

const endInlineSQL = `
update SCHEMA.projections
   set inline = null, updated_at = clock_timestamp()
 where name = $1
   and version = $2
   and inline is not null`

// EndInline gives a version back to the runner, which continues at the end of the log. It reports whether appends kept
// the version or would have kept it soon. The caller fences the version, and excludes appends.
func (c *Catalog) EndInline(ctx context.Context, tx pgx.Tx, id ID, end eventstore.Position) (ended bool, err error) {
	if _, err := c.exec(ctx, tx, moveInlineSQL, id.Name, id.Version, end); err != nil {
		return false, err
	}
	n, err := c.exec(ctx, tx, endInlineSQL, id.Name, id.Version)
	return n > 0, err
}
