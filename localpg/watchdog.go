//go:build linux || darwin || freebsd

package localpg

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// watchdog is a shell process. When its owner ends, it cleans up and then ends too. It runs in a session of its own, so
// that Ctrl-C does not reach it.
type watchdog struct {
	lifeline *os.File      // the watchdog's standard input: when it is closed, the watchdog cleans up
	done     chan struct{} // closed when the watchdog has ended
	err      error         // how the watchdog ended; read it after done
}

// watch starts script with args, as the user runAs if that is not nil. The watchdog and everything that it starts
// inherit lock, unless lock is nil.
func watch(script string, args []string, runAs *syscall.Credential, lock *os.File) (*watchdog, error) {
	// Both ends are close-on-exec: no other process that the owner starts can keep the lifeline open.
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open the watchdog's pipe: %w", err)
	}
	defer reader.Close()

	var complaints bytes.Buffer
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "watchdog"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C") // one locale for all messages
	cmd.Stdin = reader
	cmd.Stderr = &complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: runAs}
	if lock != nil {
		cmd.ExtraFiles = []*os.File{lock}
	}
	if err := cmd.Start(); err != nil {
		writer.Close()
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	w := &watchdog{lifeline: writer, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		if err := cmd.Wait(); err != nil {
			w.err = errors.Join(errors.New(strings.TrimSpace(complaints.String())), err)
		}
	}()
	return w, nil
}

// ended reports whether the watchdog has ended, and with it the server.
func (w *watchdog) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// stop makes the watchdog clean up, and waits until it has ended.
func (w *watchdog) stop() error {
	w.lifeline.Close()
	<-w.done
	return w.err
}
