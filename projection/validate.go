package projection

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/internal/naming"
)

const (
	// maxPartitions bounds a projection's partitions. Each partition is a goroutine, and a row that is updated often.
	maxPartitions = 1024
	// maxVersion is the largest version: the column is an integer.
	maxVersion = 1<<31 - 1
	// maxDuration bounds timeouts and leases. Postgres does not accept timeouts of 25 days.
	maxDuration = 24 * time.Hour
	// maxBatchSize is the most events that a store reads at once.
	maxBatchSize = 100_000
	// minLease is the shortest lease: below it a process would lose its partitions between two heartbeats.
	minLease = 10 * time.Millisecond
)

// validate returns an error that names a field and its value.
func (o *Options) validate() error {
	switch {
	case o.Version < 1 || o.Version > maxVersion:
		return fmt.Errorf("Options.Version is %d: want 1 to %d, or 0 for 1", o.Version, maxVersion)
	case o.Partitions < 1 || o.Partitions > maxPartitions:
		return fmt.Errorf("Options.Partitions is %d: want 1 to %d, or 0 for 1", o.Partitions, maxPartitions)
	case o.Timeout < time.Millisecond || o.Timeout > maxDuration:
		return fmt.Errorf("Options.Timeout is %s: want 1ms to %s, or 0 for 30s", o.Timeout, maxDuration)
	case o.MaxAttempts < 1:
		return fmt.Errorf("Options.MaxAttempts is %d: want 1 or more, or 0 for 3", o.MaxAttempts)
	case o.MaxParked < 1:
		return fmt.Errorf("Options.MaxParked is %d: want 1 or more, or 0 for 10000", o.MaxParked)
	case o.StopAfter < 1:
		return fmt.Errorf("Options.StopAfter is %d: want a number of keys, or 0 for 10", o.StopAfter)
	case len(o.Tables) > 0 && strings.TrimSpace(o.DDL) == "":
		return fmt.Errorf("Options.Tables is %q, but Options.DDL does not make them: give the statements that do", o.Tables)
	case o.DDL != "" && len(o.Tables) == 0:
		return errors.New("Options.DDL is given, but Options.Tables is empty: name the tables that the statements make")
	}
	return o.validateTables()
}

func (o *Options) validateTables() error {
	for n, t := range o.Tables {
		parts := strings.Split(t, ".")
		switch {
		case len(parts) > 2 || slices.Contains(parts, "") || strings.ContainsAny(t, "{}\x00") || !utf8.ValidString(t):
			return fmt.Errorf("Options.Tables has %q: want the name of a table, or of a schema and a table, such as bank.accounts", t)
		case slices.Contains(o.Tables[:n], t):
			return fmt.Errorf("Options.Tables has %q twice", t)
		case !strings.Contains(o.DDL, "{"+t+"}"):
			return fmt.Errorf("Options.DDL does not make {%s}, which Options.Tables has: write the name in braces, such as create table {%s} (…)", t, t)
		}
	}
	return nil
}

// validName returns an error if a name cannot be the name of a projection.
func validName(name string) error {
	if name == "" {
		return errors.New("the name is empty: checkpoints are stored under it")
	}
	return naming.Validate("the name", name)
}

// validSources returns an error if a source is empty, or an event type has two sources.
func validSources(sources []source) error {
	if len(sources) == 0 {
		return errors.New("there is no source of events: pass one")
	}
	taken := make(map[string]bool)
	for n, s := range sources {
		if s.decode == nil {
			return fmt.Errorf("source %d of %d is empty: make it by On, OnKeyed, OnBatch, Fold, FoldKeys, Effect, EffectAll or EffectBatch, with codecs", n+1, len(sources))
		}
		if s.all && len(sources) > 1 {
			return errors.New("a source of all events must be the only one: events would be given to two sources")
		}
		for _, eventType := range s.types {
			if taken[eventType] {
				return fmt.Errorf("two sources have the event type %q: an event is given to one of them only", eventType)
			}
			taken[eventType] = true
		}
	}
	return nil
}

// mustHave panics if the codec of a source is nil or decodes no type, or one of the functions is nil.
func mustHave[E any](function string, c *codec.Codec[E], functions ...given) {
	if c == nil {
		panic(fmt.Sprintf("projection.%s: the codec is nil: pass one that codec.New returned", function))
	}
	if len(c.Types()) == 0 {
		panic(fmt.Sprintf("projection.%s: the codec has no event type that is not retired: add one with codec.Of", function))
	}
	for _, f := range functions {
		f.must(function, fmt.Sprintf("event types %q: ", c.Types()))
	}
}

// given is an argument, and whether it is nil.
type given struct {
	name  string
	isNil bool
}

func (g given) must(function, of string) {
	if g.isNil {
		panic(fmt.Sprintf("projection.%s: %s%s is nil: pass a function", function, of, g.name))
	}
}

// validate returns an error that names a field and its value.
func (c *Config) validate() error {
	switch {
	case c.BatchSize < 1 || c.BatchSize > maxBatchSize:
		return fmt.Errorf("Config.BatchSize is %d: want a number of events up to %d, or 0 for 1000", c.BatchSize, maxBatchSize)
	case c.Concurrency < 1:
		return fmt.Errorf("Config.Concurrency is %d: want a number of batches, or 0 for half of the pool's connections", c.Concurrency)
	case c.Lease < minLease || c.Lease > maxDuration:
		return fmt.Errorf("Config.Lease is %s: want %s to %s, or 0 for 10s", c.Lease, minLease, maxDuration)
	case c.MaxBackoff < 0 || c.MaxBackoff > maxDuration:
		return fmt.Errorf("Config.MaxBackoff is %s: want a duration up to %s, or 0 for 30s", c.MaxBackoff, maxDuration)
	case c.StallLag < 0:
		return fmt.Errorf("Config.StallLag is %d: want a number of events, 0 or more", c.StallLag)
	case c.Parked < 0:
		return fmt.Errorf("Config.Parked is %d: want a number of dead letters, or 0 for 100", c.Parked)
	case c.StallAfter < 0:
		return fmt.Errorf("Config.StallAfter is %s: want a duration, or 0 for 1m", c.StallAfter)
	}
	return nil
}
