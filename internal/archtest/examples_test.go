package archtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExamplesCopiedOut: the examples are a module that builds outside of this repository, tests included. Of our
// modules it needs only the library and tidemarktest.
func TestExamplesCopiedOut(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "examples"))); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace", module + "=" + root, "-replace", module + "/tidemarktest=" + filepath.Join(root, "tidemarktest")},
		{"build", "./..."},
		{"vet", "./..."},
		{"list", "-f", `{{range .Imports}}{{println .}}{{end}}{{range .TestImports}}{{println .}}{{end}}{{range .XTestImports}}{{println .}}{{end}}`, "./..."},
	} {
		command := exec.CommandContext(t.Context(), "go", args...)
		command.Dir = dir
		command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod -buildvcs=false")
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		for line := range strings.Lines(string(out)) {
			if args[0] == "list" && strings.HasPrefix(line, module+"/internal/") {
				t.Errorf("an example imports %s: another module could not", strings.TrimSpace(line))
			}
		}
	}
}
