package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/examples/internal/servicetest"
	"github.com/tidemark-es/tidemark/tidemarktest"
)

// TestREADME runs the commands of the README.
func TestREADME(t *testing.T) {
	t.Parallel()
	start(t).README("README.md")
}

// TestREADMESimulation: a simulation prints what the README says it prints.
func TestREADMESimulation(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	report := regexp.MustCompile("(?s)```\n(5000 orders.*?)```").FindSubmatch(readme)
	if report == nil {
		t.Fatal("the README does not show what a simulation prints")
	}
	want := strings.NewReplacer("…", ".+", "5000", "200").Replace(regexp.QuoteMeta(string(report[1])))
	got := servicetest.Output(t, servicetest.Program(t, tidemarktest.EmptyURL(t, nil), "simulate", "-orders", "200", "-workers", "16", "-seed", "1"), 0)
	if !regexp.MustCompile("(?m)^" + want).MatchString(got) {
		t.Errorf("%s\nwant\n%s", got, report[1])
	}
}

// TestREADMECode: the code that the README shows is the code that runs.
func TestREADMECode(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, pattern := range []string{"*.go", "*/*.go"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(readme, -1)
	for _, block := range blocks {
		if !strings.Contains(source.String(), string(block[1])) {
			t.Errorf("this is not in the code any more:\n%s", block[1])
		}
	}
	if len(blocks) < 5 {
		t.Errorf("the README shows %d pieces of code, want a tutorial", len(blocks))
	}
}
