package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgdatabase"
	"github.com/tidemark-es/tidemark/localpg"
	"github.com/tidemark-es/tidemark/migrations"
)

// startTimeout leaves time to fetch a container's image.
const startTimeout = 5 * time.Minute

// server is a Postgres that this test binary creates databases on.
type server struct {
	postgres *localpg.Server
	run      run

	mu       sync.Mutex
	conn     *pgx.Conn // holds the run's lock; guarded by mu
	last     int       // the number of the latest database; guarded by mu
	template string    // the database that migrated ones are copies of, or empty; guarded by mu
}

// start takes the server that a URL names. Without a URL it takes the first server that package localpg finds.
func start(url string) (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	postgres, err := localpg.Start(ctx, &localpg.Config{URL: url, URLVar: "TEST_DATABASE_URL"})
	if err != nil {
		return nil, fmt.Errorf("pgtest: %w", err)
	}
	s := &server{postgres: postgres, run: run(rand.Uint32())}
	if s.conn, err = pgx.Connect(ctx, postgres.URL()); err != nil {
		return nil, errors.Join(fmt.Errorf("pgtest: connect: %w", err), postgres.Stop())
	}
	if err := s.run.begin(ctx, s.conn); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var errs []error
	if s.template != "" {
		errs = append(errs, s.drop(ctx, s.template))
	}
	return errors.Join(append(errs, s.conn.Close(ctx), s.postgres.Stop())...)
}

// empty creates a database with nothing in it.
func (s *server) empty(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.create(ctx, "template0")
}

// migrated creates a database with Tidemark's tables in it.
func (s *server) migrated(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.template == "" {
		name, err := s.create(ctx, "template0")
		if err != nil {
			return "", err
		}
		if err := migrate(ctx, s.urlOf(name)); err != nil {
			return "", fmt.Errorf("pgtest: migrate the template: %w", err)
		}
		s.template = name
	}
	name, err := s.create(ctx, s.template)
	if err != nil {
		return "", err
	}
	return name, rename(ctx, s.urlOf(name))
}

// rename gives the store in a copy of the template an id of its own.
func rename(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("pgtest: connect to a new database: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `update tidemark.store set id = gen_random_uuid()`); err != nil {
		return fmt.Errorf("pgtest: name a store: %w", err)
	}
	return nil
}

// migrate leaves no connection behind: a database cannot be copied while
// a client is connected to it.
func migrate(ctx context.Context, url string) error {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return migrations.Up(ctx, pool, nil)
}

// create must be called with mu held. Copies are made one at a time, because they would only compete for the same disk.
func (s *server) create(ctx context.Context, template string) (string, error) {
	s.last++
	name := s.run.database(s.last)
	if err := pgdatabase.Create(ctx, s.conn, name, template); err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	return name, nil
}

func (s *server) drop(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := pgdatabase.Drop(ctx, s.conn, name); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	return nil
}

// urlOf returns the connection string of another database on the server.
func (s *server) urlOf(database string) string {
	base := s.postgres.URL()
	if !strings.Contains(base, "://") {
		return base + " dbname=" + database // if a setting is there twice, the last one counts
	}
	address, err := url.Parse(base)
	if err != nil {
		panic(err) // pgx has connected with it
	}
	address.Path = "/" + database
	return address.String()
}
