package servicetest

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/httpapi"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

// asProgram is an environment variable. When it is set, the test binary runs as the program.
const asProgram = "TIDEMARK_TEST_AS_PROGRAM"

// Main runs the tests; TestMain calls it with the program's own main.
func Main(m *testing.M, main func()) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	tidemarktest.Main(m)
}

// Program returns a command that runs the program as a process. Without databaseURL the program starts a Postgres.
func Program(t *testing.T, databaseURL string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self, args...)
	command.Env = append(os.Environ(), asProgram+"=1", "DATABASE_URL="+databaseURL)
	if databaseURL != "" {
		command.Env = append(command.Env, "TIDEMARK_POSTGRES=url")
	}
	return command
}

// Output runs a program to its end and returns its output. The exit status must be wantExit.
func Output(t *testing.T, command *exec.Cmd, wantExit int) string {
	t.Helper()
	text, err := command.CombinedOutput()
	if command.ProcessState == nil || command.ProcessState.ExitCode() != wantExit {
		t.Fatalf("%v: %v, want exit status %d\n%s", command.Args, err, wantExit, text)
	}
	return string(text)
}

// Texts in the logs of the programs.
var (
	opened  = regexp.MustCompile(`url=(http://\S+)`)
	closing = regexp.MustCompile(`closing`)
)

// ServeAndStop runs the program with a Postgres of its own, and calls use with a client. Then it sends the program a
// signal while a query waits for a read model. The program must end with exit status 0, and the query must be answered
// with 503 within 8 seconds.
func ServeAndStop(t *testing.T, signal os.Signal, query string, use func(*Client)) {
	t.Helper()
	command := Program(t, "", "-addr", "localhost:0")
	log, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(log)
	url := await(t, lines, opened)[1]
	transport := &http.Transport{ExpectContinueTimeout: time.Minute}
	client := &Client{T: t, URL: url, HTTP: &http.Client{Transport: transport}}
	use(client)
	// A query must not wait for a read model any longer when the program closes.
	arrived, waiting := make(chan struct{}), make(chan Answer, 1)
	trace := &httptrace.ClientTrace{Got100Continue: func() { close(arrived) }} // the handler reads the body
	go func() {
		late := &Client{T: t, URL: url, HTTP: client.HTTP, trace: trace}
		waiting <- late.Do("GET", query, "{}", "Expect", "100-continue", httpapi.PositionHeader, "999999999")
	}()
	<-arrived
	begun := time.Now()
	if err := command.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	await(t, lines, closing)
	for lines.Scan() {
	}
	if err := command.Wait(); err != nil {
		t.Errorf("stopped by %v: %v, want exit status 0", signal, err)
	}
	if a, took := <-waiting, time.Since(begun); a.Status != 503 || took > 8*time.Second {
		t.Errorf("a waiting query got %d %s after %v, want 503 at once", a.Status, a.Text, took)
	}
	transport.CloseIdleConnections()
}

// await reads lines until one matches.
func await(t *testing.T, lines *bufio.Scanner, pattern *regexp.Regexp) []string {
	t.Helper()
	for lines.Scan() {
		if match := pattern.FindStringSubmatch(lines.Text()); match != nil {
			return match
		}
	}
	t.Fatalf("the program ended before it logged %s", pattern)
	return nil
}

// KillWhen starts a program and kills it when farEnough returns true. It calls farEnough every 2 ms. The program must
// not end before.
func KillWhen(t *testing.T, command *exec.Cmd, farEnough func() bool) {
	t.Helper()
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !farEnough() {
		select {
		case <-ended:
			t.Fatalf("the program ended by itself:\n%s", &output)
		case <-look.C:
		}
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-ended
}

// README runs the curl commands in the sh blocks of a file, and compares their output with the comments after
// them. It changes nothing in a command except the address.
func (c *Client) README(path string) {
	c.Helper()
	steps := readSteps(c.T, path)
	if len(steps) < 3 {
		c.Fatalf("%d curl commands in %s, want at least 3", len(steps), path)
	}
	for _, step := range steps {
		shell := exec.CommandContext(c.Context(), "bash", "-c", strings.ReplaceAll(step.command, "localhost:8080", c.URL))
		got, err := shell.CombinedOutput()
		if err != nil || strings.TrimSpace(string(got)) != step.want {
			c.Errorf("%s\nprinted %s%v\nwant    %s", step.command, got, err, step.want)
		}
	}
}

type step struct{ command, want string }

// readSteps returns the curl commands of a file. The comments after a command are its output.
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
