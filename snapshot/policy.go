package snapshot

import (
	"fmt"
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

// Every is for a snapshot after every n events. It panics when n is below 1.
func Every(n int) Policy {
	mustBe("Every", "n", n, n >= 1, "1 or more")
	return func(p Progress) bool { return p.Events >= n }
}

// OlderThan is for a snapshot when there is an event without one that is older than that. It panics when age is
// negative.
func OlderThan(age time.Duration) Policy {
	mustBe("OlderThan", "age", age, age >= 0, "0 or more")
	return func(p Progress) bool { return p.Age > age }
}

// LoadedMoreThan is for a snapshot when more than n events had to be folded. It panics when n is negative.
func LoadedMoreThan(n int) Policy {
	mustBe("LoadedMoreThan", "n", n, n >= 0, "0 or more")
	return func(p Progress) bool { return p.Loaded > n }
}

// LoadedSlowerThan is for a snapshot when loading took longer than that. It panics when limit is negative.
func LoadedSlowerThan(limit time.Duration) Policy {
	mustBe("LoadedSlowerThan", "limit", limit, limit >= 0, "0 or more")
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

// AnyOf is for a snapshot when one of the policies is. It panics when one of them is nil.
func AnyOf(policies ...Policy) Policy {
	policies = given("AnyOf", policies)
	return func(p Progress) bool {
		return slices.ContainsFunc(policies, func(policy Policy) bool { return policy(p) })
	}
}

// AllOf is for a snapshot when all of the policies are, and there is one. It panics when one of them is nil.
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
