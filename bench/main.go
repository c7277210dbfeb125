package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"time"

	"github.com/tidemark-es/tidemark/localpg"
)

// config says what is measured, and how long.
type config struct {
	short   bool
	seconds float64 // per measurement
	max     int     // up to how many events the log grows
	only    string  // matches the names of the sections to run
	out     string  // the folder of the report
	busy    int     // how many other processes keep processors busy
}

// bench is one run.
type bench struct {
	config
	*report
	meter
	url string // of the Postgres that is measured
}

// sections are measured in this order.
var sections = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"append", (*bench).append},
	{"peers", (*bench).peers},
	{"read", (*bench).read},
	{"growth", (*bench).growth},
	{"rebuild", (*bench).rebuildGrowth},
	{"latency", (*bench).latency},
	{"bystanders", (*bench).bystanders},
	{"correlation", (*bench).correlation},
	{"snapshots", (*bench).snapshots},
	{"projections", (*bench).projections},
}

func main() {
	if isSpinner() {
		spin()
	}
	var c config
	flag.BoolVar(&c.short, "short", false, "use tiny sizes, only to see that everything works")
	flag.Float64Var(&c.seconds, "seconds", 3, "how many seconds to measure each thing, and its reference")
	flag.IntVar(&c.max, "max", 5_000_000, "up to how many events the log grows")
	flag.StringVar(&c.only, "only", "", "run only the sections whose name matches this regular expression")
	flag.StringVar(&c.out, "out", ".", "write the report into this folder")
	flag.IntVar(&c.busy, "busy", 0, "let so many other processes keep processors busy during all measurements")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, c, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures and writes the report. It also prints each result to stdout at once.
func run(ctx context.Context, c config, stdout io.Writer) (err error) {
	if c.short {
		c.seconds, c.max = 0.1, min(c.max, 20_000)
	}
	if c.seconds < 0.1 || c.max < 10_000 || c.busy < 0 {
		return errors.New("-seconds must be at least 0.1, -max at least 10000 and -busy at least 0")
	}
	if err := os.MkdirAll(c.out, 0o755); err != nil {
		return err
	}
	only, err := regexp.Compile(c.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	server, err := localpg.Start(ctx, &localpg.Config{Durable: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	b := &bench{config: c, report: newReport(stdout), url: server.URL()}
	if err := b.describeMachine(ctx); err != nil {
		return err
	}
	calm, err := startSpinners(c.busy)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, calm()) }()
	for _, section := range sections {
		if !only.MatchString(section.name) {
			continue
		}
		if err := section.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", section.name, err)
		}
	}
	return b.write(c.out)
}

// duration returns how long one thing is measured.
func (b *bench) duration() time.Duration { return time.Duration(b.seconds * float64(time.Second)) }

// either returns long, or short in a short run.
func (b *bench) either(long, short int) int {
	if b.short {
		return short
	}
	return long
}
