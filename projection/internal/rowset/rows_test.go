package rowset_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection/internal/rowset"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// account is a row.
type account struct {
	Name    string `db:"name,key"`
	Balance int
}

// add is a change: it adds to the balance, and returns the outcome for the row.
type add struct {
	amount  int
	outcome rowset.Outcome
	err     error
}

func (a add) Apply(row any, done func(rowset.Outcome, error) error) error {
	row.(*account).Balance += a.amount
	return done(a.outcome, a.err)
}

// TestRows folds changes into rows without any events: rows are loaded, changed, written and deleted.
func TestRows(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), pgtest.Pool(t)
	if _, err := pool.Exec(ctx, `create table accounts (name text primary key, balance int not null check (balance < 1000)); insert into accounts values ('old', 7), ('gone', 1)`); err != nil {
		t.Fatal(err)
	}
	table, err := rowset.New[account](pgx.Identifier{"accounts"})
	if err != nil {
		t.Fatal(err)
	}
	rows := table.Open(100, false)
	if err := rows.Load(ctx, pool, []string{"old", "gone", "new", "none"}); err != nil {
		t.Fatal(err)
	}
	for _, change := range []struct {
		key string
		add
	}{
		{"old", add{5, rowset.Put, nil}}, {"gone", add{0, rowset.Delete, nil}}, {"new", add{3, rowset.Put, nil}},
		{"none", add{4, rowset.Put, nil}}, {"none", add{0, rowset.Delete, nil}}, {"new", add{99, rowset.Skip, nil}},
	} {
		if err := rows.Fold(change.key, change.add); err != nil || !rows.Settled(change.key) {
			t.Errorf("%s: %v", change.key, err)
		}
	}
	if n := rows.Dirty(); n != 4 {
		t.Errorf("%d rows have changed, want 4", n)
	}
	flush := func() error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return rows.Flush(ctx, tx) })
	}
	if err := flush(); err != nil {
		t.Fatal(err)
	}
	rows.Flushed()
	found, _ := pool.Query(ctx, `select name, balance from accounts order by name`)
	all, err := pgx.CollectRows(found, pgx.RowToStructByPos[account])
	if diff := cmp.Diff([]account{{"new", 3}, {"old", 12}}, all); diff != "" || err != nil || rows.Dirty() != 0 {
		t.Errorf("%v, %d are dirty (-want +got):\n%s", err, rows.Dirty(), diff)
	}

	broken := errors.New("broken")
	for _, change := range []struct {
		add
		want error
	}{{add{1, rowset.Fail, broken}, broken}, {add{1, 0, nil}, nil}, {add{1, rowset.Fail, nil}, nil}} {
		if err := rows.Fold("old", change.add); err == nil || change.want != nil && !errors.Is(err, change.want) {
			t.Errorf("%+v: %v", change.add, err)
		}
	}
}

// wide has a field that no column can hold.
type wide struct {
	Name string `db:"name,key"`
	Chan chan int
}

// TestTableRefuses: a type that cannot be a row, and a table that can never hold the rows.
func TestTableRefuses(t *testing.T) {
	t.Parallel()
	if _, err := rowset.New[int](pgx.Identifier{"t"}); err == nil {
		t.Error("a number was accepted as a row type")
	}
	if _, err := rowset.New[struct{ A string }](pgx.Identifier{"t"}); err == nil {
		t.Error("a row type without a key was accepted")
	}
	pool := pgtest.Pool(t)
	for name, sql := range map[string]string{
		"no such column":                    `create table wide (name text primary key)`,
		"no key":                            `create table wide (name text, chan text)`,
		"a field of no type that pgx knows": `create table wide (name text primary key, chan int)`,
	} {
		if _, err := pool.Exec(t.Context(), `drop table if exists wide; `+sql); err != nil {
			t.Fatal(err)
		}
		table, err := rowset.New[wide](pgx.Identifier{"wide"})
		if err != nil {
			t.Fatal(err)
		}
		if err := table.Describe(context.Background(), pool); !errors.As(err, new(*rowset.ShapeError)) {
			t.Errorf("%s: %v, want a ShapeError", name, err)
		}
	}
}
