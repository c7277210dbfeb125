package projection_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

const guidePath = "../docs/projections.md"

func readGuide(t *testing.T) string {
	t.Helper()
	guide, err := os.ReadFile(guidePath)
	if err != nil {
		t.Fatal(err)
	}
	return string(guide)
}

// TestGuideNames: every example, Go name and section that docs/projections.md mentions exists.
func TestGuideNames(t *testing.T) {
	t.Parallel()
	guide := readGuide(t)
	names := exported(t)
	examples := regexp.MustCompile(`Example[A-Za-z_]+`).FindAllString(guide, -1)
	for _, name := range examples {
		if !names["test "+name] {
			t.Errorf("the guide names the example %s, which does not exist", name)
		}
	}
	if len(examples) < 20 {
		t.Errorf("the guide names %d examples, want 20 at least", len(examples))
	}

	// Such as `Runner.Wait`, `NewTable` and `codec.Retired`, but not the keywords of SQL.
	mentioned := regexp.MustCompile("`(?:eventstore\\.|query\\.)?[A-Z][a-z][A-Za-z]*(?:\\.[A-Z][A-Za-z]*)?[(`]").FindAllString(guide, -1)
	for _, name := range mentioned {
		name = strings.Trim(name, "`(")
		if !strings.HasPrefix(name, "Example") && !names[name] {
			t.Errorf("the guide names %s, which no package exports", name)
		}
	}
	if len(mentioned) < 100 {
		t.Errorf("the guide mentions %d Go names, want 100 at least", len(mentioned))
	}

	anchors := make(map[string]bool)
	for _, heading := range regexp.MustCompile(`(?m)^##+ (.*)$`).FindAllStringSubmatch(guide, -1) {
		plain := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		anchors[strings.ReplaceAll(plain, " ", "-")] = true
	}
	for _, link := range regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(guide, -1) {
		if !anchors[link[1]] {
			t.Errorf("there is no section %s", link[1])
		}
	}
}

// exported returns the names that the packages of the guide export. A name of package projection has no package before
// it, a name of another package has. A name that a test file declares has the prefix "test ".
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for prefix, folder := range map[string]string{"": ".", "eventstore.": "../eventstore", "query.": "../query"} {
		paths, _ := filepath.Glob(filepath.Join(folder, "*.go"))
		for _, path := range paths {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			before := prefix
			if strings.HasSuffix(path, "_test.go") {
				before = "test " + prefix
			}
			for _, declaration := range file.Decls {
				for _, name := range declared(declaration) {
					names[before+name] = true
					if prefix == "eventstore." && before == prefix && strings.Contains(name, ".") {
						names[name] = true // the guide may write Metadata.Actor without the package
					}
				}
			}
		}
	}
	return names
}

// declared returns the names of a declaration. A method's name has its receiver before it, a field's name its type.
func declared(declaration ast.Decl) (names []string) {
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			return []string{d.Name.Name}
		}
		receiver := d.Recv.List[0].Type
		if star, ok := receiver.(*ast.StarExpr); ok {
			receiver = star.X
		}
		if named, ok := receiver.(*ast.Ident); ok {
			return []string{named.Name + "." + d.Name.Name}
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				for _, name := range s.Names {
					names = append(names, name.Name)
				}
			case *ast.TypeSpec:
				names = append(names, s.Name.Name)
				if fields, ok := s.Type.(*ast.StructType); ok {
					for _, field := range fields.Fields.List {
						for _, name := range field.Names {
							names = append(names, s.Name.Name+"."+name.Name)
						}
					}
				}
			}
		}
	}
	return names
}

// statements returns the SQL blocks of the guide by their headings. The second block of a heading has "+" after it.
func statements(guide string) map[string]string {
	found := make(map[string]string)
	heading := ""
	for _, section := range regexp.MustCompile(`(?m)^##+ `).Split(guide, -1) {
		heading, _, _ = strings.Cut(section, "\n")
		for n, block := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(section, -1) {
			found[heading+strings.Repeat("+", n)] = block[1]
		}
	}
	return found
}

// TestGuideSQL runs the statements of the guide. The database has rows for each of them to find.
func TestGuideSQL(t *testing.T) {
	t.Parallel()
	f := setup(t)
	runner, _ := f.start(quiet, f.store, balancesTable(1))
	f.wait(runner, deposit(f.store, "ada", Deposited{Amount: 5}, Deposited{Amount: 0}))
	open, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.WithTx(open).Append(t.Context(), eventstore.StreamID{Category: "other", Key: "a"}, eventstore.NoStream,
		eventstore.Draft{Type: "other", Data: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Exec(t.Context(), `select from balances`); err != nil {
		t.Fatal(err)
	}
	all := statements(readGuide(t))
	const pausing = "Pausing and resuming by psql"
	for heading, want := range map[string]int{
		"At 3 a.m.": 1, "The partitions": 1, "Who runs it": 1, "What holds the tidemark": 1, "Dead letters by reason": 1,
		"The audit": 1, "Who reads the view": 1, "The types": 1, "The failing event": 0, "Checkpoints ahead of the log": 0,
	} {
		if found := count(f, all[heading]); found != want {
			t.Errorf("%s: %d rows, want %d", heading, found, want)
		}
		delete(all, heading)
	}
	if len(all) != 2 {
		t.Fatalf("statements of the guide that this test does not run: %v; want only those for pausing", all)
	}
	_ = open.Rollback(t.Context())

	// The two statements that found nothing above find something now.
	f.exec(all[pausing])
	position := deposit(f.store, "ada", Deposited{Amount: 7})
	position = max(position, deposit(f.store, "bob", Deposited{Amount: 7}))
	status, err := runner.Status(t.Context())
	if err != nil || status.Projections[0].State != "paused" || status.Projections[0].Lag != 2 {
		t.Errorf("after the statement that pauses: %+v, %v", status, err)
	}
	f.exec(`update tidemark.projection_partitions set error = 'no', error_at = $1, checkpoint = checkpoint + 100`, position)
	for _, heading := range []string{"The failing event", "Checkpoints ahead of the log"} {
		if found := count(f, statements(readGuide(t))[heading]); found != 1 {
			t.Errorf("%s: %d rows, want 1", heading, found)
		}
	}
	f.exec(`update tidemark.projection_partitions set checkpoint = checkpoint - 100`)
	f.exec(all[pausing+"+"])
	f.wait(runner, position)
	var balance int64
	if err := f.pool.QueryRow(t.Context(), `select balance from balances where account = 'bob'`).Scan(&balance); err != nil || balance != 7 {
		t.Errorf("after the statement that resumes: %d, %v; want 7", balance, err)
	}
}

// count returns how many rows a statement finds. It fails the test if the statement is empty or Postgres refuses it.
func count(f *fixture, sql string) (n int) {
	f.Helper()
	if sql == "" {
		f.Fatal("the guide has no such statement")
	}
	rows, err := f.pool.Query(context.WithoutCancel(f.Context()), strings.TrimSuffix(strings.TrimSpace(sql), ";"))
	if err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
	for rows.Next() {
		n++
	}
	if err := rows.Err(); err != nil {
		f.Fatalf("%s: %v", sql, err)
	}
	return n
}

// TestGuideReset: an idle projection begins again at once after Reset, and a Wait after Reset waits until the log is
// handled again.
func TestGuideReset(t *testing.T) {
	t.Parallel()
	f := setup(t)
	runner, _ := f.start(quiet, f.store, balancesTable(1))
	position := deposit(f.store, "ada", Deposited{Amount: 5})
	f.wait(runner, position)
	if err := runner.Operator().Reset(t.Context(), projection.Ref{Name: "balances", Version: projection.Live}, 0); err != nil {
		t.Fatal(err)
	}
	f.wait(runner, position)
	if found := count(f, `select from balances where balance = 5`); found != 1 {
		t.Errorf("after Reset and Wait: %d rows, want 1", found)
	}
}

// TestGuideUndecodable: an event that cannot be decoded has no key, and becomes a dead letter under its stream. When it
// can be decoded, it is handled under its key.
func TestGuideUndecodable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	runner, _ := f.start(quiet, f.store, balancesTable(1))
	stream := eventstore.StreamID{Category: "account", Key: "ada"}
	receipt, err := f.store.Append(t.Context(), stream, eventstore.NoStream,
		eventstore.Draft{Type: "account.deposited", Data: []byte(`{"amount":"five"}`)})
	if err != nil {
		t.Fatal(err)
	}
	f.wait(runner, deposit(f.store, "ada", Deposited{Amount: 7}))
	if found := count(f, `select from balances where balance = 7`); found != 1 {
		t.Error("the next event of the stream waits behind an event that has no key")
	}
	handled, err := runner.Operator().Edit(t.Context(), projection.Ref{Name: "balances", Version: projection.Live}, stream.String(), receipt.Position, []byte(`{"amount":5}`))
	if handled != 1 || err != nil {
		t.Errorf("edit: %d, %v; want 1 event handled", handled, err)
	}
	if found := count(f, `select from balances where balance = 12`); found != 1 {
		t.Error("the event with the edited payload is not in the read model, and is not a dead letter any more")
	}
}
