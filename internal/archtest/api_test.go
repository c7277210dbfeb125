package archtest_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what the tests compare with")

const apiFile = "testdata/api.txt"

// TestAPI: the exported names are those in testdata/api.txt, so that a change of the API shows in the diff of a commit.
func TestAPI(t *testing.T) {
	t.Parallel()
	got := api(t)
	if *update {
		if err := os.WriteFile(apiFile, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(apiFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(string(want)), "\n"), got); diff != "" {
		t.Errorf("the API has changed: if the change is intended, say so in CHANGELOG.md, and run\n"+
			"go test ./internal/archtest -run TestAPI -update\n(-before +now):\n%s", diff)
	}
}

// api returns a line for each name that the packages of the library export.
func api(t *testing.T) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		name := entry.Name()
		if path != root && (strings.HasPrefix(name, ".") || slices.Contains([]string{"internal", "examples", "bench", "testdata", "compat", "docs"}, name)) {
			return fs.SkipDir
		}
		of, err := exportsOf(path)
		lines = append(lines, of...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// exportsOf returns a line for each name that the package in a folder exports.
func exportsOf(dir string) (lines []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	set := token.NewFileSet()
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		name, _ := filepath.Rel(root, dir)
		for _, declaration := range parsed.Decls {
			for _, line := range exported(declaration) {
				lines = append(lines, filepath.ToSlash(name)+": "+line)
			}
		}
	}
	return lines, nil
}

// exported returns a line for each name that a declaration exports.
func exported(declaration ast.Decl) (lines []string) {
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if !d.Name.IsExported() {
			return nil
		}
		receiver := ""
		if d.Recv != nil {
			of := text(d.Recv.List[0].Type)
			if !ast.IsExported(strings.TrimLeft(of, "*")) {
				return nil
			}
			receiver = "(" + of + ") "
		}
		return []string{"func " + receiver + d.Name.Name + typeParameters(d.Type.TypeParams) + signature(d.Type)}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			lines = append(lines, exportedBy(d.Tok, spec)...)
		}
	}
	return lines
}

func exportedBy(kind token.Token, spec ast.Spec) (lines []string) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range s.Names {
			if name.IsExported() {
				lines = append(lines, strings.TrimSpace(fmt.Sprint(kind, " ", name.Name, " ", text(s.Type))))
			}
		}
	case *ast.TypeSpec:
		if !s.Name.IsExported() {
			return nil
		}
		head := "type " + s.Name.Name + typeParameters(s.TypeParams)
		switch of := s.Type.(type) {
		case *ast.StructType:
			return append([]string{head + " struct"}, members(head, of.Fields)...)
		case *ast.InterfaceType:
			return append([]string{head + " interface"}, members(head, of.Methods)...)
		}
		return []string{head + " " + text(s.Type)}
	}
	return lines
}

// members returns a line for each exported field of a struct, or each method of an interface.
func members(of string, fields *ast.FieldList) (lines []string) {
	for _, f := range fields.List {
		what := text(f.Type)
		if method, ok := f.Type.(*ast.FuncType); ok && len(f.Names) == 1 {
			what = signature(method)
		}
		if len(f.Names) == 0 {
			lines = append(lines, of+", "+what)
		}
		for _, name := range f.Names {
			if name.IsExported() {
				lines = append(lines, of+", "+name.Name+" "+what)
			}
		}
	}
	return lines
}

// signature returns the types of parameters and results, without their names.
func signature(f *ast.FuncType) string {
	results := types(f.Results)
	switch len(results) {
	case 0:
		return "(" + strings.Join(types(f.Params), ", ") + ")"
	case 1:
		return "(" + strings.Join(types(f.Params), ", ") + ") " + results[0]
	}
	return "(" + strings.Join(types(f.Params), ", ") + ") (" + strings.Join(results, ", ") + ")"
}

func types(fields *ast.FieldList) (all []string) {
	if fields == nil {
		return nil
	}
	for _, f := range fields.List {
		all = append(all, slices.Repeat([]string{text(f.Type)}, max(1, len(f.Names)))...)
	}
	return all
}

func typeParameters(fields *ast.FieldList) string {
	if fields == nil {
		return ""
	}
	var all []string
	for _, f := range fields.List {
		for _, name := range f.Names {
			all = append(all, name.Name+" "+text(f.Type))
		}
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// text returns an expression in one line.
func text(e ast.Expr) string {
	if e == nil {
		return ""
	}
	if f, ok := e.(*ast.FuncType); ok {
		return "func" + signature(f)
	}
	var b bytes.Buffer
	_ = printer.Fprint(&b, token.NewFileSet(), e) // writing to a Buffer does not fail
	return strings.Join(strings.Fields(b.String()), " ")
}

// names is how many names each package may export. The budget is 25, and 40 for a package that is deep and whose names
// are one family. ADR 20 records each higher number with its reason.
var names = map[string]int{"eventstore": 74, "projection": 71, "snapshot": 28}

// TestNames: no package exports more names than it may.
func TestNames(t *testing.T) {
	t.Parallel()
	count := make(map[string]map[string]bool)
	for _, line := range api(t) {
		name, what, _ := strings.Cut(line, ": ")
		if strings.HasPrefix(what, "func (") || strings.Contains(what, " struct, ") || strings.Contains(what, " interface, ") {
			continue
		}
		if head, _, member := strings.Cut(what, ", "); member && strings.HasPrefix(what, "type ") {
			what = head
		}
		if count[name] == nil {
			count[name] = make(map[string]bool)
		}
		count[name][strings.Fields(strings.NewReplacer("[", " ", "(", " ").Replace(what))[1]] = true
	}
	for _, name := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%s: %d names", name, len(count[name]))
		if most := max(25, names[name]); len(count[name]) > most {
			t.Errorf("%s exports %d names, want at most %d: see ADR 20", name, len(count[name]), most)
		}
	}
}
