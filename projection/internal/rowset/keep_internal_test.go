package rowset

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// TestKeptTexts: the text that is predicted for a value is the text that Postgres makes of it.
func TestKeptTexts(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), pgtest.EmptyURL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	texts := []string{
		"", " ", "a", "a ", "漢字", "abcd", "true", "t", "false", "0", "-0", "1", "01", "+1", "12.345", "12.355", "-12.345", "-0.004", "0.005", "-0.00",
		"99999.995", "1e3", "NaN", "9223372036854775807", "1.50", ".5", "5.", "2024-02-29", "0000-01-01", "2024-2-9", "infinity",
		"6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8",
		`{}`, `[]`, `{"bb":1, "a" : [1,2.50,true,null],"bb":2}`, `"é\u00e9\n\u001f\/<>&"`, `"\u0000"`, `"\ud800"`, `-0`, `-0.0`, `1e5`, ` 7 `, `{"":{}}`, `1 2`, "\"\u2028\\\"\"",
		`{"bb":{"x":1,"x":2},"a":"\b\f\t"}`,
	}
	for _, c := range []struct {
		name     string
		base     uint32
		modifier int32
	}{
		{"text", pgtype.TextOID, -1}, {"varchar", pgtype.VarcharOID, -1}, {"varchar(3)", pgtype.VarcharOID, 7}, {"char(3)", pgtype.BPCharOID, 7},
		{"bpchar", pgtype.BPCharOID, -1}, {"boolean", pgtype.BoolOID, -1}, {"smallint", pgtype.Int2OID, -1}, {"bigint", pgtype.Int8OID, -1},
		{"uuid", pgtype.UUIDOID, -1}, {"date", pgtype.DateOID, -1}, {"numeric", pgtype.NumericOID, -1},
		{"numeric(10,2)", pgtype.NumericOID, 10<<16 + 2 + 4}, {"numeric(10)", pgtype.NumericOID, 10<<16 + 4},
		{"json", pgtype.JSONOID, -1}, {"jsonb", pgtype.JSONBOID, -1}, {"interval", pgtype.IntervalOID, -1},
	} {
		if _, err := conn.Exec(t.Context(), fmt.Sprintf(`create temp table kept (v %s)`, c.name)); err != nil {
			t.Fatal(err)
		}
		predicted := 0
		for _, text := range texts {
			k := &keeper{keep: keep{how: keepEncoded, isText: true, iso: true, base: c.base, modifier: c.modifier}}
			kept, sure := k.text(text)
			var stored string
			err := conn.QueryRow(t.Context(), `insert into kept select u.v::`+typeName(t, conn, c.base)+` from unnest($1::text[]) u (v) returning v::text`,
				[]string{text}).Scan(&stored)
			if err == nil && sure {
				predicted++
				if kept != stored {
					t.Errorf("%s: %q is kept as %q, but stored as %q", c.name, text, kept, stored)
				}
			}
		}
		t.Logf("%s: %d predicted", c.name, predicted)
		if predicted == 0 && c.name != "interval" {
			t.Errorf("%s: nothing is predicted", c.name)
		}
		if _, err := conn.Exec(t.Context(), `drop table kept`); err != nil {
			t.Fatal(err)
		}
	}
}

func typeName(t *testing.T, conn *pgx.Conn, oid uint32) (name string) {
	if err := conn.QueryRow(t.Context(), `select format_type($1, -1)`, oid).Scan(&name); err != nil {
		t.Fatal(err)
	}
	return name
}

// BenchmarkKept measures, per fold, the cost of keeping a row as the database would return it.
func BenchmarkKept(b *testing.B) {
	type plain struct {
		Key  string `db:"key,key"`
		A, B int64
		Text string
	}
	type timed struct {
		plain
		At time.Time
	}
	type rich struct {
		timed
		Cents string
		Doc   map[string]int
		List  []int64
	}
	pool, err := pgxpool.New(b.Context(), pgtest.EmptyURL(b))
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	const columns = `key text primary key, a bigint, b bigint, text text`
	b.Run("integers and text", func(b *testing.B) { benchmarkKept(b, pool, "plain", columns, func(*plain, int) {}) })
	b.Run("with timestamptz", func(b *testing.B) {
		benchmarkKept(b, pool, "timed", columns+`, at timestamptz`, func(r *timed, n int) { r.At = time.Unix(int64(n), 1) })
	})
	b.Run("with numeric, jsonb and an array", func(b *testing.B) {
		benchmarkKept(b, pool, "rich", columns+`, at timestamptz, cents numeric(10, 2), doc jsonb, list bigint[]`, func(r *rich, n int) {
			r.At, r.Cents, r.Doc, r.List = time.Unix(int64(n), 1), "12.50", map[string]int{"a": n}, []int64{1, 2}
		})
	})
}

func benchmarkKept[Row any](b *testing.B, pool *pgxpool.Pool, name, columns string, fold func(*Row, int)) {
	if _, err := pool.Exec(b.Context(), `drop table if exists `+name+`_v1; create table `+name+`_v1 (`+columns+`)`); err != nil {
		b.Fatal(err)
	}
	t, err := New[Row](pgx.Identifier{name + "_v1"})
	if err != nil {
		b.Fatal(err)
	}
	r := t.Open(1, true).(*rowsOf[Row])
	if err := r.know(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	e := &entry[Row]{}
	for n := 0; b.Loop(); n++ {
		fold(&e.row, n)
		if err := r.settle(e); err != nil || e.unsure {
			b.Fatal(err, e.unsure)
		}
	}
}
