package tidemark_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	// The packages that the program imports: a change to one of them makes `go test` run the test again.
	_ "github.com/tidemark-es/tidemark/aggregate"
	_ "github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	_ "github.com/tidemark-es/tidemark/migrations"
	_ "github.com/tidemark-es/tidemark/projection"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestPrograms builds and runs the programs in README.md and the guide to projections.
func TestPrograms(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		"README.md":           "1 <nil>\n0 only 200 cents are left",
		"docs/projections.md": "1 300",
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			testProgram(t, file, want)
		})
	}
}

// testProgram runs the first program of a file. An overlay puts it into this module without writing into the tree.
func testProgram(t *testing.T, file, want string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(text)
	if program == nil {
		t.Fatalf("%s has no Go program", file)
	}
	dir := t.TempDir()
	source, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	virtual, err := filepath.Abs("internal/readme/main.go")
	if err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{virtual: source}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{source: program[1], overlay: replace} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "go", "run", "-overlay", overlay, "./internal/readme")
	command.Env = append(os.Environ(), "DATABASE_URL="+pgtest.EmptyURL(t))
	got, err := command.CombinedOutput()
	if err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}
