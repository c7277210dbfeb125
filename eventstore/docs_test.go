package eventstore_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// TestGuide: the examples that docs/eventstore.md names exist, and its query finds the transaction that holds readers
// back.
func TestGuide(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../docs/eventstore.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples strings.Builder
	for _, folder := range []string{".", "eventstoretest", "../codec", "../codec/codectest", "../migrations", "../aggregate/aggregatetest", "../projection/projectiontest"} {
		paths, _ := filepath.Glob(filepath.Join(folder, "*_test.go"))
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			examples.Write(text)
		}
	}
	named := regexp.MustCompile(`Example[A-Za-z_]+`).FindAllString(string(guide), -1)
	for _, name := range named {
		if !strings.Contains(examples.String(), "func "+name+"()") {
			t.Errorf("the guide names %s, which is not there", name)
		}
	}
	if len(named) < 20 {
		t.Errorf("the guide names %d examples", len(named))
	}

	store, pool := open(t)
	tx := begin(t, pool)
	if _, err := store.WithTx(tx).Append(t.Context(), stream("a"), eventstore.NoStream, draft(1)); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(guide), "```sql")
	query, _, _ := strings.Cut(rest, "```")
	for _, query := range []string{query, strings.ReplaceAll(query, "tidemark.events", "tidemark.streams")} {
		rows, _ := pool.Query(t.Context(), query)
		holders, err := pgx.CollectRows(rows, pgx.RowToMap)
		if err != nil || len(holders) != 1 || holders[0]["pid"] != int32(tx.Conn().PgConn().PID()) {
			t.Errorf("the holders are %v, %v; want the transaction that is open", holders, err)
		}
	}
}
