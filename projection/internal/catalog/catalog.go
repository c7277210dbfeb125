package catalog

import (
	"context"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// DB is a pool, a connection or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Batcher sends several statements in one round trip, as one transaction, and waits for the end of the transaction.
type Batcher func(ctx context.Context, b *pgx.Batch) error

// ID names a version of a projection.
type ID struct {
	Name    string
	Version int
}

// The phases of a version.
const (
	Live     = "live"     // readers see it
	Building = "building" // the version is being built, to become the live version
	Retired  = "retired"  // replaced by another version, and kept so that an operator can switch back
)

// The states of a version.
const (
	Running = "running"
	Paused  = "paused"
	Stopped = "stopped"
)

// Catalog reads and writes the projection tables of one schema. It is safe for concurrent use.
type Catalog struct {
	schema string
	texts  sync.Map // statements with the schema's name in place of SCHEMA
}

// New returns the catalog of a schema. The schema's name must be valid.
func New(schema string) *Catalog { return &Catalog{schema: schema} }

// Schema returns the schema's name.
func (c *Catalog) Schema() string { return c.schema }

// SQL returns a statement with the schema's name in place of SCHEMA.
func (c *Catalog) SQL(statement string) string {
	if text, ok := c.texts.Load(statement); ok {
		return text.(string)
	}
	text := pgschema.In(c.schema, statement)
	c.texts.Store(statement, text)
	return text
}

// exec executes a statement and returns how many rows it has changed.
func (c *Catalog) exec(ctx context.Context, db DB, sql string, args ...any) (int64, error) {
	tag, err := db.Exec(ctx, c.SQL(sql), args...)
	return tag.RowsAffected(), err
}

// collect returns the rows of a query.
func collect[T any](ctx context.Context, c *Catalog, db DB, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	found, err := db.Query(ctx, c.SQL(sql), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, scan)
}

// one returns the value of a query that returns one row with one column.
func one[T any](ctx context.Context, c *Catalog, db DB, sql string, args ...any) (value T, err error) {
	err = db.QueryRow(ctx, c.SQL(sql), args...).Scan(&value)
	return value, err
}

// nullID returns an id as an argument of a statement: null if the id is not known.
func nullID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
