package compat_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/jackc/tern/v2/migrate"
	"github.com/pressly/goose/v3"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// tool is a migration tool. It reads the files from a folder.
type tool struct {
	up, down func(ctx context.Context, url string, files fs.FS) error
}

var tools = map[string]tool{
	"goose": {
		up: func(ctx context.Context, url string, files fs.FS) error {
			return withGoose(url, files, func(p *goose.Provider) error {
				_, err := p.Up(ctx)
				return err
			})
		},
		down: func(ctx context.Context, url string, files fs.FS) error {
			return withGoose(url, files, func(p *goose.Provider) error {
				_, err := p.DownTo(ctx, 0)
				return err
			})
		},
	},
	"tern": {
		up: func(ctx context.Context, url string, files fs.FS) error {
			return withTern(ctx, url, files, func(m *migrate.Migrator) error { return m.Migrate(ctx) })
		},
		down: func(ctx context.Context, url string, files fs.FS) error {
			return withTern(ctx, url, files, func(m *migrate.Migrator) error { return m.MigrateTo(ctx, 0) })
		},
	},
}

func withGoose(url string, files fs.FS, do func(*goose.Provider) error) error {
	db, err := sql.Open("pgx", url)
	if err != nil {
		return err
	}
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files)
	if err != nil {
		return err
	}
	return do(provider)
}

func withTern(ctx context.Context, url string, files fs.FS, do func(*migrate.Migrator) error) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	migrator, err := migrate.NewMigrator(ctx, conn, "public.schema_version")
	if err != nil {
		return err
	}
	if err := migrator.LoadMigrations(files); err != nil {
		return err
	}
	return do(migrator)
}

// TestTool lets each tool run the directory of package migrations, in which there are Go files too.
func TestTool(t *testing.T) {
	t.Parallel()
	want := catalog(t, pgtest.Pool(t))
	for kind, things := range want {
		if len(things) == 0 {
			t.Fatalf("the comparison is blind to %s", kind)
		}
	}
	for name, tool := range tools {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, files := pgtest.EmptyURL(t), os.DirFS("..")
			pool := connect(t, url)

			// Up and down, twice: the second up finds anything that the first down left behind.
			for range 2 {
				if err := tool.up(t.Context(), url, files); err != nil {
					t.Fatalf("up: %v", err)
				}
				if diff := cmp.Diff(want, catalog(t, pool)); diff != "" {
					t.Errorf("another schema than migrations.Up makes (-want +got):\n%s", diff)
				}
				if err := migrations.Validate(t.Context(), pool, nil); err != nil {
					t.Errorf("migrations.Validate does not agree: %v", err)
				}
				checkStore(t, pool)
				if err := tool.down(t.Context(), url, files); err != nil {
					t.Fatalf("down: %v", err)
				}
				if left := query(t, pool, leftSQL); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			}
		})
	}
}

// TestCatalogSeesChanges: the comparison of TestTool notices each of these changes.
func TestCatalogSeesChanges(t *testing.T) {
	t.Parallel()
	for _, change := range []string{
		`alter table tidemark.events alter column metadata type jsonb`,
		`alter table tidemark.events alter column metadata set not null`,
		`alter table tidemark.events drop constraint events_stream_version_key`,
		`alter table tidemark.events disable trigger events_immutable`,
		`alter table tidemark.append_keys alter recorded_at drop default`,
		`drop index tidemark.dead_letters_key`,
		`drop trigger events_immutable on tidemark.events`,
		`drop function tidemark.tidemark()`,
		`alter function tidemark.tidemark() reset plan_cache_mode`,
		`alter sequence tidemark.events_position_seq cache 2`,
	} {
		t.Run(change, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Pool(t)
			before := catalog(t, pool)
			if _, err := pool.Exec(t.Context(), change); err != nil {
				t.Fatal(err)
			}
			if cmp.Equal(before, catalog(t, pool)) {
				t.Error("not noticed")
			}
		})
	}
}

// checkStore appends, reads and asks for the tidemark.
func checkStore(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	store, err := eventstore.New(pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	stream := eventstore.StreamID{Category: "thing", Key: "1"}
	var want []string
	var receipt eventstore.Receipt
	for n := range eventstore.Version(3) {
		data := fmt.Sprintf(`{"n": %d}`, n)
		want = append(want, data)
		draft := eventstore.Draft{Type: "thing.happened", Data: json.RawMessage(data)}
		if receipt, err = store.Append(t.Context(), stream, n, draft); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for event, err := range store.Read(t.Context(), stream, eventstore.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(event.Data))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stream (-want +got):\n%s", diff)
	}
	if tidemark, err := store.Tidemark(t.Context()); err != nil || tidemark != receipt.Position {
		t.Errorf("tidemark %v, %v, want %v", tidemark, err, receipt.Position)
	}
}

func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
