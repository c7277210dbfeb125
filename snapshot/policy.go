package snapshot

import (
	"slices"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Progress is what has become of a stream since its latest snapshot, or since its beginning if there is
// none.
type Progress struct {
	Stream  eventstore.StreamID
	Version eventstore.Version // the stream is at
	Events  int                // since the snapshot
	Age     time.Duration      // of the first of them by the clock of this process; 0 if that is not known
	Types   []string           // of them, each once, as they are stored

	Loaded   int           // events that were folded to load the aggregate now
	LoadTime time.Duration // that took
}

// A Policy reports whether it is time for a snapshot. It is asked after an update or a load if at least one
// event is not in a snapshot. It must be safe for concurrent use.
type Policy func(Progress) bool

// Every is for a snapshot after every n events, at least 1.
func Every(n int) Policy { return func(p Progress) bool { return p.Events >= max(n, 1) } }

// OlderThan is for a snapshot when there is an event without one that is older than that.
func OlderThan(age time.Duration) Policy { return func(p Progress) bool { return p.Age > age } }

// LoadedMoreThan is for a snapshot when more than n events had to be folded.
func LoadedMoreThan(n int) Policy { return func(p Progress) bool { return p.Loaded > n } }

// LoadedSlowerThan is for a snapshot when loading took longer than that.
func LoadedSlowerThan(limit time.Duration) Policy {
	return func(p Progress) bool { return p.LoadTime > limit }
}

// On is for a snapshot after events of these stored types, such as the end of a year.
func On(types ...string) Policy {
	types = slices.Clone(types)
	return func(p Progress) bool {
		return slices.ContainsFunc(p.Types, func(name string) bool { return slices.Contains(types, name) })
	}
}

// Never is for no snapshot: those that are there are used.
func Never() Policy { return func(Progress) bool { return false } }

// AnyOf is for a snapshot when one of the policies is.
func AnyOf(policies ...Policy) Policy {
	policies = slices.Clone(policies)
	return func(p Progress) bool {
		return slices.ContainsFunc(policies, func(policy Policy) bool { return policy(p) })
	}
}

// AllOf is for a snapshot when all of the policies are, and there is one.
func AllOf(policies ...Policy) Policy {
	policies = slices.Clone(policies)
	return func(p Progress) bool {
		return len(policies) > 0 && !slices.ContainsFunc(policies, func(policy Policy) bool { return !policy(p) })
	}
}
