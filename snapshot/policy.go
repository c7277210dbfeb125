package snapshot

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
)

// Progress says what was appended to a stream since its latest snapshot, or since its beginning if it has no snapshot.
type Progress struct {
	Stream  eventstore.StreamID
	Version eventstore.Version // of the stream
	Events  int                // events since the snapshot
	Age     time.Duration      // of the first of these events by the clock of this process; 0 if that clock is behind
	Types   []string           // of these events, as they are stored, each once

	Loaded   int           // events that were folded to load the aggregate now
	LoadTime time.Duration // how long that load took
}

// A Policy reports whether it is time for a snapshot. It is asked after an update or a load if at least one
// event is not in a snapshot. It must be safe for concurrent use.
type Policy func(Progress) bool

// Every returns a policy that takes a snapshot after every n events. It panics when n is below 1.
func Every(n int) Policy {
	mustBe("Every", "n", n, n >= 1, "1 or more")
	return func(p Progress) bool { return p.Events >= n }
}

// OlderThan returns a policy that takes a snapshot when an event that is in no snapshot is older than age. It panics
// when age is negative.
func OlderThan(age time.Duration) Policy {
	mustBe("OlderThan", "age", age, age >= 0, "0 or more")
	return func(p Progress) bool { return p.Age > age }
}

// LoadedMoreThan returns a policy that takes a snapshot when a load had to fold more than n events. It panics when n is
// negative.
func LoadedMoreThan(n int) Policy {
	mustBe("LoadedMoreThan", "n", n, n >= 0, "0 or more")
	return func(p Progress) bool { return p.Loaded > n }
}

// LoadedSlowerThan returns a policy that takes a snapshot when a load took longer than limit. It panics when limit is
// negative.
func LoadedSlowerThan(limit time.Duration) Policy {
	mustBe("LoadedSlowerThan", "limit", limit, limit >= 0, "0 or more")
	return func(p Progress) bool { return p.LoadTime > limit }
}

// On returns a policy that takes a snapshot after events of these stored types, such as the end of a year.
func On(types ...string) Policy {
	types = slices.Clone(types)
	return func(p Progress) bool {
		return slices.ContainsFunc(p.Types, func(name string) bool { return slices.Contains(types, name) })
	}
}

// Never returns a policy that takes no snapshots. Snapshots that are already stored are still used.
func Never() Policy { return func(Progress) bool { return false } }

// AnyOf returns a policy that takes a snapshot when at least one of the policies does. It panics when one of them is
// nil.
func AnyOf(policies ...Policy) Policy {
	policies = given("AnyOf", policies)
	return func(p Progress) bool {
		return slices.ContainsFunc(policies, func(policy Policy) bool { return policy(p) })
	}
}

// AllOf returns a policy that takes a snapshot when all of the policies do. Without policies it takes none. It panics
// when one of them is nil.
func AllOf(policies ...Policy) Policy {
	policies = given("AllOf", policies)
	return func(p Progress) bool {
		return len(policies) > 0 && !slices.ContainsFunc(policies, func(policy Policy) bool { return !policy(p) })
	}
}

func mustBe(policy, option string, value any, ok bool, want string) {
	if !ok {
		panic(fmt.Sprintf("snapshot: %s: %s is %v: want %s", policy, option, value, want))
	}
}

// given returns a copy of policies, none of which may be nil.
func given(policy string, policies []Policy) []Policy {
	for n, p := range policies {
		if p == nil {
			panic(fmt.Sprintf("snapshot: %s: policy %d of %d is nil: pass a function", policy, n+1, len(policies)))
		}
	}
	return slices.Clone(policies)
}
