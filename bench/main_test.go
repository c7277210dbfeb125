package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/localpg"
	"github.com/tidemark-es/tidemark/snapshot"
)

func TestMain(m *testing.M) {
	switch {
	case isSpinner():
		spin()
	case os.Getenv(spinsVar) != "":
		startAndWait()
	default:
		goleak.VerifyTestMain(m)
	}
}

// TestRun: a short run measures every section, passes its own checks, and reports every result.
func TestRun(t *testing.T) {
	folder := t.TempDir()
	if err := run(t.Context(), config{short: true, max: 20_000, out: folder}, t.Output()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "RESULTS.md"))
	if err != nil {
		t.Fatal(err)
	}
	results := string(text)
	for section, want := range map[string]int{
		"Targets": 18, "Append": 9, "Peers": 9, "Read": 3, "Growth": 4, "Growth of reading": 2, "Growth of storage": 2, "Latency": 2, "Bystanders": 2,
		"Loading with snapshots": 3, "Updating with snapshots": 3,
		"Projections that catch up": 7, "Projections together": 2, "Projections over a log that grows": 2,
		"Projections that keep up": 7, "Projections' lag": 7,
	} {
		_, rest, _ := strings.Cut(results, "\n## "+section+"\n")
		rest, _, _ = strings.Cut(rest, "\n## ")
		if n := strings.Count(rest, "\n|") - 2; n != want { // without the head of the table
			t.Errorf("%s has %d rows, want %d", section, n, want)
		}
		if strings.Contains(rest, "NaN") || strings.Contains(rest, "Inf") || regexp.MustCompile(`\| +0 \|`).MatchString(rest) {
			t.Errorf("%s has figures that are not numbers or are 0:\n%s", section, rest)
		}
	}
	for _, want := range []string{"fsync on", "append.svg", "growth.svg", "load.svg", "rebuild.svg", "storage.svg", "none by this command"} {
		if !strings.Contains(results, want) {
			t.Errorf("RESULTS.md does not contain %q", want)
		}
	}
	for file, lines := range map[string]int{"append.svg": 3, "growth.svg": 5, "load.svg": 2, "rebuild.svg": 2, "storage.svg": 3} {
		if n := countPaths(t, filepath.Join(folder, file)); n < lines {
			t.Errorf("%s has %d paths, want at least the %d lines", file, n, lines)
		}
	}
}

// TestRefused: a configuration that would measure nothing is refused before a server is started.
func TestRefused(t *testing.T) {
	t.Parallel()
	good := config{seconds: 1, max: 10_000, out: filepath.Join(t.TempDir(), "out")}
	for name, spoil := range map[string]func(*config){
		"-seconds": func(c *config) { c.seconds = 0 },
		"-max":     func(c *config) { c.max = 9999 },
		"-busy":    func(c *config) { c.busy = -1 },
		"-only":    func(c *config) { c.only = "(" },
	} {
		c := good
		spoil(&c)
		if err := run(t.Context(), c, io.Discard); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// countPaths parses a plot and counts its paths.
func countPaths(t *testing.T, file string) (n int) {
	t.Helper()
	plot, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer plot.Close()
	for decoder := xml.NewDecoder(plot); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if element, ok := token.(xml.StartElement); ok && element.Name.Local == "path" {
			n++
		}
	}
}

// server returns a benchmark of a Postgres that stops when the test ends.
func server(t *testing.T, config *localpg.Config) *bench {
	t.Helper()
	return &bench{report: newReport(t.Output()), url: start(t, config).URL()}
}

// start starts a Postgres and stops it when the test ends.
func start(t *testing.T, config *localpg.Config) *localpg.Server {
	t.Helper()
	config.URLVar = "NO_DATABASE_URL" // a server that DATABASE_URL names has settings of its own
	s, err := localpg.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestMissing: an event that was acknowledged and is not stored is an error.
func TestMissing(t *testing.T) {
	b := server(t, &localpg.Config{Durable: true})
	for name, lose := range map[string]func(*database){
		"events": func(db *database) { db.appended.Add(1) },
		"plain":  func(db *database) { db.inserted.Add(1) },
	} {
		err := b.database(t.Context(), func(db *database) error {
			for _, write := range []write{db.append(10), db.insert()} {
				if _, err := db.by(2, write)(t.Context(), time.Millisecond); err != nil {
					return err
				}
			}
			lose(db)
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "table "+name+" has") || strings.Count(err.Error(), "table") != 1 {
			t.Errorf("one of %s is missing, but the error is %v", name, err)
		}
	}
}

// TestMissingPeer: a peer that says that it has stored something, and has not, is an error.
func TestMissingPeer(t *testing.T) {
	b := server(t, &localpg.Config{Durable: true})
	b.seconds = 0.1
	b.section("Peers", "", append([]string{"peer", "writers"}, columns("INSERT")...)...)
	idle := func(context.Context, *database) (write, error) {
		return func(context.Context, eventstore.StreamID, eventstore.Version) (int, error) { return 1, nil }, nil
	}
	err := b.database(t.Context(), func(db *database) error { return b.peer(t.Context(), db, peer{"idle", "events", idle}) })
	if err == nil || !strings.Contains(err.Error(), "stored 0 events") {
		t.Errorf("the peer has stored nothing, but the error is %v", err)
	}
}

// TestNoSnapshots: a measurement of snapshots during which none is taken is an error.
func TestNoSnapshots(t *testing.T) {
	b := server(t, &localpg.Config{Durable: true})
	err := b.database(t.Context(), func(db *database) error {
		u, err := db.updater(t.Context(), 1, help{cache: true, snapshots: true}, &snapshot.Config{Policy: snapshot.Never()})
		if err != nil {
			return err
		}
		defer u.snapshots.Close()
		for u.updates.Load() < 10*perSnapshot {
			if _, err := u.update(t.Context(), 10*time.Millisecond); err != nil {
				return err
			}
		}
		if err := u.check(); err == nil || !strings.Contains(err.Error(), "too few snapshots") {
			t.Errorf("no snapshot was taken, but the error is %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDurable: a server that could lose acknowledged events is refused.
func TestDurable(t *testing.T) {
	for _, name := range durable {
		b := server(t, &localpg.Config{Durable: true, Settings: map[string]string{name: "off"}})
		if err := b.describeMachine(t.Context()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("with %s off: %v", name, err)
		}
	}
}

// TestCompare: the ratio is that of the events per second, and the first turn does not count.
func TestCompare(t *testing.T) {
	t.Parallel()
	first := true
	slow := func(_ context.Context, d time.Duration) (tally, error) {
		if first {
			first = false
			return tally{events: 1, took: time.Hour}, nil
		}
		return tally{events: 100, took: d}, nil
	}
	fast := func(_ context.Context, d time.Duration) (tally, error) { return tally{events: 300, took: d}, nil }
	c, err := compare(t.Context(), time.Second, slow, fast)
	if err != nil || c.ratio() != 3 || c.low != 3 || c.high != 3 || c.reference != (tally{events: 100 * turns, took: time.Second}) {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	sample := []time.Duration{3, 1, 2, 4}
	for p, want := range map[int]time.Duration{1: 1, 25: 1, 50: 2, 51: 3, 99: 4, 100: 4} {
		if got := percentile(sample, p); got != want {
			t.Errorf("p%d of %v is %v, want %v", p, sample, got, want)
		}
	}
}

// TestOnce: each writer writes, even if the time is over before a writer has begun.
func TestOnce(t *testing.T) {
	t.Parallel()
	one := func(context.Context, eventstore.StreamID, eventstore.Version) (int, error) { return 1, nil }
	if got, err := (meter{}).by(10, one)(t.Context(), 0); err != nil || got.events != 10 {
		t.Errorf("ten writers have written %d events, %v, want 10", got.events, err)
	}
}
