package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// asBank in the environment makes the test binary be the program.
const asBank = "TIDEMARK_TEST_AS_BANK"

func TestMain(m *testing.M) {
	if os.Getenv(asBank) != "" {
		main()
		return
	}
	pgtest.Main(m)
}

// program returns the bank as a process of its own.
func program(t *testing.T, databaseURL string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self, args...)
	command.Env = append(os.Environ(), asBank+"=1", "DATABASE_URL="+databaseURL)
	if databaseURL != "" {
		command.Env = append(command.Env, "TIDEMARK_POSTGRES=url")
	}
	return command
}

// output runs the program to its end.
func output(t *testing.T, command *exec.Cmd, wantExit int) string {
	t.Helper()
	text, err := command.CombinedOutput()
	if command.ProcessState == nil || command.ProcessState.ExitCode() != wantExit {
		t.Fatalf("%v: %v, want exit status %d\n%s", command.Args, err, wantExit, text)
	}
	return string(text)
}

// TestServeAndStop runs the program with a Postgres of its own until it is interrupted.
func TestServeAndStop(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		command := program(t, "", "-addr", "localhost:0")
		log, err := command.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(log)
		s := &service{T: t, url: await(t, lines, opened)[1], client: http.DefaultClient}
		s.must(200, "GET", "/health", "")
		s.must(201, "POST", "/accounts", `{"owner":"Ada","currency":"EUR"}`)
		if err := command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		await(t, lines, closing)
		for lines.Scan() {
		}
		if err := command.Wait(); err != nil {
			t.Errorf("stopped by %v: %v, want exit status 0", signal, err)
		}
	}
}

// What the program says on its way.
var (
	opened  = regexp.MustCompile(`url=(http://\S+)`)
	closing = regexp.MustCompile(`closing`)
)

// await reads lines until one matches.
func await(t *testing.T, lines *bufio.Scanner, pattern *regexp.Regexp) []string {
	t.Helper()
	for lines.Scan() {
		if match := pattern.FindStringSubmatch(lines.Text()); match != nil {
			return match
		}
	}
	t.Fatalf("the program ended without saying %s", pattern)
	return nil
}

// TestOneDatabaseOnly: with two databases to choose from, the program does not guess.
func TestOneDatabaseOnly(t *testing.T) {
	t.Parallel()
	text := output(t, program(t, pgtest.URL(t), "-addr", "localhost:0", "-data", t.TempDir()), 1)
	if !strings.Contains(text, "DATABASE_URL") {
		t.Errorf("%s, want it to name DATABASE_URL", text)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"import"}, {"export", "x"}, {"import", "a", "b"}, {"-nonsense"}} {
		if text := output(t, program(t, "", args...), 2); !strings.Contains(text, "usage: bank") {
			t.Errorf("%v: %s, want the usage", args, text)
		}
	}
}

// writeStatement writes a file of n transactions on each of some accounts.
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
	path, url := writeStatement(t, accounts, each), pgtest.URL(t)
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
		command := program(t, url, "import", path)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = command.Wait()
			close(ended)
		}()
		look := time.NewTicker(5 * time.Millisecond)
		for events() < until {
			select {
			case <-look.C:
			case <-ended:
				t.Fatalf("the import ended by itself after %d events", events())
			}
		}
		look.Stop()
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-ended
	}
	if n := events(); n >= accounts*(each+1) {
		t.Fatalf("%d events: the import was not killed half-way", n)
	}
	for range 2 { // the second one finds nothing to do
		text := output(t, program(t, url, "import", path), 0)
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
	text := output(t, program(t, pgtest.EmptyURL(t), "import", "testdata/statement.csv"), 0)
	for _, want := range []string{"20 of 20 transactions", "3 accounts, 23 events", "reconciled 18 of 18 account-days"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nwant %q", text, want)
		}
	}
}

// TestImportRefuses: what is wrong with a file is said with its line, and nothing is imported.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	url := pgtest.URL(t)
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
		text := output(t, program(t, url, "import", path), 1)
		if !strings.Contains(text, test.want) || !strings.Contains(text, "nothing was imported") {
			t.Errorf("%s: %s, want %q", name, text, test.want)
		}
	}
	output(t, program(t, url, "import", filepath.Join(dir, "none")), 1)
	output(t, program(t, url, "import", dir), 1)
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

// TestReconcileFails: a balance that is not the file's is found, and said.
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
	text := output(t, program(t, pgtest.EmptyURL(t), "import", path), 1)
	if !strings.Contains(text, "reconciled 17 of 18") || !strings.Contains(text, "account 101 on 1995-01-10 has 1925000") {
		t.Errorf("%s, want the account and the day", text)
	}
}

// TestREADME runs the commands of the READMEs as they are written, but for the address, and
// compares what they print with what is written behind them.
func TestREADME(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"README.md", "../../README.md"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			steps := readSteps(t, path)
			if len(steps) < 3 {
				t.Fatalf("%d curl commands in %s, want some", len(steps), path)
			}
			s := start(t)
			for _, step := range steps {
				shell := exec.CommandContext(t.Context(), "bash", "-c", strings.ReplaceAll(step.command, "localhost:8080", s.url))
				got, err := shell.CombinedOutput()
				if err != nil || strings.TrimSpace(string(got)) != step.want {
					t.Errorf("%s\nprinted %s%v\nwant    %s", step.command, got, err, step.want)
				}
			}
		})
	}
}

type step struct{ command, want string }

// readSteps finds the curl commands in the sh blocks of a file; comments behind a command are
// what it prints.
func readSteps(t *testing.T, path string) (steps []step) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "curl ") {
				steps = append(steps, step{command: line})
			} else if want, ok := strings.CutPrefix(line, "# "); ok && len(steps) > 0 {
				steps[len(steps)-1].want += want
			}
		}
	}
	return steps
}
