package archtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDocumented: every package has a section "Guarantees", and every exported name a doc comment.
func TestDocumented(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, p := range list(t) {
		name, ours := nameOf(p.ImportPath)
		if !ours || isInternal(name) || isExample(name) {
			continue
		}
		checked++
		if !slices.Contains(p.GoFiles, "doc.go") {
			t.Errorf("%s has no doc.go", p.ImportPath)
		}
		for _, file := range p.GoFiles {
			path := filepath.Join(p.Dir, file)
			syntax := parse(t, path, nil)
			if file == "doc.go" && !guarantees(syntax) {
				t.Errorf(`%s has no section "# Guarantees"`, path)
			}
			for _, missing := range undocumented(syntax) {
				t.Errorf("%s: %s has no doc comment", path, missing)
			}
		}
	}
	if checked < 3 {
		t.Errorf("only %d packages were checked", checked)
	}
}

func parse(t *testing.T, path string, source any) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func guarantees(file *ast.File) bool {
	return slices.Contains(strings.Split(file.Doc.Text(), "\n"), "# Guarantees")
}

// undocumented returns the exported names of a file that lack a doc comment. The method Error needs none, because it
// means the same everywhere.
func undocumented(file *ast.File) (names []string) {
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			name := methodName(decl)
			if decl.Doc == nil && name != "" && decl.Name.Name != "Error" {
				names = append(names, name)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				names = append(names, undocumentedSpec(spec, decl)...)
			}
		}
	}
	return names
}

// methodName returns the name by which other packages call a function, or "" if they cannot call it.
func methodName(decl *ast.FuncDecl) string {
	if !decl.Name.IsExported() {
		return ""
	}
	if decl.Recv == nil {
		return decl.Name.Name
	}
	receiver := decl.Recv.List[0].Type
	for {
		switch expr := receiver.(type) {
		case *ast.StarExpr:
			receiver = expr.X
		case *ast.IndexExpr:
			receiver = expr.X
		case *ast.IndexListExpr:
			receiver = expr.X
		case *ast.Ident:
			if !expr.IsExported() {
				return ""
			}
			return expr.Name + "." + decl.Name.Name
		default:
			return decl.Name.Name
		}
	}
}

// undocumentedSpec accepts one comment on the declaration for all constants and variables in it. Of several types, each
// needs a comment of its own.
func undocumentedSpec(spec ast.Spec, decl *ast.GenDecl) (names []string) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		alone := !decl.Lparen.IsValid()
		if spec.Name.IsExported() && spec.Doc == nil && spec.Comment == nil && (decl.Doc == nil || !alone) {
			names = append(names, spec.Name.Name)
		}
	case *ast.ValueSpec:
		if spec.Doc != nil || spec.Comment != nil || decl.Doc != nil {
			return nil
		}
		for _, name := range spec.Names {
			if name.IsExported() {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

// TestUndocumented: the check finds every kind of name.
func TestUndocumented(t *testing.T) {
	t.Parallel()
	const source = `// Package x has
//
// # Guarantees
//
// none.
package x

func Func() {}
func private() {}
func (T) Method() {}
func (*T) Pointer() {}
func (*G[K]) Generic() {}
func (*H[K, V]) Pair() {}
func (T) Error() string { return "" }
func (t) Hidden() {}

type T struct{}
type (
	Group struct{}
	// Fine is documented.
	Fine struct{}
)
const A, b = 1, 2
var V int
const C = 1 // documented too

// Documented is.
func Documented() {}

// One comment for all.
const (
	D = 1
	E = 2
)
`
	file := parse(t, "x.go", source)
	want := []string{"Func", "T.Method", "T.Pointer", "G.Generic", "H.Pair", "T", "Group", "A", "V"}
	if got := undocumented(file); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !guarantees(file) {
		t.Error("the section is there, but was not found")
	}
	if guarantees(parse(t, "y.go", "// Package y.\npackage y\n")) {
		t.Error("the section is not there, but was found")
	}
}
