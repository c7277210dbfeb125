package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/examples/internal/servicetest"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

func TestMain(m *testing.M) { servicetest.Main(m, main) }

// TestServeAndStop runs the program with a Postgres of its own until it is interrupted.
func TestServeAndStop(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		servicetest.ServeAndStop(t, signal, "/accounts", func(c *servicetest.Client) {
			c.Must(200, "GET", "/health", "")
			c.Must(201, "POST", "/accounts", `{"owner":"Ada","currency":"EUR"}`)
		})
	}
}

// TestOneDatabaseOnly: with both -data and DATABASE_URL the program does not start.
func TestOneDatabaseOnly(t *testing.T) {
	t.Parallel()
	text := servicetest.Output(t, servicetest.Program(t, tidemarktest.New(t, nil).URL, "-addr", "localhost:0", "-data", t.TempDir()), 1)
	if !strings.Contains(text, "DATABASE_URL") {
		t.Errorf("%s, want it to name DATABASE_URL", text)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"import"}, {"export", "x"}, {"import", "a", "b"}, {"-nonsense"}} {
		if text := servicetest.Output(t, servicetest.Program(t, "", args...), 2); !strings.Contains(text, "usage: bank") {
			t.Errorf("%v: %s, want the usage", args, text)
		}
	}
}

// writeStatement writes a file with n transactions for each account.
func writeStatement(t *testing.T, accounts, n int) (path string) {
	t.Helper()
	var text bytes.Buffer
	text.WriteString(`"trans_id";"account_id";"date";"type";"operation";"amount";"balance";"k_symbol";"bank";"account"` + "\n")
	balance := make([]int, accounts)
	for i := range n {
		for a := range accounts {
			amount, kind := 100+i, `"PRIJEM";"VKLAD"`
			if i%3 == 2 {
				amount, kind = -150, `"VYDAJ";"VYBER"`
			}
			balance[a] += amount
			fmt.Fprintf(&text, "%d;%d;9301%02d;%s;%d.00;%d.00;\"\";;\n", 1000*a+i+1, a+1, 1+i/2, kind, max(amount, -amount), balance[a])
		}
	}
	path = filepath.Join(t.TempDir(), "statement.csv")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestImportKilled kills imports half-way and starts them again.
func TestImportKilled(t *testing.T) {
	t.Parallel()
	const accounts, each = 40, 50
	path, url := writeStatement(t, accounts, each), tidemarktest.New(t, nil).URL
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	events := func() (n int) {
		if err := pool.QueryRow(t.Context(), `select count(*) from tidemark.events`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}

	for _, until := range []int{100, 500} {
		servicetest.KillWhen(t, servicetest.Program(t, url, "import", path), func() bool { return events() >= until })
	}
	if n := events(); n >= accounts*(each+1) {
		t.Fatalf("%d events: the import was not killed half-way", n)
	}
	for range 2 { // the second import finds nothing to do
		text := servicetest.Output(t, servicetest.Program(t, url, "import", path), 0)
		if want := fmt.Sprintf("reconciled %[1]d of %[1]d account-days", accounts*each/2); !strings.Contains(text, want) {
			t.Errorf("%s\nwant %q", text, want)
		}
		if n := events(); n != accounts*(each+1) {
			t.Errorf("%d events, want %d", n, accounts*(each+1))
		}
	}
	var entries int
	if err := pool.QueryRow(t.Context(), `select count(*) from bank.statement`).Scan(&entries); err != nil || entries != accounts*each {
		t.Errorf("%d entries in the statements, %v; want %d", entries, err, accounts*each)
	}
}

// TestImportSample imports the file that the README shows.
func TestImportSample(t *testing.T) {
	t.Parallel()
	text := servicetest.Output(t, servicetest.Program(t, tidemarktest.EmptyURL(t, nil), "import", "testdata/statement.csv"), 0)
	for _, want := range []string{"3 accounts, 23 events", "reconciled 18 of 18 account-days"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nwant %q", text, want)
		}
	}
}

// TestImportRefuses: the error for an invalid file names the line, and nothing is imported.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	url := tidemarktest.New(t, nil).URL
	good, err := os.ReadFile("testdata/statement.csv")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, test := range map[string]struct{ text, want string }{
		"truncated": {string(good[:len(good)-20]), "line 21: "},
		"garbled":   {strings.Replace(string(good), "18250.00", "18250,00", 1), "line 4: amount"},
		"bad text":  {strings.Replace(string(good), "POJISTNE", "\xff", 1), "line 10: "},
		"other":     {"hello\n", "line 1: "},
		"empty":     {"", "line 1: the file is empty"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		text := servicetest.Output(t, servicetest.Program(t, url, "import", path), 1)
		if !strings.Contains(text, test.want) || !strings.Contains(text, "nothing was imported") {
			t.Errorf("%s: %s, want %q", name, text, test.want)
		}
	}
	servicetest.Output(t, servicetest.Program(t, url, "import", filepath.Join(dir, "none")), 1)
	servicetest.Output(t, servicetest.Program(t, url, "import", dir), 1)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var n int
	if err := pool.QueryRow(t.Context(), `select count(*) from tidemark.events`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d events, %v; want none", n, err)
	}
}

// TestReconcileFails: a balance that differs from the file is found and reported.
func TestReconcileFails(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile("testdata/statement.csv")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "statement.csv")
	if err := os.WriteFile(path, []byte(strings.Replace(string(good), "19250.00", "19255.00", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	text := servicetest.Output(t, servicetest.Program(t, tidemarktest.EmptyURL(t, nil), "import", path), 1)
	if !strings.Contains(text, "reconciled 17 of 18") || !strings.Contains(text, "account 101 on 1995-01-10 has 1925000") {
		t.Errorf("%s, want the account and the day", text)
	}
}

// TestREADME runs the commands of the READMEs.
func TestREADME(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"README.md", "../../README.md"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.README(path)
			if path == "README.md" {
				s.session(path)
			}
		})
	}
}

var (
	console = regexp.MustCompile("(?s)```console\n(.*?)```")
	instant = regexp.MustCompile(`[0-9-]{10}T[0-9:.]+Z`)
)

// session runs the curl commands in the console block of a README. Their answers contain times, which differ in each
// run. Where a later command contains such a time, session puts in the time from the answer of this run.
func (s *branch) session(path string) {
	s.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		s.Fatal(err)
	}
	block := console.FindStringSubmatch(string(text))
	if block == nil {
		s.Fatalf("%s has no console block", path)
	}
	replacements := []string{"localhost:8080", s.URL}
	for _, step := range strings.Split(block[1], "$ ")[1:] {
		command, want, _ := strings.Cut(step, "\n")
		command = strings.NewReplacer(replacements...).Replace(command)
		output, err := exec.CommandContext(s.Context(), "bash", "-c", command).CombinedOutput()
		got, want := strings.TrimSpace(string(output)), strings.TrimSpace(want)
		if err != nil || instant.ReplaceAllString(got, "TIME") != instant.ReplaceAllString(want, "TIME") {
			s.Fatalf("%s\nprinted %s%v\nwant    %s", command, got, err, want)
		}
		now := instant.FindAllString(got, -1)
		for i, then := range instant.FindAllString(want, -1) {
			replacements = append(replacements, then, now[i])
		}
	}
}
