package pgtest_test

import (
	"bufio"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/internal/pgtest"
)

// helperVar tells a test binary to run TestHelper. Its value says how TestHelper ends.
const helperVar = "PGTEST_TEST_HELPER"

// TestHelper runs in a test binary that another test starts: it gets a database, prints its URL, and ends when its
// standard input ends.
func TestHelper(t *testing.T) {
	mode := os.Getenv(helperVar)
	if mode == "" {
		t.Skip("runs in test binaries that other tests start")
	}
	fmt.Println("\n" + pgtest.URL(t))
	_, _ = io.Copy(io.Discard, os.Stdin)
	if mode == "panic" {
		panic("for a test")
	}
}

func TestDeadRunsAreSwept(t *testing.T) {
	t.Parallel()
	// Each run is connected to a database of its own: this must not matter.
	shared := func() string { return "TEST_DATABASE_URL=" + pgtest.EmptyURL(t) }
	dead := startHelper(t, "hold", "TIDEMARK_POSTGRES=url", shared())
	living := startHelper(t, "hold", "TIDEMARK_POSTGRES=url", shared())
	if err := dead.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	dead.end()
	conn := connect(t, pgtest.EmptyURL(t))
	if !exists(t, conn, dead.database()) {
		t.Fatal("the killed run left nothing to sweep")
	}
	// Postgres notices that a client was killed when it next reads from the client. That is soon, but it can be after
	// our first look.
	pgtest.Until(t, 30*time.Second, dead.database()+" is swept", func() bool {
		startHelper(t, "hold", "TIDEMARK_POSTGRES=url", shared()).end()
		return !exists(t, conn, dead.database())
	})
	if !exists(t, conn, living.database()) {
		t.Errorf("%s was swept while its run lives", living.database())
	}
	if got := living.end(); got != "exit status 0" {
		t.Errorf("the living run: %s", got)
	}
	if exists(t, conn, living.database()) {
		t.Errorf("%s outlived its run", living.database())
	}
}

func TestPanicLeavesNoServer(t *testing.T) {
	t.Parallel()
	source := os.Getenv("TIDEMARK_POSTGRES")
	if source == "url" {
		source = ""
	}
	h := startHelper(t, "panic", "TEST_DATABASE_URL=", "TIDEMARK_POSTGRES="+source)
	if got := h.end(); got != "exit status 2" {
		t.Errorf("the helper's end: %s", got)
	}
	pgtest.Until(t, 30*time.Second, h.url+" is gone", func() bool { return !h.serverLeft(t) })
}

// helper is another test binary, which runs TestHelper.
type helper struct {
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
}

func startHelper(t *testing.T, mode string, env ...string) *helper {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run=^TestHelper$")
	cmd.Env = append(append(os.Environ(), helperVar+"="+mode), env...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &helper{cmd: cmd, stdin: stdin}
	t.Cleanup(func() { h.end() })
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "postgres://") {
			h.url = lines.Text()
			return h
		}
		t.Log(lines.Text())
	}
	t.Fatal("the helper got no database")
	return nil
}

// end makes the helper end, and returns how it ended.
func (h *helper) end() string {
	_ = h.stdin.Close()
	_ = h.cmd.Wait() // the state below says how it ended
	return h.cmd.ProcessState.String()
}

// database returns the name of the helper's database.
func (h *helper) database() string { return databaseName.FindString(h.url) }

var databaseName = regexp.MustCompile(`tidemark_test_[0-9a-f]{8}_[0-9]+`)

// serverLeft reports whether the server still answers, or its folder still exists.
func (h *helper) serverLeft(t *testing.T) bool {
	t.Helper()
	parsed, err := url.Parse(h.url)
	if err != nil {
		t.Fatal(err)
	}
	if folder := parsed.Query().Get("host"); folder != "" {
		_, err := os.Lstat(folder)
		return err == nil
	}
	conn, err := pgx.Connect(t.Context(), h.url)
	if err != nil {
		return false
	}
	_ = conn.Close(t.Context())
	return true
}

func exists(t *testing.T, conn *pgx.Conn, database string) bool {
	t.Helper()
	var found bool
	err := conn.QueryRow(t.Context(), "select exists (select from pg_database where datname = $1)", database).Scan(&found)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
