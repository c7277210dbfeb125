package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// cpu is how long processors were busy: user and system time together.
type cpu struct {
	client time.Duration // this process
	server time.Duration // all processes of Postgres, 0 if unknown
}

func (c cpu) plus(other cpu) cpu  { return cpu{c.client + other.client, c.server + other.server} }
func (c cpu) minus(other cpu) cpu { return cpu{c.client - other.client, c.server - other.server} }

// meter measures the processor time of this process and of the server.
type meter struct {
	postmaster int // process id of the server, 0 if the server cannot be measured
}

// newMeter returns a meter for the server of a connection. The processor time of the server is unknown if the server
// runs on another machine or in a container, if its folder cannot be read, or if the system is not Linux.
func newMeter(ctx context.Context, conn *pgx.Conn) (meter, error) {
	var folder string
	var backend int
	if err := conn.QueryRow(ctx, `select current_setting('data_directory'), pg_backend_pid()`).Scan(&folder, &backend); err != nil {
		return meter{}, err
	}
	text, err := os.ReadFile(filepath.Join(folder, "postmaster.pid"))
	if err != nil {
		return meter{}, nil
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	// The numbers of another machine could be those of any process here.
	if err != nil || readProcess(backend).parent != pid {
		return meter{}, nil
	}
	return meter{postmaster: pid}, nil
}

// start begins a measurement. The function that it returns ends the measurement.
func (m meter) start() (used func() cpu) {
	// The time to look at the server counts on neither side.
	server := m.server()
	client := clientTime()
	return func() cpu {
		clientEnd := clientTime()
		return cpu{clientEnd, m.server()}.minus(cpu{client, server})
	}
}

// clientTime returns the processor time of this process since its start.
func clientTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(fmt.Errorf("getrusage: %w", err)) // it cannot fail for this process
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// server returns the processor time of the processes of the server: of the postmaster, of its children, and of its
// children that have ended.
func (m meter) server() (busy time.Duration) {
	if m.postmaster == 0 {
		return 0
	}
	postmaster := readProcess(m.postmaster)
	busy = postmaster.busy + postmaster.children
	for pid := range everyProcess() {
		if p := readProcess(pid); p.parent == m.postmaster {
			busy += p.busy
		}
	}
	return busy
}

// everyProcess returns the ids of all processes of this machine, and none on systems other than Linux.
func everyProcess() iter.Seq[int] {
	return func(yield func(int) bool) {
		folders, _ := filepath.Glob("/proc/[0-9]*") // its only error is that of a bad pattern
		for _, folder := range folders {
			if pid, err := strconv.Atoi(filepath.Base(folder)); err == nil && !yield(pid) {
				return
			}
		}
	}
}

// process is what Linux says about a process.
type process struct {
	parent   int
	busy     time.Duration // processor time of the process itself
	children time.Duration // processor time of its children that have ended and were waited for
}

// readProcess returns the zero value for a process that does not exist, and on systems other than Linux.
func readProcess(pid int) process {
	folder := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(folder, "stat"))
	if err != nil {
		return process{}
	}
	p, err := parseStat(string(stat))
	if err != nil {
		return process{}
	}
	// The file stat counts in hundredths of a second, which is too coarse for a turn. The file schedstat counts in
	// nanoseconds, but only the first thread. A process of Postgres has one thread that works.
	if schedstat, err := os.ReadFile(filepath.Join(folder, "schedstat")); err == nil {
		first, _, _ := strings.Cut(string(schedstat), " ")
		if nanoseconds, err := strconv.ParseInt(first, 10, 64); err == nil {
			p.busy = max(p.busy, time.Duration(nanoseconds))
		}
	}
	return p
}

// tick is the unit of the times in the file stat. It is the same on all usual builds of Linux.
const tick = time.Second / 100

var errStat = errors.New("not the stat file of a process")

// parseStat parses the file /proc/<pid>/stat, see proc(5).
func parseStat(text string) (p process, err error) {
	// The name of the program is in parentheses, and can contain spaces and parentheses.
	end := strings.LastIndex(text, ")")
	fields := strings.Fields(text[end+1:])
	if end < 0 || len(fields) < 15 {
		return p, errStat
	}
	number := func(field int) time.Duration { // counted from 1, as in proc(5)
		n, parseErr := strconv.ParseInt(fields[field-3], 10, 64)
		err = errors.Join(err, parseErr)
		return time.Duration(n)
	}
	p.parent = int(number(4))
	p.busy = (number(14) + number(15)) * tick
	p.children = (number(16) + number(17)) * tick
	return p, err
}

// perEvent returns the microseconds per event at client and server, as in "94 + 111".
func (t tally) perEvent() string {
	server := "–"
	if t.cpu.server > 0 {
		server = micros(t.cpu.server, t.events)
	}
	return micros(t.cpu.client, t.events) + " + " + server
}

func micros(d time.Duration, events int) string {
	us := float64(d) / 1e3 / float64(events)
	if us < 10 {
		return english.Sprintf("%.1f", us)
	}
	return english.Sprintf("%.0f", us)
}

// cpuRatio is the processor time per event of the measured work, client and server together, divided by that of the
// reference. It is false if a time of the server is unknown.
func (c comparison) cpuRatio() (float64, bool) {
	if c.measured.cpu.server <= 0 || c.reference.cpu.server <= 0 {
		return 0, false
	}
	per := func(t tally) float64 { return float64(t.cpu.client+t.cpu.server) / float64(t.events) }
	return per(c.measured) / per(c.reference), true
}
