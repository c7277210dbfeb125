package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// spinsVar makes the test's program start spinners and wait until it is killed.
const spinsVar = "TIDEMARK_BENCH_TEST_SPINS"

// startAndWait starts spinners, prints their process ids, and waits until this process is killed.
func startAndWait() {
	if _, err := startSpinners(2); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(children(os.Getpid()), " "))
	select {}
}

// children returns the ids of the processes that a process has started.
func children(pid int) (ids []string) {
	for id := range everyProcess() {
		if readProcess(id).parent == pid {
			ids = append(ids, strconv.Itoa(id))
		}
	}
	return ids
}

// TestBusy: the processes use processor time until they are told to end, and then are gone.
func TestBusy(t *testing.T) {
	onLinux(t)
	calm, err := startSpinners(2)
	if err != nil {
		t.Fatal(err)
	}
	ids := children(os.Getpid())
	if len(ids) != 2 {
		t.Errorf("there are %d processes, want 2", len(ids))
	}
	for _, id := range ids {
		for readProcess(number(t, id)).busy < 100*time.Millisecond {
			runtime.Gosched()
		}
	}
	if err := calm(); err != nil {
		t.Error(err)
	}
	if left := children(os.Getpid()); len(left) > 0 {
		t.Errorf("the processes %v are left", left)
	}
}

// TestBusyRun: the report says how many processes were busy, and none is left.
func TestBusyRun(t *testing.T) {
	folder := t.TempDir()
	if err := run(t.Context(), config{short: true, max: 20_000, busy: 1, only: "^read$", out: folder}, t.Output()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "RESULTS.md"))
	if err != nil || !strings.Contains(string(text), "1 processes that are always busy") || !strings.Contains(string(text), "-busy 1") {
		t.Errorf("the report does not name the other load: %v, %s", err, text)
	}
	if left := children(os.Getpid()); len(left) > 0 {
		t.Errorf("the processes %v are left", left)
	}
}

// TestBusyKilled: the processes end when the command is killed.
func TestBusyKilled(t *testing.T) {
	onLinux(t)
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), spinsVar+"=1")
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Each of the processes holds the writing end of this pipe until it ends.
	ended, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ended.Close()
	command.Stderr = held
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	ids := strings.Fields(line)
	if err != nil || len(ids) != 2 {
		t.Errorf("started %q, %v, want two processes", line, err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait() // it was killed
	if err := ended.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(ended); err != nil {
		t.Errorf("the processes %v did not end: %v, %s", ids, err, text)
		for _, id := range ids {
			if process, err := os.FindProcess(number(t, id)); err == nil {
				_ = process.Kill()
			}
		}
	}
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
