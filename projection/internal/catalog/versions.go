package catalog

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// LockName makes processes register the versions of one name one after the other. The lock lasts until the transaction
// ends.
func (c *Catalog) LockName(ctx context.Context, tx pgx.Tx, name string) error {
	_, err := tx.Exec(ctx, `select pg_advisory_xact_lock(hashtext('tidemark.projections'), hashtext($1))`, name)
	return err
}

// LockTables makes projections of different names claim tables one after the other. The lock lasts until the
// transaction ends.
func (c *Catalog) LockTables(ctx context.Context, tx pgx.Tx) error {
	return c.LockName(ctx, tx, "the tables of all projections")
}

// Version is a row of the table projections.
type Version struct {
	Version    int
	Phase      string
	Partitions int
	Types      []string
	Definition string
	Kind       string
	Log        uuid.UUID // the checkpoints are positions of this log
}

const versionsSQL = `
select version, phase, partitions, types, definition, kind, log
  from SCHEMA.projections
 where name = $1
 order by version`

// Versions returns the versions of a name, in the order of their numbers.
func (c *Catalog) Versions(ctx context.Context, db DB, name string) ([]Version, error) {
	return collect(ctx, c, db, pgx.RowToStructByPos[Version], versionsSQL, name)
}

// NewVersion is a row of projections that is not stored yet.
type NewVersion struct {
	Version
	Tables  []string
	Total   int64               // about how many events must be handled until the version has been built
	TotalAt eventstore.Position // where the log ends
}

const registerSQL = `
insert into SCHEMA.projections (name, version, log, phase, partitions, types, tables, definition, total, kind, total_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

// Register stores a new version.
func (c *Catalog) Register(ctx context.Context, tx pgx.Tx, name string, v NewVersion) error {
	_, err := c.exec(ctx, tx, registerSQL, name, v.Version.Version, v.Log, v.Phase, v.Partitions, v.Types, v.Tables, v.Definition, v.Total, v.Kind, v.TotalAt)
	return err
}

const changeTypesSQL = `
update SCHEMA.projections
   set types = $3, added = (added::jsonb || $4::jsonb)::json, updated_at = clock_timestamp()
 where name = $1
   and version = $2
   and (inline is null or not $5)`

// ChangeTypes stores the types that a version handles, and the position after which it handles each added type. If
// appends keep the version and concernsAppends is true, ChangeTypes changes nothing and returns false. The caller
// fences the version.
func (c *Catalog) ChangeTypes(ctx context.Context, tx pgx.Tx, id ID, types []string,
	added map[string]eventstore.Position, concernsAppends bool) (changed bool, err error) {
	text, err := json.Marshal(added)
	if err != nil {
		return false, err
	}
	n, err := c.exec(ctx, tx, changeTypesSQL, id.Name, id.Version, types, string(text), concernsAppends)
	return n > 0, err
}

const acceptSQL = `
update SCHEMA.projections
   set types = $3, added = '{}', updated_at = clock_timestamp()
 where name = $1
   and version = $2`

// Accept stores the types that a version handles, and forgets which types were added later. The caller fences the
// version.
func (c *Catalog) Accept(ctx context.Context, tx pgx.Tx, id ID, types []string) error {
	_, err := c.exec(ctx, tx, acceptSQL, id.Name, id.Version, types)
	return err
}

const nothingAddedSQL = `
update SCHEMA.projections
   set added = '{}'
 where name = $1
   and version = $2`

// NothingAdded forgets which types were added later, because the version will get all events of all its types.
func (c *Catalog) NothingAdded(ctx context.Context, tx pgx.Tx, id ID) error {
	_, err := c.exec(ctx, tx, nothingAddedSQL, id.Name, id.Version)
	return err
}

const typesSQL = `
select types
  from SCHEMA.projections
 where name = $1
   and version = $2`

// Types returns the types that a version handles, or [pgx.ErrNoRows].
func (c *Catalog) Types(ctx context.Context, db DB, id ID) ([]string, error) {
	return one[[]string](ctx, c, db, typesSQL, id.Name, id.Version)
}

const phaseSQL = `
select phase
  from SCHEMA.projections
 where name = $1
   and version = $2`

// Phase returns the phase of a version, or [pgx.ErrNoRows].
func (c *Catalog) Phase(ctx context.Context, db DB, id ID) (string, error) {
	return one[string](ctx, c, db, phaseSQL, id.Name, id.Version)
}

const liveVersionSQL = `
select version
  from SCHEMA.projections
 where name = $1
   and phase = 'live'`

// LiveVersion returns the number of the live version, or [pgx.ErrNoRows].
func (c *Catalog) LiveVersion(ctx context.Context, db DB, name string) (int, error) {
	return one[int](ctx, c, db, liveVersionSQL, name)
}

// LockedVersion is a row of projections that the transaction has locked.
type LockedVersion struct {
	Version    int
	Phase      string
	State      string
	Partitions int
	Tables     []string
}

const lockVersionsSQL = `
select version, phase, state, partitions, tables
  from SCHEMA.projections
 where name = $1
 order by version
   for no key update`

// LockVersions locks the versions of a name until the transaction ends. Take this lock before locks of partitions.
func (c *Catalog) LockVersions(ctx context.Context, tx pgx.Tx, name string) ([]LockedVersion, error) {
	return collect(ctx, c, tx, pgx.RowToStructByPos[LockedVersion], lockVersionsSQL, name)
}

const setStateSQL = `
update SCHEMA.projections
   set state = $3, reason = $4, updated_at = clock_timestamp()
 where name = $1
   and ($2 = 0 or version = $2)`

// SetState sets the state of a version, or of all versions with version 0, and reports whether there is one. The caller
// fences them.
func (c *Catalog) SetState(ctx context.Context, tx pgx.Tx, id ID, state, reason string) (found bool, err error) {
	n, err := c.exec(ctx, tx, setStateSQL, id.Name, id.Version, state, reason)
	return n > 0, err
}

const setPhaseSQL = `
update SCHEMA.projections
   set phase = $3, reason = case when state = 'running' then null else reason end, held_until = null, updated_at = clock_timestamp()
 where name = $1
   and version = $2`

// SetPhase sets the phase of a version. The caller fences the version.
func (c *Catalog) SetPhase(ctx context.Context, tx pgx.Tx, id ID, phase string) error {
	_, err := c.exec(ctx, tx, setPhaseSQL, id.Name, id.Version, phase)
	return err
}

const setReasonSQL = `
update SCHEMA.projections
   set reason = $3
 where name = $1
   and version = $2
   and phase = 'building'`

// SetReason stores why a version that is being built cannot become the live version.
func (c *Catalog) SetReason(ctx context.Context, db DB, id ID, reason string) error {
	_, err := c.exec(ctx, db, setReasonSQL, id.Name, id.Version, reason)
	return err
}

const holdSQL = `
update SCHEMA.projections
   set held_until = clock_timestamp() + $2::interval
 where name = $1
   and phase = 'live'`

// Hold holds the live version at its checkpoints for some time. With length 0 the version continues. The caller fences
// the version.
func (c *Catalog) Hold(ctx context.Context, db DB, name string, length time.Duration) error {
	_, err := c.exec(ctx, db, holdSQL, name, length)
	return err
}

const lockToDropSQL = `
select
  from SCHEMA.projections
 where name = $1
   and version = $2
   for update`

const dropSQL = `
delete from SCHEMA.projections
 where name = $1
   and version = $2`

// LockToDrop locks a version before the transaction locks anything else. Renewing leases takes the locks in the same
// order.
func (c *Catalog) LockToDrop(ctx context.Context, tx pgx.Tx, id ID) error {
	_, err := c.exec(ctx, tx, lockToDropSQL, id.Name, id.Version)
	return err
}

// Drop deletes a version with its partitions and dead letters. The caller fences the version.
func (c *Catalog) Drop(ctx context.Context, tx pgx.Tx, id ID) error {
	_, err := c.exec(ctx, tx, dropSQL, id.Name, id.Version)
	return err
}

const usersSQL = `
select (select count(*) from SCHEMA.projections where name = $1),
       coalesce((select min(m.owner)
                   from SCHEMA.projection_members m
                  where m.projection = $1
                    and m.expires between clock_timestamp() and clock_timestamp() + m.length),
                (select min(p.lease_owner)
                   from SCHEMA.projection_partitions p
                  where p.projection = $1
                    and ` + leased + `), '')`

// Users returns how many versions a name has, and a process that runs one of them; "" if no process does.
func (c *Catalog) Users(ctx context.Context, tx pgx.Tx, name string) (versions int, owner string, err error) {
	err = tx.QueryRow(ctx, c.SQL(usersSQL), name).Scan(&versions, &owner)
	return versions, owner, err
}

// TableClaim is a table of a projection.
type TableClaim struct{ Projection, Table string }

const othersTablesSQL = `
select distinct name, unnest(tables)
  from SCHEMA.projections
 where name <> $1`

// OthersTables returns the tables of all projections with other names.
func (c *Catalog) OthersTables(ctx context.Context, tx pgx.Tx, name string) ([]TableClaim, error) {
	return collect(ctx, c, tx, pgx.RowToStructByPos[TableClaim], othersTablesSQL, name)
}
