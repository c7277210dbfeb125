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
	// ErrEncoding means that the encoding of the database is not UTF8: the store could not keep all texts there.
	ErrEncoding = errors.New("the encoding of the database is not UTF8")
)

var errNilPool = errors.New("migrations: the pool is nil: pass one that pgxpool.New returned without an error")

// Config says where the store lives. Nil and the zero value are the default.
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

// Up applies every pending migration. It returns [ErrNewer], and changes nothing, when the
// database is ahead of this release, a [SchemaError] when what was applied before is not what this release
// would have made, [ErrEncoding] for a database that is not in UTF8, and [ErrUnsuitable] when the server's advisory
// locks or sequences are not those of Postgres, which it tries out over a second connection. Safe to call from many
// processes at once.
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

// Down takes back every migration and with them every event: it is for tests and for giving a
// store up. It returns [ErrNewer], and changes nothing, when the database is ahead of this
// release.
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

// Validate returns nil when the database is exactly at this release, [ErrPending] when it is
// behind and [ErrNewer] when it is ahead. It returns a [SchemaError], which unwraps to [ErrChanged],
// when tables, columns, constraints, indexes, sequences, triggers or functions are not as the
// migrations make them, whichever tool ran them: after an edit by hand, after a restore that left
// something out, in a schema that was renamed. Further objects in the schema, and the rights of
// roles, are not looked at. It changes nothing.
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
		// A lock of the session, since it spans several transactions. Closing the connection is
		// what releases it for certain, whatever state the connection is in by then.
		if _, err := m.conn.Exec(ctx, `select pg_advisory_lock(hashtext('tidemark migrations'), hashtext($1))`, m.schema); err != nil {
			return fmt.Errorf("migrations: lock: %w", err)
		}
		defer m.conn.Close(context.WithoutCancel(ctx))
		return do(m)
	})
}

// checkEncoding returns an error unless the database keeps all texts as they are.
func (m *migrator) checkEncoding(ctx context.Context) error {
	var encoding string
	if err := m.conn.QueryRow(ctx, `select current_setting('server_encoding')`).Scan(&encoding); err != nil {
		return fmt.Errorf("migrations: look up the encoding: %w", err)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("migrations: %w, it is %s: make another one, with: create database … encoding 'UTF8' template template0", ErrEncoding, encoding)
	}
	return nil
}

// applied returns the versions the database has, in ascending order.
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

// split returns the steps that the database has, and those that it lacks.
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

// apply runs one file in a transaction. The file itself keeps schema_migrations.
func (m *migrator) apply(ctx context.Context, name, sql string) error {
	err := pgx.BeginFunc(ctx, m.conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	})
	if pgerr.Duplicate(err) {
		return fmt.Errorf("migrations: %s in schema %s: %w: something of that name is there, but schema_migrations "+
			"does not say that the file was applied: was the schema restored in part? Restore all of it, or drop what is there",
			name, m.schema, err)
	}
	if err != nil {
		return fmt.Errorf("migrations: %s in schema %s: %w", name, m.schema, err)
	}
	return nil
}

const (
	divider   = "---- create above / drop below ----" // tern's; goose's marks are comments around it
	schemaRef = `\btidemark\.|\bschema tidemark\b|to_regnamespace\('tidemark'\)`
)

var schemaName = regexp.MustCompile(schemaRef)

// load reads the embedded files, in order, with the schema's name put in.
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

// inSchema moves the SQL from the default schema into another one.
func inSchema(sql, schema string) string {
	if schema == DefaultSchema {
		return sql
	}
	return schemaName.ReplaceAllStringFunc(sql, func(match string) string {
		return strings.Replace(match, DefaultSchema, pgschema.Quote(schema), 1)
	})
}
