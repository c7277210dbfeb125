package aggregate

import (
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// Config says how a repository retries conflicts, and whether it uses snapshots and a cache. Nil and the zero value are
// the defaults.
type Config struct {
	// MaxAttempts is how often a decision is tried in all; 0 means 10, 1 means no retry.
	MaxAttempts int
	// MaxDelay bounds the wait between two attempts. The wait starts at 1 ms and doubles. 0 means 100 ms, and the
	// maximum is one hour. Each actual wait is random, from 0.5 to 1.5 times the computed one.
	MaxDelay time.Duration

	// Snapshots saves and finds the states of a repository's aggregates; nil means that each is folded from its first
	// event. Share one between all repositories. With snapshots a decision must neither change the state that it is
	// given nor keep it, because that state is saved.
	Snapshots *snapshot.Snapshotter
	// CacheSize is how many aggregates a repository keeps in memory, in the state that [Repository.Update] has left
	// them; 0 means none. The next update decides on that state without reading, and appends at its version. If the
	// stream has later events by then, or other events because the database has gone back, as after a failover to a
	// standby that was behind, the append conflicts and the update decides again on the stored events. A refusal is
	// also checked against the stream. After an update with an idempotency key, the next update first reads the events
	// that were stored.
	//
	// As with Snapshots, a decision must neither change nor keep the state. Each repository has a cache of its own:
	// make one repository per definition and share it. [Commit] does not use the cache.
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

// observer returns Config.Observer, or the zero value if the config is nil.
func (c *Config) observer() Observer {
	if c == nil {
		return Observer{}
	}
	return c.Observer
}

// tries returns how often a decision is tried in all.
func (c *Config) tries() uint {
	if c != nil && c.MaxAttempts > 0 {
		return uint(c.MaxAttempts)
	}
	return 10
}

// wait returns the backoff between two attempts.
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
