package eventstore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/eventstore"
)

// gaps fills a log and returns its end. The positions have gaps, from transactions that were rolled back.
func gaps(t *testing.T, store *eventstore.Store, pool *pgxpool.Pool) (end eventstore.Position) {
	t.Helper()
	for range 6 {
		tx := begin(t, pool)
		mustAppend(t, store.WithTx(tx), "rolled back", eventstore.Any)
		tx.Rollback(t.Context())
		end = mustAppend(t, store, "a", eventstore.Any).Position
	}
	return end
}

// ways has the ways to append. Each of them has its own path through the SQL functions.
func ways(store *eventstore.Store, pool *pgxpool.Pool) map[string]func(context.Context) error {
	commit := func(ctx context.Context, s *eventstore.Store, drafts int, keys ...string) error {
		var changes []eventstore.Change
		for _, key := range keys {
			change := eventstore.Change{Stream: stream(key), Expected: eventstore.Any}
			for n := range drafts {
				change.Events = append(change.Events, draft(n))
			}
			changes = append(changes, change)
		}
		_, err := s.Commit(ctx, changes...)
		return err
	}
	return map[string]func(context.Context) error{
		"one event":    func(ctx context.Context) error { return commit(ctx, store, 1, "a") },
		"a new stream": func(ctx context.Context) error { return commit(ctx, store, 1, "new") },
		"several":      func(ctx context.Context) error { return commit(ctx, store, 3, "a") },
		"two streams":  func(ctx context.Context) error { return commit(ctx, store, 1, "a", "b") },
		"under a key":  func(ctx context.Context) error { return commit(eventstore.WithKey(ctx, "k", nil), store, 1, "a") },
		"a transaction": func(ctx context.Context) error {
			return inTx(ctx, pool, func(tx *eventstore.Store) error { return commit(ctx, tx, 1, "a") }, store)
		},
		"from SQL": func(ctx context.Context) error {
			_, err := pool.Exec(ctx, `select tidemark.append('{thing-a}', '{-1}', '{1}', array[gen_random_uuid()], '{happened}', '{1}', array['{}'::json], array[null::json])`)
			return err
		},
	}
}

func inTx(ctx context.Context, pool *pgxpool.Pool, do func(*eventstore.Store) error, store *eventstore.Store) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.Background())
	if err := do(store.WithTx(tx)); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// TestSequenceInDisorder: whatever value the sequence has, nothing is stored at or below the end of the log, and the
// error says what to do. After the repair, all appends work without a restart.
func TestSequenceInDisorder(t *testing.T) {
	t.Parallel()
	for name, disorder := range map[string]string{
		"left out":      `select setval('tidemark.events_position_seq', 1, false)`,
		"behind":        `select setval('tidemark.events_position_seq', 5)`,
		"one behind":    `select setval('tidemark.events_position_seq', (select max(position) - 1 from tidemark.events))`,
		"restarted":     `alter sequence tidemark.events_position_seq restart`,
		"descending":    `alter sequence tidemark.events_position_seq increment -1`,
		"cycled":        `do $$ begin execute format('alter sequence tidemark.events_position_seq maxvalue %s cycle', (select max(position) from tidemark.events)); end $$`,
		"made anew":     `alter table tidemark.events alter position drop default; drop sequence tidemark.events_position_seq; create sequence tidemark.events_position_seq as bigint owned by tidemark.events.position`,
		"made anew, up": `drop sequence tidemark.events_position_seq; create sequence tidemark.events_position_seq as bigint start 7 owned by tidemark.events.position`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, pool := open(t)
			end := gaps(t, store, pool)
			before, _ := keysAfter(t, store, 0)
			for _, sql := range strings.Split(disorder, "; ") {
				if strings.HasPrefix(disorder, "do ") {
					sql = disorder
				}
				mustExec(t, pool, sql)
			}
			for way, appends := range ways(store, pool) {
				for range 3 { // each try takes a value from the sequence
					err := appends(t.Context())
					var behind *eventstore.SequenceError
					if way != "from SQL" && (!errors.As(err, &behind) || behind.Last != end) {
						t.Errorf("%s: %v, want a SequenceError that names position %d", way, err, end)
					}
					if err == nil {
						t.Fatalf("%s was acknowledged", way)
					}
				}
			}
			var stored int
			if err := pool.QueryRow(t.Context(), `select count(*) from tidemark.events`).Scan(&stored); err != nil || stored != len(before) {
				t.Fatalf("%d events are stored, want %d; %v", stored, len(before), err)
			}
			_, err := store.Append(t.Context(), stream("a"), eventstore.Any, draft(1))
			var behind *eventstore.SequenceError
			if !errors.As(err, &behind) {
				t.Fatal(err)
			}
			for _, sql := range strings.Split(behind.Repair, "; ") {
				mustExec(t, pool, sql)
			}
			if name == "cycled" { // the repair keeps the maxvalue that the operator has set
				mustExec(t, pool, `alter sequence tidemark.events_position_seq no maxvalue`)
			}
			for way, appends := range ways(store, pool) {
				if err := appends(t.Context()); err != nil {
					t.Errorf("%s after the repair: %v", way, err)
				}
			}
			var back int
			err = pool.QueryRow(t.Context(), `
				select count(*)
				  from (select position <= lag(position) over (partition by stream order by version) as back
				          from tidemark.events) x
				 where back`).Scan(&back)
			if err != nil || back > 0 {
				t.Errorf("%d versions are at a position before that of the version before; %v", back, err)
			}
			if after, last := keysAfter(t, store, end); len(after) < 7 || last <= end {
				t.Errorf("after the repair %d events are read, up to %d", len(after), last)
			}
		})
	}
}

// TestSequenceWithCache: with a cache, sessions keep positions for later use. An append is refused if such a position
// is below one that readers may have passed.
func TestSequenceWithCache(t *testing.T) {
	t.Parallel()
	store, pool := open(t)
	mustExec(t, pool, `alter sequence tidemark.events_position_seq cache 50`)
	var last eventstore.Position
	refused := 0
	for range 50 {
		// Two connections are used at once, and each has its own cached values.
		txs := []pgx.Tx{begin(t, pool), begin(t, pool)}
		for n, tx := range txs {
			receipt, err := store.WithTx(tx).Append(t.Context(), stream(string(rune('a'+n))), eventstore.Any, draft(1))
			switch {
			case errors.Is(err, eventstore.ErrSequenceBehind):
				refused++
			case err != nil:
				t.Fatal(err)
			case receipt.Position <= last:
				t.Fatalf("position %d was given out after %d", receipt.Position, last)
			default:
				last = receipt.Position
			}
		}
		for _, tx := range txs {
			_ = tx.Commit(t.Context()) // a transaction with a refused append cannot be committed
		}
	}
	if refused == 0 {
		t.Error("no session used a position that it had kept aside")
	}
}
