package aggregate_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/snapshot"
)

// TestGuide: the examples that docs/snapshots.md names are there, and its query finds a stream's snapshots.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../docs/snapshots.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`Example[A-Za-z_]+`).FindAllString(string(guide), -1) {
		if !strings.Contains(string(examples), "func "+name+"()") {
			t.Errorf("the guide names %s, which is not there", name)
		}
	}
	eachKept(t, snapshot.Retention{}, func(t *testing.T, k kept) {
		if k.pool == nil {
			t.Skip("it has no SQL")
		}
		repo, _, _ := k.repository(t, snapshot.Config{Sync: true, Policy: snapshot.Every(2)}, 0)
		grow(t, repo, "a", 5)
		_, rest, _ := strings.Cut(string(guide), "```sql")
		query, _, _ := strings.Cut(rest, "```")
		rows, _ := k.pool.Query(t.Context(), strings.ReplaceAll(query, "account-42", "counter-a"))
		found, err := pgx.CollectRows(rows, pgx.RowToMap)
		if err != nil || len(found) != 1 || found[0]["version"] != int64(4) {
			t.Errorf("the guide's query finds %v, %v", found, err)
		}
	})
}
