package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/internal/pgpool"
	"github.com/tidemark-es/tidemark/internal/pgschema"
)

// DefaultSchema is the schema a store lives in unless Config says otherwise.
const DefaultSchema = pgschema.Default

// FS holds the migration files, for tools that read them from an [fs.FS].
//
//go:embed *.sql
var FS embed.FS

var (
	// ErrNewer means that the database was migrated by a newer release than this one.
	ErrNewer = errors.New("database was migrated by a newer release of tidemark")
	// ErrPending means that the database lacks migrations of this release.
	ErrPending = errors.New("database lacks migrations of this release of tidemark")
	// ErrInvalidSchema means that a schema name is not a plain lower-case identifier.
	ErrInvalidSchema = errors.New("invalid schema name")
	// ErrEncoding means that the encoding of the database is not UTF8. The database could not store all texts.
	ErrEncoding = errors.New("the encoding of the database is not UTF8")
)

var errNilPool = errors.New("migrations: the pool is nil: pass one that pgxpool.New returned without an error")

// Config says in which schema the store is. Nil and the zero value mean the default.
type Config struct {
	// Schema is the Postgres schema of the store: lower-case letters, digits and underscores,
	// 63 bytes at most. Empty means [DefaultSchema].
	Schema string
}

// Migration is one step of the schema.
type Migration struct {
	Version int    // 1 for the first
	Name    string // the file's name, such as "001_events.sql"
	up      string
	down    string
	plain   string // up, in the default schema
}

// Up applies every pending migration. Many processes can call it at once. It changes nothing and returns an error in
// these cases:
//
//   - [ErrNewer] if the database was migrated by a newer release
//   - a [SchemaError] if the migrations that were applied before have not made what this release would make
//   - [ErrEncoding] if the encoding of the database is not UTF8
//   - [ErrUnsuitable] if the server's advisory locks or sequences do not behave as in Postgres. Up tests them over a
//     second connection
func Up(ctx context.Context, pool *pgxpool.Pool, config *Config) error {
	return locked(ctx, pool, config, func(m *migrator) error {
		if err := m.checkEncoding(ctx); err != nil {
			return err
		}
		done, pending, err := m.split(ctx)
		if err != nil {
			return err
		}
		if err := m.check(ctx, done); err != nil {
			return err
		}
		if err := m.probe(ctx, pgpool.New(pool), len(pending) > 0); err != nil {
			return err
		}
		for _, step := range pending {
			if err := m.apply(ctx, step.Name, step.up); err != nil {
				return err
			}
		}
		return nil
	})
}

// Down takes back every migration, and so deletes every event. It is for tests, and for a store that is no longer
// needed. If the database was migrated by a newer release, Down changes nothing and returns [ErrNewer].
func Down(ctx context.Context, pool *pgxpool.Pool, config *Config) error {
	return locked(ctx, pool, config, func(m *migrator) error {
		applied, err := m.applied(ctx)
		if err != nil {
			return err
		}
		for _, step := range slices.Backward(m.steps) {
			if !slices.Contains(applied, step.Version) {
				continue
			}
			if err := m.apply(ctx, step.Name, step.down); err != nil {
				return err
			}
		}
		return nil
	})
}

// Pending returns the migrations that [Up] would apply, in order. It changes nothing.
func Pending(ctx context.Context, pool *pgxpool.Pool, config *Config) ([]Migration, error) {
	var pending []Migration
	err := connected(ctx, pool, config, func(m *migrator) (err error) {
		_, pending, err = m.split(ctx)
		return err
	})
	return pending, err
}

// Validate returns nil if the database is exactly at this release, [ErrPending] if it lacks migrations, and [ErrNewer]
// if it was migrated by a newer release. It changes nothing.
//
// Validate returns a [SchemaError], which unwraps to [ErrChanged], if tables, columns, constraints, indexes, sequences,
// triggers or functions differ from those that the migrations make, whichever tool ran them. This happens after an edit
// by hand, after a restore that left something out, or when the schema was renamed. Validate ignores other objects in
// the schema, and the rights of roles.
func Validate(ctx context.Context, pool *pgxpool.Pool, config *Config) error {
	return connected(ctx, pool, config, func(m *migrator) error {
		done, pending, err := m.split(ctx)
		if err != nil {
			return err
		}
		if len(pending) > 0 {
			return fmt.Errorf("migrations: %w: %d from %s on: call migrations.Up",
				ErrPending, len(pending), pending[0].Name)
		}
		return m.check(ctx, done)
	})
}

// migrator applies the steps to one schema over one connection.
type migrator struct {
	schema string
	steps  []Migration
	conn   *pgx.Conn
}

func newMigrator(config *Config) (*migrator, error) {
	if config == nil {
		config = new(Config)
	}
	schema, err := pgschema.Name(config.Schema)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w: %w", ErrInvalidSchema, err)
	}
	steps, err := load(schema)
	if err != nil {
		return nil, err
	}
	return &migrator{schema: schema, steps: steps}, nil
}

// connected runs do over one connection.
func connected(ctx context.Context, pool *pgxpool.Pool, config *Config, do func(*migrator) error) error {
	m, err := newMigrator(config)
	if err != nil {
		return err
	}
	if pool == nil {
		return errNilPool
	}
	conn, err := pgpool.New(pool).Acquire(ctx)
	if err != nil {
		return fmt.Errorf("migrations: connect: %w", err)
	}
	defer conn.Release()
	m.conn = conn.Conn()
	return do(m)
}

// locked runs do over one connection, one process at a time.
func locked(ctx context.Context, pool *pgxpool.Pool, config *Config, do func(*migrator) error) error {
	return connected(ctx, pool, config, func(m *migrator) error {
		// The lock belongs to the session, because it spans several transactions. Closing the connection releases the
		// lock in every case, whatever state the connection is in.
		if _, err := m.conn.Exec(ctx, `select pg_advisory_lock(hashtext('tidemark migrations'), hashtext($1))`, m.schema); err != nil {
			return fmt.Errorf("migrations: lock: %w", err)
		}
		defer m.conn.Close(context.WithoutCancel(ctx))
		return do(m)
	})
}

// checkEncoding returns an [ErrEncoding] unless the encoding of the database is UTF8.
func (m *migrator) checkEncoding(ctx context.Context) error {
	var encoding string
	if err := m.conn.QueryRow(ctx, `select current_setting('server_encoding')`).Scan(&encoding); err != nil {
		return fmt.Errorf("migrations: look up the encoding: %w", err)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("migrations: %w, it is %s: make another database, with: create database … encoding 'UTF8' template template0", ErrEncoding, encoding)
	}
	return nil
}

// applied returns the versions of the migrations that the database has, in ascending order.
func (m *migrator) applied(ctx context.Context) ([]int, error) {
	rows, _ := m.conn.Query(ctx, pgschema.In(m.schema, `select version from SCHEMA.schema_migrations order by version`))
	versions, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if pgerr.NotMigrated(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("migrations: read versions of schema %s: %w", m.schema, err)
	}
	if n := len(versions); n > 0 && versions[n-1] > m.steps[len(m.steps)-1].Version {
		return nil, fmt.Errorf("migrations: %w: schema %s is at migration %d, this release knows %d: update the application",
			ErrNewer, m.schema, versions[n-1], m.steps[len(m.steps)-1].Version)
	}
	return versions, nil
}

// split returns the steps that the database has, and the steps that it lacks.
func (m *migrator) split(ctx context.Context) (done, pending []Migration, err error) {
	applied, err := m.applied(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, step := range m.steps {
		if slices.Contains(applied, step.Version) {
			done = append(done, step)
		} else {
			pending = append(pending, step)
		}
	}
	return done, pending, nil
}

// apply runs one file in a transaction. The file itself writes to schema_migrations.
func (m *migrator) apply(ctx context.Context, name, sql string) error {
	err := pgx.BeginFunc(ctx, m.conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	})
	if pgerr.Duplicate(err) {
		return fmt.Errorf("migrations: %s in schema %s: %w: an object of that name exists, but schema_migrations "+
			"does not say that the file was applied: was the schema restored in part? Restore all of it, or drop the object",
			name, m.schema, err)
	}
	if err != nil {
		return fmt.Errorf("migrations: %s in schema %s: %w", name, m.schema, err)
	}
	return nil
}

const (
	divider   = "---- create above / drop below ----" // of tern; goose has its own marks, in comments around this line
	schemaRef = `\btidemark\.|\bschema tidemark\b|to_regnamespace\('tidemark'\)`
)

var schemaName = regexp.MustCompile(schemaRef)

// load reads the embedded files, in their order, and puts the schema's name into them.
func load(schema string) ([]Migration, error) {
	names, err := fs.Glob(FS, "*.sql")
	if err != nil {
		return nil, err
	}
	var steps []Migration
	for _, name := range names {
		text, err := fs.ReadFile(FS, name)
		if err != nil {
			return nil, err
		}
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		up, down, ok := strings.Cut(string(text), divider)
		if err != nil || !ok {
			return nil, fmt.Errorf("migrations: %s: want NNN_name.sql with a line %q", name, divider)
		}
		steps = append(steps, Migration{
			Version: version,
			Name:    name,
			plain:   up,
			up:      inSchema(up, schema),
			down:    inSchema(down, schema),
		})
	}
	return steps, nil
}

// inSchema replaces the default schema in the SQL by another schema.
func inSchema(sql, schema string) string {
	if schema == DefaultSchema {
		return sql
	}
	return schemaName.ReplaceAllStringFunc(sql, func(match string) string {
		return strings.Replace(match, DefaultSchema, pgschema.Quote(schema), 1)
	})
}
