package archtest_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/internal/pgschema"
	"github.com/tidemark-es/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// statement is SQL in the source of the library.
type statement struct {
	where string
	text  string
}

// isStatement finds the texts that Postgres must be able to plan. A statement that is put together at run time, from
// the names of tables and columns, has a verb of fmt or ends in the middle: hasVerb finds the verbs.
var (
	isStatement = regexp.MustCompile(`(?is)^\s*(select|insert into|update|delete from|with)\b`)
	hasVerb     = regexp.MustCompile(`%[sdqv]`)
)

// statementsOf returns the SQL of a package's folder. Constants that are put together from others are folded.
func statementsOf(folder string) (found []statement, err error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	positions, constants := token.NewFileSet(), make(map[string]ast.Expr)
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(positions, path, nil, 0)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
				for n, name := range spec.Names {
					constants[name.Name] = spec.Values[n]
				}
			}
			return true
		})
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			text, whole := fold(e, constants)
			if _, isName := e.(*ast.Ident); whole && !isName && isStatement.MatchString(text) && !hasVerb.MatchString(text) {
				found = append(found, statement{positions.Position(e.Pos()).String(), text})
			}
			_, isSum := e.(*ast.BinaryExpr)
			return !isSum // a part of a statement is not a statement
		})
	}
	return found, nil
}

// fold returns the text of an expression if it is constant.
func fold(e ast.Expr, constants map[string]ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, e.Kind == token.STRING && err == nil
	case *ast.Ident:
		if value, ok := constants[e.Name]; ok {
			return fold(value, constants)
		}
	case *ast.BinaryExpr:
		left, ok := fold(e.X, constants)
		right, also := fold(e.Y, constants)
		return left + right, ok && also
	}
	return "", false
}

// placeholders are the words of a statement that a store replaces.
var placeholders = strings.NewReplacer("SCHEMA.PROVEN", "SCHEMA.proven()", "(START)", "(1)", "limit LIMIT", "limit 1")

// TestStatements: Postgres can plan every statement of the library against the schema of this release, also statements
// that are rarely executed.
func TestStatements(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	var all []statement
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		switch name := d.Name(); {
		case name == "examples", name == "bench", name == "testdata", name == "compat", strings.HasSuffix(name, "test"),
			strings.HasPrefix(name, ".") && !strings.HasPrefix(name, ".."):
			return filepath.SkipDir
		}
		found, err := statementsOf(path)
		all = append(all, found...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 110 {
		t.Errorf("there are %d statements, want 110 or more: are they not found?", len(all))
	}
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for n, s := range all {
		if _, err := conn.Conn().Prepare(t.Context(), fmt.Sprint("s", n), pgschema.In(pgschema.Default, placeholders.Replace(s.text))); err != nil {
			t.Errorf("%s: %v\n%s", s.where, err, s.text)
		}
	}
	if _, err := conn.Conn().Prepare(t.Context(), "wrong", pgschema.In(pgschema.Default, "select positoin from SCHEMA.events")); err == nil {
		t.Error("a wrong name of a column passes")
	}
}

// ofTheLog finds the tables and functions that only package eventstore and inline projections use.
var ofTheLog = regexp.MustCompile(`SCHEMA\.(events\b|append_keys\b|tidemark\(|appending\(|tidemark_holders\(|append)`)

// TestLogIsASeam: projections read events only through projection.Log, because the log can be in another database.
// Inline projections are an exception: they are in the database of the log.
func TestLogIsASeam(t *testing.T) {
	t.Parallel()
	inline := 0
	for _, folder := range []string{"../../projection", "../../projection/internal/catalog"} {
		found, err := statementsOf(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range found {
			switch {
			case !ofTheLog.MatchString(s.text):
			case strings.Contains(s.where, "/catalog/inline.go:"):
				inline++
			default:
				t.Errorf("%s reads the log of its own database: ask projection.Log\n%s", s.where, s.text)
			}
		}
	}
	if inline == 0 {
		t.Error("no statement of inline reads the log: are the statements not found?")
	}
}
