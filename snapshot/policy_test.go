package snapshot_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/snapshot"
)

func TestPolicies(t *testing.T) {
	t.Parallel()
	yes := func(snapshot.Progress) bool { return true }
	no := snapshot.Never()
	for name, test := range map[string]struct {
		policy snapshot.Policy
		due    []snapshot.Progress
		not    []snapshot.Progress
	}{
		"every 3": {
			snapshot.Every(3),
			[]snapshot.Progress{{Events: 3}, {Events: 4}, {Events: 1000}},
			[]snapshot.Progress{{}, {Events: 1}, {Events: 2}, {Events: 2, Version: 3, Loaded: 3, Age: time.Hour}},
		},
		"every 1": {
			snapshot.Every(1),
			[]snapshot.Progress{{Events: 1}},
			[]snapshot.Progress{{}},
		},
		"older than": {
			snapshot.OlderThan(time.Hour),
			[]snapshot.Progress{{Age: time.Hour + 1}},
			[]snapshot.Progress{{}, {Age: time.Hour}, {Age: -time.Hour}, {LoadTime: 2 * time.Hour, Events: 9}},
		},
		"loaded more than": {
			snapshot.LoadedMoreThan(50),
			[]snapshot.Progress{{Loaded: 51}},
			[]snapshot.Progress{{}, {Loaded: 50}, {Events: 51}},
		},
		"loaded slower than": {
			snapshot.LoadedSlowerThan(time.Millisecond),
			[]snapshot.Progress{{LoadTime: time.Millisecond + 1}},
			[]snapshot.Progress{{}, {LoadTime: time.Millisecond}, {Age: time.Hour}},
		},
		"on": {
			snapshot.On("year.ended", "closed"),
			[]snapshot.Progress{{Types: []string{"closed"}}, {Types: []string{"opened", "year.ended"}}},
			[]snapshot.Progress{{}, {Types: []string{"opened"}}, {Types: []string{"Closed", "year", "year.ended2", ""}}},
		},
		"on nothing": {snapshot.On(), nil, []snapshot.Progress{{}, {Types: []string{"", "closed"}}}},
		"never":      {no, nil, []snapshot.Progress{{}, {Events: 1 << 30, Age: 1 << 60, Loaded: 1 << 30, LoadTime: 1 << 60, Types: []string{"x"}}}},
		"any of": {
			snapshot.AnyOf(snapshot.Every(3), snapshot.On("closed")),
			[]snapshot.Progress{{Events: 3}, {Events: 1, Types: []string{"closed"}}, {Events: 3, Types: []string{"closed"}}},
			[]snapshot.Progress{{}, {Events: 2, Types: []string{"opened"}}},
		},
		"any of none": {snapshot.AnyOf(), nil, []snapshot.Progress{{}, {Events: 1 << 30}}},
		"all of": {
			snapshot.AllOf(snapshot.Every(3), snapshot.On("closed")),
			[]snapshot.Progress{{Events: 3, Types: []string{"closed"}}},
			[]snapshot.Progress{{}, {Events: 3}, {Events: 2, Types: []string{"closed"}}},
		},
		"all of none":    {snapshot.AllOf(), nil, []snapshot.Progress{{}, {Events: 1 << 30}}},
		"all of yes, no": {snapshot.AllOf(yes, no), nil, []snapshot.Progress{{}}},
		"any of no, yes": {snapshot.AnyOf(no, yes), []snapshot.Progress{{}}, nil},
		"nested":         {snapshot.AllOf(yes, snapshot.AnyOf(no, yes)), []snapshot.Progress{{}}, nil},
	} {
		for _, p := range test.due {
			if !test.policy(p) {
				t.Errorf("%s: no snapshot for %+v", name, p)
			}
		}
		for _, p := range test.not {
			if test.policy(p) {
				t.Errorf("%s: a snapshot for %+v", name, p)
			}
		}
	}
}

// TestPoliciesCopy: a policy does not change with the slice that it was made from.
func TestPoliciesCopy(t *testing.T) {
	t.Parallel()
	yes := snapshot.Policy(func(snapshot.Progress) bool { return true })
	types, policies := []string{"closed"}, []snapshot.Policy{yes}
	made := map[string]snapshot.Policy{"On": snapshot.On(types...), "AnyOf": snapshot.AnyOf(policies...), "AllOf": snapshot.AllOf(policies...)}
	types[0], policies[0] = "opened", snapshot.Never()
	for name, policy := range made {
		if !policy(snapshot.Progress{Types: []string{"closed"}}) {
			t.Errorf("%s has changed", name)
		}
	}
}

// Policies are functions that can be combined. This policy takes a snapshot at the end of a year, after 500 events, and
// when loading became slow and at least 10 events are new.
func ExampleAnyOf() {
	policy := snapshot.AnyOf(
		snapshot.On("account.year_ended"),
		snapshot.Every(500),
		snapshot.AllOf(snapshot.LoadedSlowerThan(20*time.Millisecond), snapshot.Every(10)),
	)
	for _, progress := range []snapshot.Progress{
		{Events: 3, Types: []string{"account.deposited"}},
		{Events: 3, Types: []string{"account.deposited", "account.year_ended"}},
		{Events: 500},
		{Events: 40, LoadTime: 30 * time.Millisecond},
		{Events: 3, LoadTime: 30 * time.Millisecond},
	} {
		fmt.Println(policy(progress))
	}
	// Output:
	// false
	// true
	// true
	// true
	// false
}
