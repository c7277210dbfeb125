package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// report collects the results, and prints each at once.
type report struct {
	stdout  io.Writer
	machine string          // a table
	body    strings.Builder // the sections
	widths  []int           // of the columns of the current table
	targets []target
	plots   []string // file names
}

// target is the least value that a ratio should have.
type target struct {
	name      string
	got, want float64
}

func newReport(stdout io.Writer) *report { return &report{stdout: stdout} }

// section begins a table.
func (r *report) section(title, text string, columns ...string) {
	r.print("\n## %s\n\n%s\n\n", title, text)
	r.widths = r.widths[:0]
	lines := make([]string, len(columns))
	for i, column := range columns {
		width := max(len(column), 9)
		lines[i] = strings.Repeat("-", width-1) + ":"
		if i == 0 { // the first column names the row
			width = 18
			lines[i] = strings.Repeat("-", width)
		}
		r.widths = append(r.widths, width)
	}
	r.row(columns...)
	r.row(lines...)
}

// row adds a line to the table. Missing cells are empty.
func (r *report) row(cells ...string) {
	cells = append(cells, make([]string, len(r.widths)-len(cells))...)
	for i, cell := range cells {
		width := r.widths[i]
		if i == 0 {
			width = -width // to the left
		}
		r.print("| %*s ", width, cell)
	}
	r.print("|\n")
}

func (r *report) print(format string, args ...any) {
	fmt.Fprintf(&r.body, format, args...)
	fmt.Fprintf(r.stdout, format, args...)
}

// progress prints a line that is not part of a section.
func (r *report) progress(format string, args ...any) {
	fmt.Fprintf(r.stdout, format+"\n", args...)
}

// target adds a target: the ratio got should be at least want.
func (r *report) target(name string, got, want float64) {
	r.targets = append(r.targets, target{name, got, want})
}

// cpuText explains the columns of processor time.
const cpuText = `
CPU is processor time in microseconds per event: of the client, and of all processes of Postgres. The CPU ratio
compares the sums of the two. It depends less on other load on the machine than the rates do.
`

// write writes the report into a folder.
func (r *report) write(folder string) error {
	sections := r.body.String()
	r.body.Reset()
	if len(r.targets) > 0 {
		r.section("Targets", "Ratios from the sections below: \"a to b\" is a divided by b.", "target", "at least", "measured", "")
		for _, t := range r.targets {
			met := "met"
			if t.got < t.want {
				met = "**missed**"
			}
			r.row(t.name, ratio(t.want), ratio(t.got), met)
		}
	}
	var text strings.Builder
	text.WriteString("# What was measured\n\nWritten by the program in this folder, see doc.go.\n\n" + r.machine + cpuText + r.body.String())
	for _, plot := range r.plots {
		fmt.Fprintf(&text, "\n![%s](%s)\n", strings.TrimSuffix(plot, ".svg"), plot)
	}
	text.WriteString(sections)
	return os.WriteFile(filepath.Join(folder, "RESULTS.md"), []byte(text.String()), 0o644)
}

// english groups digits by thousands.
var english = message.NewPrinter(language.English)

func whole(n int) string { return english.Sprintf("%d", n) }

func rate(t tally) string { return english.Sprintf("%.0f", t.rate()) }

func ratio(x float64) string { return english.Sprintf("%.2f", x) }

// columns are the heads of the cells of a comparison with a reference.
func columns(reference string) []string {
	return []string{"events/s", reference + "/s", "ratio", "of turns", "CPU", reference + " CPU", "CPU ratio"}
}

// cells returns the figures of a comparison, as many as columns.
func (c comparison) cells() []string {
	busy := "–"
	if r, ok := c.cpuRatio(); ok {
		busy = ratio(r)
	}
	return []string{rate(c.measured), rate(c.reference), ratio(c.ratio()), c.spread(), c.measured.perEvent(), c.reference.perEvent(), busy}
}

// spread returns the lowest and the highest ratio of a turn.
func (c comparison) spread() string { return ratio(c.low) + "–" + ratio(c.high) }

func millis(d time.Duration) string { return english.Sprintf("%.2f ms", inMillis(d)) }

func inMillis(d time.Duration) float64 { return float64(d) / 1e6 }
