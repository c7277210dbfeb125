package projection_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestTableStrangeTypes: a text is stored unchanged in a column of a type that pgx does not know. This holds even for
// so many new rows that rows of known types would be copied in. The texts have 8 bytes, and so has the binary form of
// the types.
func TestTableStrangeTypes(t *testing.T) {
	t.Parallel()
	type row struct {
		ID   string `db:"id,key"`
		Text string
	}
	for column, text := range map[string]string{"money": "$1234.56", "pg_lsn": "16/B3740", "txid_snapshot": "10:20:12"} {
		t.Run(column, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			b := f.book("b")
			ddl := fmt.Sprintf(`create table {strange} (id text primary key, text %s)`, column)
			r, _ := f.start(quiet, f.store, projection.NewTable("strange", &projection.Options{DDL: ddl},
				folds(b, func(row *row, _ eventstore.Event[change]) projection.Op {
					row.Text = text
					return projection.Put
				})...))
			var changes []change
			for n := range 300 {
				changes = append(changes, change{Key: fmt.Sprint(n)})
			}
			f.wait(r, b.append(1, changes...))
			want := texts(f, fmt.Sprintf(`select '300 ' || '%s'::%s`, text, column))
			if got := texts(f, `select count(*) || ' ' || text::text from strange group by text::text`); !slices.Equal(got, want) {
				t.Errorf("the table has %q, want %q", got, want)
			}
		})
	}
}
