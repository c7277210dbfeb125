package aggregate

import (
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// Config says how a repository retries conflicts, and what it begins with instead of the first event. Nil and
// the zero value are the defaults.
type Config struct {
	// MaxAttempts is how often a decision is tried in all; 0 means 10, 1 means no retry.
	MaxAttempts int
	// MaxDelay bounds the wait between two attempts, which starts at 1 ms and doubles; 0 means
	// 100 ms, and an hour is the most. Each wait is drawn at random from half to one and a half of that.
	MaxDelay time.Duration

	// Snapshots saves and finds the states of a repository's aggregates; nil means that each is folded
	// from its first event on. Share one between all repositories. With snapshots it is a mistake for a
	// decision to keep the state it was given, as it is to change it: what it makes of that is saved.
	Snapshots *snapshot.Snapshotter
	// CacheSize is how many aggregates a repository keeps in memory as [Repository.Update] has left them;
	// 0 means none. The next update decides on such a state without reading, and appends at its version,
	// so that it cannot write what events of others forbid: it conflicts, and is decided again on
	// what is stored. A refusal is checked too, and after an update with an idempotency key the next one
	// reads what that has stored. The rule of Snapshots holds as well. Each repository has a cache of its
	// own: make one per definition and share it. [Commit] uses none. A database that has gone back, as
	// after a failover to a standby that was behind, takes versions again that the cache knows otherwise:
	// then restart the process.
	CacheSize int

	// Observer is told of loads and conflicts; the zero value observes nothing.
	Observer Observer
}

// validate returns an [eventstore.InvalidError] that names a field and its value.
func (c *Config) validate() error {
	problem := ""
	switch {
	case c == nil:
	case c.MaxAttempts < 0:
		problem = fmt.Sprintf("Config.MaxAttempts is %d: want a number of attempts, or 0 for 10", c.MaxAttempts)
	case c.MaxDelay < 0 || c.MaxDelay > maxMaxDelay:
		problem = fmt.Sprintf("Config.MaxDelay is %s: want a duration up to %s, or 0 for 100ms", c.MaxDelay, maxMaxDelay)
	case c.CacheSize < 0:
		problem = fmt.Sprintf("Config.CacheSize is %d: want a number of aggregates, or 0 for no cache", c.CacheSize)
	}
	if problem == "" {
		return nil
	}
	return &eventstore.InvalidError{Reason: problem}
}

// maxMaxDelay bounds Config.MaxDelay.
const maxMaxDelay = time.Hour

// observer is told what a repository does.
func (c *Config) observer() Observer {
	if c == nil {
		return Observer{}
	}
	return c.Observer
}

// tries is how often a decision is tried in all.
func (c *Config) tries() uint {
	if c != nil && c.MaxAttempts > 0 {
		return uint(c.MaxAttempts)
	}
	return 10
}

// wait is how long to wait before the next one.
func (c *Config) wait() backoff.BackOff {
	maxDelay := 100 * time.Millisecond
	if c != nil && c.MaxDelay > 0 {
		maxDelay = c.MaxDelay
	}
	exponential := backoff.NewExponentialBackOff()
	exponential.InitialInterval = min(time.Millisecond, maxDelay)
	exponential.MaxInterval = maxDelay
	exponential.Multiplier = 2
	exponential.RandomizationFactor = 0.5
	return exponential
}
