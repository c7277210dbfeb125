package archtest_test

import (
	"fmt"
	"slices"
	"strings"
)

const module = "github.com/tidemark-es/tidemark"

// mayImport says which of our packages a library package may depend on, directly or through others. Every package may
// depend on the packages below internal, except on the helpers of tests.
var mayImport = map[string][]string{
	"eventstore": nil,
	"migrations": nil,
	"localpg":    nil,
	"codec":      {"eventstore"},
	"snapshot":   {"eventstore"},
	"projection": {"eventstore", "codec"},
	"query":      {"eventstore"},
	"command":    {"eventstore"},
	"aggregate":  {"eventstore", "codec", "snapshot"},
	"saga":       {"eventstore", "codec", "projection", "command"},
	"publish":    {"eventstore", "codec", "projection"},
	"httpapi":    {"eventstore", "codec", "projection", "query"},
	"service":    {"eventstore", "migrations"},
	// The root package wires the others together.
	"": {"eventstore", "codec", "migrations", "snapshot", "projection", "query", "command", "aggregate", "saga", "publish", "httpapi"},
}

// knowsNone are parts of packages that may depend on no package of ours, except those below internal.
var knowsNone = []string{"projection/internal/rowset"}

// mayNeed lists the modules that applications get with the library. Think twice before adding one.
var mayNeed = []string{
	"github.com/jackc/pgx/v5",
	"github.com/jackc/pgpassfile",        // by pgx
	"github.com/jackc/pgservicefile",     // by pgx
	"github.com/jackc/puddle/v2",         // by pgx
	"github.com/google/uuid",             // event ids
	"github.com/cenkalti/backoff/v5",     // retries
	"github.com/hashicorp/golang-lru/v2", // the cache of aggregates
	"golang.org/x/",                      // all modules below it
}

// mayNeedToo lists modules that one package alone may need.
var mayNeedToo = map[string][]string{
	"localpg": {"github.com/xi2/xz"}, // its downloads are packed with xz
}

// pkg has the facts about a package that the rules need.
type pkg struct {
	path    string            // the import path
	deps    []string          // the import paths of its dependencies, direct or not, without tests
	modules map[string]string // the module of each dependency; the standard library has none
}

// violations returns what is wrong with the dependencies of a package, in sentences.
func violations(p pkg) (found []string) {
	name, ours := nameOf(p.path)
	if !ours || isExample(name) {
		return nil
	}
	for _, dep := range p.deps {
		if depName, ours := nameOf(dep); ours && isExample(depName) {
			found = append(found, fmt.Sprintf("%s depends on %s: nothing imports examples", p.path, dep))
		}
	}
	if isTestHelper(name) || isInternal(name) {
		return found
	}
	if slices.Contains(knowsNone, name) {
		for _, dep := range p.deps {
			if depName, ours := nameOf(dep); ours && !isInternal(depName) {
				found = append(found, fmt.Sprintf("%s depends on %s: of our packages it may depend only on those below internal", p.path, dep))
			}
		}
		return found
	}
	allowed, known := mayImport[ownerOf(name)]
	if !known {
		return append(found, fmt.Sprintf("%s: say in mayImport which packages it may import", p.path))
	}
	allowed = append(slices.Clone(allowed), ownerOf(name))
	for _, dep := range p.deps {
		if depName, ours := nameOf(dep); ours {
			found = append(found, ourViolation(p.path, depName, allowed)...)
		} else if from, ok := p.modules[dep]; ok && !slices.ContainsFunc(slices.Concat(mayNeed, mayNeedToo[name]), matches(from)) {
			found = append(found, fmt.Sprintf("%s depends on %s: module %s is not in mayNeed", p.path, dep, from))
		}
	}
	return found
}

// ourViolation returns the violation if a package may not depend on another one of ours.
func ourViolation(path, dep string, allowed []string) []string {
	switch {
	case isExample(dep): // reported already
	case isTestHelper(dep):
		return []string{fmt.Sprintf("%s depends on %s, which is for tests", path, dep)}
	case isInternal(dep), slices.Contains(allowed, ownerOf(dep)):
	default:
		return []string{fmt.Sprintf("%s depends on %s, may depend on %q", path, dep, allowed)}
	}
	return nil
}

// nameOf returns the path of one of our packages within the module.
func nameOf(path string) (name string, ours bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func isExample(name string) bool { return name == "examples" || strings.HasPrefix(name, "examples/") }

func isInternal(name string) bool { return strings.HasPrefix(name, "internal/") }

// ownerOf returns the package whose rules hold for a package. Packages below the internal folder of another package are
// parts of that one.
func ownerOf(name string) string {
	owner, _, _ := strings.Cut(name, "/internal/")
	return owner
}

// isTestHelper reports whether a package exists for tests. Such a package may depend on everything except the examples.
func isTestHelper(name string) bool {
	return strings.HasSuffix(name, "test")
}

// matches returns a function that reports whether an entry of mayNeed allows a module.
func matches(path string) func(string) bool {
	return func(entry string) bool {
		return path == entry || strings.HasSuffix(entry, "/") && strings.HasPrefix(path, entry)
	}
}
