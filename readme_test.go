package tidemark_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	// What the program imports, so that a change to it runs the test again.
	_ "github.com/tidemark-es/tidemark/aggregate"
	_ "github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pgtest"
	_ "github.com/tidemark-es/tidemark/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestREADME builds and runs the program in README.md. An overlay puts it into this module
// without writing into the tree.
func TestREADME(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	program := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(text)
	if program == nil {
		t.Fatal("README.md has no Go program")
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
	if want := "1 <nil>\n0 only 200 cents are left"; err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}
