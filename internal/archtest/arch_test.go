package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// root is the module's folder, seen from this package.
const root = "../.."

// listed is what `go list` says about a package.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Standard   bool
	Deps       []string
	Module     *struct{ Path string }
}

// list asks the go command about every package of the module and all their dependencies.
func list(t *testing.T) []listed {
	t.Helper()
	touch(t)
	command := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Standard,Deps,Module", "./...")
	command.Dir = root
	command.Env = append(os.Environ(), "GOWORK=off") // an application does not get our workspace
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// touch looks at the files that go list is going to read. `go test` takes a result from its cache unless a file has
// changed that the test itself has looked at.
func touch(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case filepath.Ext(path) == ".go", entry.Name() == "go.mod":
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestImports: no package breaks a rule about its dependencies.
func TestImports(t *testing.T) {
	t.Parallel()
	packages := list(t)
	from := make(map[string]string)
	for _, p := range packages {
		if !p.Standard && p.Module != nil {
			from[p.ImportPath] = p.Module.Path
		}
	}
	var checked []string
	for _, p := range packages {
		if from[p.ImportPath] != module {
			continue
		}
		checked = append(checked, p.ImportPath)
		for _, violation := range violations(pkg{path: p.ImportPath, deps: p.Deps, modules: from}) {
			t.Error(violation)
		}
	}
	for _, name := range []string{"eventstore", "migrations"} {
		if !slices.Contains(checked, module+"/"+name) {
			t.Errorf("%s was not checked, only %v", name, checked)
		}
	}
}

// TestRules: each rule finds the dependencies that it forbids, and no others.
func TestRules(t *testing.T) {
	t.Parallel()
	const (
		pgx, rapid = "github.com/jackc/pgx/v5/pgxpool", "pgregory.net/rapid"
		sync       = "golang.org/x/sync/errgroup"
	)
	from := map[string]string{
		pgx: "github.com/jackc/pgx/v5", rapid: "pgregory.net/rapid", sync: "golang.org/x/sync",
		"github.com/jackc/pgx/v5x": "github.com/jackc/pgx/v5x", "golang.org/xtools": "golang.org/xtools",
		"go.uber.org/goleak": "go.uber.org/goleak", "github.com/google/go-cmp/cmp": "github.com/google/go-cmp",
		"github.com/testcontainers/testcontainers-go": "github.com/testcontainers/testcontainers-go",
		"github.com/xi2/xz":                           "github.com/xi2/xz",
	}
	const ours = module + "/"
	for _, test := range []struct {
		path string
		dep  string
		ok   bool
	}{
		{ours + "eventstore", ours + "internal/pgerr", true},
		{ours + "eventstore", "context", true},
		{ours + "eventstore", pgx, true},
		{ours + "eventstore", sync, true},
		{ours + "eventstore", ours + "migrations", false},
		{ours + "eventstore", ours + "aggregate", false},
		{ours + "eventstore", module, false},
		{ours + "migrations", ours + "eventstore", false},
		{ours + "codec", ours + "eventstore", true},
		{ours + "codec", ours + "aggregate", false},
		{ours + "eventstore", ours + "codec", false},
		{ours + "projection", ours + "projection/internal/catalog", true},
		{ours + "projection/internal/catalog", ours + "eventstore", true},
		{ours + "projection/internal/rowset", ours + "eventstore", false},
		{ours + "projection/internal/rowset", ours + "internal/pgerr", true},
		{ours + "projection/internal/catalog", ours + "aggregate", false},
		{ours + "projection/internal/catalog", rapid, false},
		{ours + "httpapi", ours + "projection/internal/catalog", true},
		{ours + "eventstore", ours + "projection/internal/catalog", false},
		{ours + "snapshot", ours + "eventstore", true},
		{ours + "snapshot", ours + "aggregate", false},
		{ours + "projection", ours + "eventstore", true},
		{ours + "projection", ours + "aggregate", false},
		{ours + "projection", ours + "command", false},
		{ours + "projection", ours + "snapshot", false},
		{ours + "query", ours + "eventstore", true},
		{ours + "query", ours + "aggregate", false},
		{ours + "query", ours + "projection", false},
		{ours + "aggregate", ours + "snapshot", true},
		{ours + "aggregate", ours + "projection", false},
		{ours + "command", ours + "eventstore", true},
		{ours + "command", ours + "aggregate", false},
		{ours + "saga", ours + "projection", true},
		{ours + "saga", ours + "command", true},
		{ours + "saga", ours + "aggregate", false},
		{ours + "publish", ours + "projection", true},
		{ours + "publish", ours + "saga", false},
		{ours + "httpapi", ours + "query", true},
		{ours + "httpapi", ours + "aggregate", false},
		{module, ours + "saga", true},
		{ours + "saga", ours + "examples/bank", false},
		{ours + "internal/pgerr", ours + "examples/bank", false},
		{ours + "projection/projectiontest", ours + "examples", false},
		{ours + "examples/bank", ours + "examples/bank/account", true},
		{ours + "examples/bank", rapid, true},
		{ours + "eventstore/eventstoretest", rapid, true},
		{ours + "localpg", "github.com/testcontainers/testcontainers-go", false},
		{ours + "localpg", "github.com/xi2/xz", true},
		{ours + "localpg", ours + "internal/pgerr", true},
		{ours + "localpg", ours + "eventstore", false},
		{ours + "eventstore", rapid, false},
		{ours + "aggregate", "go.uber.org/goleak", false},
		{ours + "query", "github.com/google/go-cmp/cmp", false},
		{ours + "command", "github.com/testcontainers/testcontainers-go", false},
		{ours + "publish", "github.com/xi2/xz", false},
		{module, "github.com/jackc/pgx/v5x", false},
		{module, "golang.org/xtools", false},
		{ours + "projection", ours + "internal/pgtest", false},
		{ours + "projection", ours + "localpg", false},
		{ours + "projection", ours + "eventstore/eventstoretest", false},
		{ours + "kitchensink", "context", false},
		{"example.com/theirs", rapid, true},
	} {
		found := violations(pkg{path: test.path, deps: []string{test.dep}, modules: from})
		if ok := len(found) == 0; ok != test.ok {
			t.Errorf("%s -> %s: allowed is %v, want %v %q", test.path, test.dep, ok, test.ok, found)
		}
	}
}
