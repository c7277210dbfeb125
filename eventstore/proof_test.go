//go:build unix

package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/migrations"
)

// readers has all the ways to read from a store, by their names.
func readers(ctx context.Context, s *eventstore.Store) map[string]func() error {
	last := func(events iter.Seq2[eventstore.Raw, error]) (err error) {
		for _, err = range events {
		}
		return err
	}
	first := func(events iter.Seq2[eventstore.Raw, error]) error {
		for _, err := range events {
			return err
		}
		return errors.New("nothing")
	}
	only := eventstore.Filter{Types: []string{"thing.happened"}}
	return map[string]func() error{
		"Read":      func() error { return last(s.Read(ctx, stream("a"), eventstore.ReadOptions{})) },
		"Read none": func() error { return last(s.Read(ctx, stream("none"), eventstore.ReadOptions{})) },
		"Read back": func() error { return last(s.Read(ctx, stream("a"), eventstore.ReadOptions{Backwards: true})) },
		"AsOf":      func() error { return last(s.Read(ctx, stream("a"), eventstore.ReadOptions{AsOf: time.Now()})) },
		"Through":   func() error { return last(s.Read(ctx, stream("a"), eventstore.ReadOptions{Through: 1000})) },
		"Stat":      func() error { _, err := s.Stat(ctx, stream("none")); return err },
		"Streams": func() error {
			_, err := s.Streams(ctx, "none", eventstore.StreamID{}, 1)
			return err
		},
		"RecentStreams": func() error { _, err := s.RecentStreams(ctx, "none", 0, 1); return err },
		"ReadAll":       func() error { return last(s.ReadAll(ctx, 0, eventstore.Filter{})) },
		"filtered":      func() error { return last(s.ReadAll(ctx, 0, only)) },
		"backwards":     func() error { return last(s.ReadAllBackwards(ctx, 0, eventstore.Filter{})) },
		"back filtered": func() error { return last(s.ReadAllBackwards(ctx, 2, only)) },
		"Correlated":    func() error { return last(s.Correlated(ctx, "none")) },
		"Next":          func() error { _, err := s.Next(ctx, eventstore.After(0), eventstore.Filter{}, 10); return err },
		"Follow":        func() error { return first(s.Follow(ctx, 0, eventstore.Filter{})) },
		"Stored": func() error {
			_, _, err := s.Receipts(eventstore.WithKey(ctx, "none", nil))
			return err
		},
	}
}

// past has the readers that a standby answers with [eventstore.Config.Stale].
var past = map[string]bool{
	"Read": true, "Read none": true, "Read back": true, "AsOf": true, "Through": true,
	"Stat": true, "Streams": true, "RecentStreams": true,
}

// node starts a primary server for the test, with a store that has the given number of events. It also starts a
// standby, and then pauses the replay there.
func node(t *testing.T, events int) (primary, standby *pgtest.Node, store *eventstore.Store) {
	t.Helper()
	primary = pgtest.NewNode(t, nil)
	pool := connect(t, primary.URL())
	if err := migrations.Up(t.Context(), pool, nil); err != nil {
		t.Fatal(err)
	}
	store = another(t, pool, eventstore.Config{PollInterval: 5 * time.Millisecond})
	for n := range events {
		mustAppend(t, store, "a", eventstore.Version(n))
	}
	standby = primary.Standby(t, "", nil)
	if err := standby.Exec(t.Context(), `select pg_wal_replay_pause()`); err != nil {
		t.Fatal(err)
	}
	return primary, standby, store
}

// TestReadOnStandby: a standby may be behind. So reads there are refused, except those that Config.Stale allows.
func TestReadOnStandby(t *testing.T) {
	t.Parallel()
	_, standby, _ := node(t, 3)
	pool := connect(t, standby.URL())
	for name, read := range readers(t.Context(), another(t, pool, eventstore.Config{})) {
		if name == "Follow" {
			continue
		}
		err := read()
		var unproven *eventstore.UnprovenError
		if !errors.As(err, &unproven) || unproven.Reason != eventstore.ReasonStandby || !errors.Is(err, eventstore.ErrUnproven) {
			t.Errorf("%s: %v, want an UnprovenError of a standby", name, err)
		}
	}
	stale := readers(t.Context(), another(t, pool, eventstore.Config{Stale: true}))
	for name, read := range stale {
		if !past[name] {
			continue
		}
		if err := read(); err != nil {
			t.Errorf("stale %s: %v", name, err)
		}
	}
	if err := stale["ReadAll"](); !errors.Is(err, eventstore.ErrUnproven) {
		t.Errorf("stale ReadAll: %v, want ErrUnproven", err)
	}
}

// TestReadElsewhere: the primary says where the log ends, and the events are read from a standby that is behind.
func TestReadElsewhere(t *testing.T) {
	t.Parallel()
	primary, standby, store := node(t, 3)
	for n := range 3 {
		mustAppend(t, store, "a", eventstore.Version(3+n))
	}
	receipts, err := store.Commit(eventstore.WithKey(t.Context(), "none", nil), eventstore.Change{Stream: stream("none"), Events: []eventstore.Draft{draft(1)}})
	if err != nil {
		t.Fatal(err)
	}
	// Each connection is used once. The first connection is to the primary, the second to the standby, and so on.
	config, err := pgxpool.ParseConfig(primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	behind, err := pgx.ParseConfig(standby.URL())
	if err != nil {
		t.Fatal(err)
	}
	var dialed atomic.Int64
	config.MaxConns = 1
	config.AfterRelease = func(*pgx.Conn) bool { return false }
	config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		if n := dialed.Add(1); n%2 == 0 && n < 8 { // later connections are all to the primary
			c.Host, c.Port = behind.Host, behind.Port
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, name := range []string{"ReadAll", "filtered", "backwards", "back filtered", "Correlated", "Next", "AsOf", "Through"} {
		dialed.Store(0)
		split := another(t, pool, eventstore.Config{PollOnly: true})
		if err := readers(ctx, split)[name](); !errors.Is(err, eventstore.ErrUnproven) {
			t.Errorf("%s: %v, want ErrUnproven", name, err)
		}
	}
	dialed.Store(0)
	split := another(t, pool, eventstore.Config{PollOnly: true})
	seen := 0
	for event, err := range split.Follow(ctx, 0, eventstore.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; event.Position == receipts[0].Position {
			break
		}
	}
	if seen != 7 {
		t.Errorf("a follower saw %d events of 7", seen)
	}
}

// TestReadHidden: rows that the reader may not see are not taken for rows that do not exist.
func TestReadHidden(t *testing.T) {
	t.Parallel()
	for reason, statements := range map[string][]string{
		eventstore.ReasonSecurity: {
			`alter table tidemark.events enable row level security`,
			`create policy later on tidemark.events for select using (version > 1)`,
		},
		eventstore.ReasonRights: {`revoke select on tidemark.events from %s`},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			owner, app, _ := roles(t)
			writer, err := eventstore.New(owner, nil)
			if err != nil {
				t.Fatal(err)
			}
			mustAppend(t, writer, "a", 0)
			mustAppend(t, writer, "a", 1)
			var role string
			if err := app.QueryRow(t.Context(), `select quote_ident(current_user)`).Scan(&role); err != nil {
				t.Fatal(err)
			}
			for _, statement := range statements {
				if reason == eventstore.ReasonRights {
					statement = fmt.Sprintf(statement, role)
				}
				mustExec(t, owner, statement)
			}
			for name, read := range readers(t.Context(), another(t, app, eventstore.Config{})) {
				var unproven *eventstore.UnprovenError
				if err := read(); !errors.As(err, &unproven) || unproven.Reason != reason {
					t.Errorf("%s: %v, want an UnprovenError of %s", name, err, reason)
				}
			}
			for name, read := range readers(t.Context(), writer) { // the owner sees all rows
				if err := read(); err != nil {
					t.Errorf("the owner, %s: %v", name, err)
				}
			}
		})
	}
}

// TestForcedSecurity: if row level security is forced on the owner too, the end of the log is not known.
func TestForcedSecurity(t *testing.T) {
	t.Parallel()
	owner, app, _ := roles(t)
	var role string
	if err := app.QueryRow(t.Context(), `select current_user`).Scan(&role); err != nil {
		t.Fatal(err)
	}
	writer, err := eventstore.New(owner, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, writer, "a", 0)
	name := pgx.Identifier{role}.Sanitize()
	mustExec(t, owner, `grant usage, create on schema tidemark to `+name)
	mustExec(t, owner, `alter table tidemark.events owner to `+name)
	mustExec(t, owner, `alter function tidemark.tidemark() owner to `+name)
	mustExec(t, owner, `alter table tidemark.events enable row level security`)
	mustExec(t, owner, `alter table tidemark.events force row level security`)
	_, err = writer.Tidemark(t.Context())
	var unproven *eventstore.UnprovenError
	if !errors.As(err, &unproven) || unproven.Reason != eventstore.ReasonSecurity || !errors.Is(err, eventstore.ErrNoTidemark) {
		t.Errorf("%v, want ErrNoTidemark for row level security", err)
	}
}

// TestFollowFailover: a follower continues when a standby takes the primary's place, however long this takes.
func TestFollowFailover(t *testing.T) {
	t.Parallel()
	primary, standby, _ := node(t, 3)
	if err := standby.Exec(t.Context(), `select pg_wal_replay_resume()`); err != nil {
		t.Fatal(err)
	}
	pool := connect(t, pgtest.URLOf("", primary, standby))
	refused := make(chan struct{}, 100)
	store := another(t, pool, eventstore.Config{
		PollInterval: 5 * time.Millisecond,
		Logger:       slog.New(noticer{refused}),
	})
	next := follow(t, store, 1, eventstore.Filter{})
	for n := 0; n < 3; {
		n += len(next())
	}
	if err := primary.Stop(); err != nil {
		t.Fatal(err)
	}
	<-refused // the follower is told that only a standby is there
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	writer := another(t, connect(t, standby.URL()), eventstore.Config{})
	end := mustAppend(t, writer, "a", 3).Position
	if events := next(); events[0].Position != end {
		t.Errorf("saw position %d, want %d", events[0].Position, end)
	}
}

// noticer is a log handler that notices when a standby refuses a follower.
type noticer struct{ refused chan<- struct{} }

func (n noticer) Enabled(context.Context, slog.Level) bool { return true }
func (n noticer) WithAttrs([]slog.Attr) slog.Handler       { return n }
func (n noticer) WithGroup(string) slog.Handler            { return n }

func (n noticer) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && errors.Is(err, eventstore.ErrUnproven) {
			select {
			case n.refused <- struct{}{}:
			default:
			}
		}
		return true
	})
	return nil
}
