package lease

import (
	"fmt"
	"testing"
)

// TestShare: the shares add up to all partitions and differ by one at most. Which members have one more differs from
// group to group.
func TestShare(t *testing.T) {
	t.Parallel()
	for _, members := range []int{1, 2, 3, 5, 8, 13} {
		var owners []string
		for n := range members {
			owners = append(owners, fmt.Sprintf("host:%d:x@place", n))
		}
		more := make(map[string]bool) // members that had one more than others
		for _, partitions := range []int{1, 2, 4, 7, 16, 1024} {
			for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"} {
				sum := 0
				for _, owner := range owners {
					due := share(Group{name, 1}, owners, owner, partitions)
					if least := partitions / members; due < least || due > least+1 {
						t.Errorf("%d partitions, %d members: a share of %d", partitions, members, due)
					} else if due > least {
						more[owner] = true
					}
					sum += due
				}
				if sum != partitions {
					t.Errorf("%d partitions, %d members: %d are shared out", partitions, members, sum)
				}
			}
		}
		if members > 1 && len(more) != members {
			t.Errorf("of %d members only %d ever have one partition more", members, len(more))
		}
		if due := share(Group{"a", 1}, owners, "somebody else", 16); due != 0 {
			t.Errorf("a process that is no member gets %d", due)
		}
	}
}
