package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
)

// spinVar is an environment variable. This command keeps one processor busy, and does nothing else, if it is set.
const spinVar = "TIDEMARK_BENCH_SPIN"

func isSpinner() bool { return os.Getenv(spinVar) != "" }

// spin keeps one processor busy until the standard input ends. That happens when the process that has started this one
// ends, in whatever way.
func spin() {
	runtime.GOMAXPROCS(1)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // an error is an end as well
		os.Exit(0)
	}()
	for { //nolint:staticcheck // to use the processor is the purpose
	}
}

// startSpinners starts other processes that keep n processors busy. Call calm to end them.
func startSpinners(n int) (calm func() error, err error) {
	var ends []func() error
	calm = func() (err error) {
		for _, end := range ends {
			err = errors.Join(err, end())
		}
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return calm, err
	}
	for range n {
		spinner := exec.Command(self)
		spinner.Env = append(os.Environ(), spinVar+"=1")
		spinner.Stderr = os.Stderr
		input, err := spinner.StdinPipe()
		if err == nil {
			err = spinner.Start()
		}
		if err != nil {
			return calm, errors.Join(fmt.Errorf("start a process that keeps a processor busy: %w", err), calm())
		}
		ends = append(ends, func() error { return errors.Join(input.Close(), spinner.Wait()) })
	}
	return calm, nil
}
