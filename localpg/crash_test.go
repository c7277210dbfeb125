//go:build linux || darwin || freebsd

package localpg_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/localpg"
)

// A test binary for which helperVar is set is a program that starts a server, prints its URL, and waits until its
// standard input ends. Then it ends in the way that the variable names. dirVar is its Config.Dir.
const (
	helperVar = "LOCALPG_TEST_HELPER"
	dirVar    = "LOCALPG_TEST_DIR"
)

func help(mode string) {
	server, err := localpg.Start(context.Background(), &localpg.Config{URLVar: noURL, Dir: os.Getenv(dirVar)})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	fmt.Println(server.URL())
	switch mode {
	case "exit":
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	case "panic":
		_, _ = io.Copy(io.Discard, os.Stdin)
		panic("for a test")
	case "interrupt":
		<-ctx.Done()
		// The signal must not have reached the server.
		if _, err := pgx.Connect(context.Background(), server.URL()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode   string
		signal syscall.Signal // sent to the helper's whole process group; 0 for none
		want   string         // how the helper ends
	}{
		"exit without stop": {"exit", 0, "exit status 0"},
		"panic":             {"panic", 0, "exit status 2"},
		"killed":            {"exit", syscall.SIGKILL, "signal: killed"},
		"terminated":        {"exit", syscall.SIGTERM, "signal: terminated"},
		"interrupted":       {"interrupt", syscall.SIGINT, "exit status 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHelper(t, test.mode, "", testBinary(t), nil)
			left := traces(t, h.url)
			if test.signal != 0 {
				if err := syscall.Kill(-h.cmd.Process.Pid, test.signal); err != nil {
					t.Fatal(err)
				}
			}
			end := h.end
			if test.signal != 0 {
				end = h.wait // closing its standard input could end it before the signal does
			}
			if got := end(); got != test.want {
				t.Errorf("the helper's end: %s, want %s", got, test.want)
			}
			awaitGone(t, left)
		})
	}
}

// TestNobody runs a helper as an ordinary user when the tests run as root.
func TestNobody(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("we are an ordinary user already")
	}
	if os.Getenv("TIDEMARK_POSTGRES") == string(localpg.Container) {
		t.Skip("an ordinary user may not use Docker")
	}
	// The test binary is in a folder that only root may enter. Another process copies it, because a file that we had
	// open for writing could not be executed yet.
	home := openFolder(t)
	if err := os.Chown(home, 65534, 65534); err != nil { // the folder also keeps a download
		t.Fatal(err)
	}
	program := filepath.Join(home, "helper")
	if out, err := exec.Command("cp", testBinary(t), program).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h := startHelper(t, "exit", "", program, &syscall.Credential{Uid: 65534, Gid: 65534})
	left := traces(t, h.url)
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	h.end()
	awaitGone(t, left)
}

func testBinary(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// helper is a running helper program in a process group of its own.
type helper struct {
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
}

func startHelper(t *testing.T, mode, dir, program string, as *syscall.Credential) *helper {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), helperVar+"="+mode, dirVar+"="+dir)
	if as != nil {
		cmd.Env = append(cmd.Env, "HOME="+filepath.Dir(program), "XDG_CACHE_HOME=")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: as}
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
	t.Fatal("the helper got no server")
	return nil
}

// end makes the helper end, and returns how it ended.
func (h *helper) end() string {
	_ = h.stdin.Close()
	return h.wait()
}

// wait waits until the helper ends by itself, and returns how it ended.
func (h *helper) wait() string {
	_ = h.cmd.Wait() // the state below says how it ended
	return h.cmd.ProcessState.String()
}

// traces returns a function that names the first thing that is left of a server, or "" if nothing is left.
func traces(t *testing.T, address string) func() string {
	t.Helper()
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	home := parsed.Query().Get("host")
	if home == "" {
		return containerTraces(t, parsed.Port())
	}
	pid, err := strconv.Atoi(query(t, address, "select split_part(pg_read_file('postmaster.pid'), E'\\n', 1)"))
	if err != nil {
		t.Fatal(err)
	}
	return func() string {
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
			return fmt.Sprintf("process %d", pid)
		}
		if _, err := os.Lstat(home); !os.IsNotExist(err) {
			return home
		}
		return ""
	}
}

func containerTraces(t *testing.T, port string) func() string {
	t.Helper()
	out, err := exec.Command("docker", "ps", "--quiet", "--no-trunc", "--filter", "publish="+port).Output()
	id := strings.TrimSpace(string(out))
	if err != nil || id == "" {
		t.Fatalf("no container publishes port %s: %v", port, err)
	}
	return func() string {
		out, err := exec.Command("docker", "ps", "--all", "--quiet", "--filter", "id="+id).Output()
		if err != nil || len(out) > 0 {
			return fmt.Sprintf("container %s (%v)", id, err)
		}
		return ""
	}
}

// awaitGone waits until a watchdog, which outlives its owner, has cleaned up.
func awaitGone(t *testing.T, left func() string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for what := left(); what != ""; what = left() {
		select {
		case <-retry.C:
		case <-deadline:
			t.Fatalf("left behind: %s", what)
		}
	}
}

// openFolder returns a temporary folder that every user may enter, unlike
// t.TempDir.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
