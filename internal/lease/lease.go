package lease

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
)

// Group names what has partitions.
type Group struct {
	Name    string
	Version int
}

// ID names a partition.
type ID struct {
	Group     Group
	Partition int
}

// Lease is a partition of a group and the fencing token of its owner.
type Lease struct {
	Partition int
	Token     int64
}

// Plan is what the store says of a group. D is what else the store's user has to know of it.
type Plan[D any] struct {
	Group   Group
	Running bool     // its partitions are to have workers
	Members []string // the owners that run the group, in one order for all of them
	Free    int      // partitions without an owner
	Detail  D
}

// HasOthers reports whether processes other than that of an owner run the group.
func (p *Plan[D]) HasOthers(owner string) bool {
	for _, m := range p.Members {
		if m != owner {
			return true
		}
	}
	return false
}

// Store keeps leases and members. Each method is one round trip. Renew, Acquire and Inherit skip partitions that are
// locked; what else they wait for is bounded by ctx.
type Store[D any] interface {
	// Renew makes owner a member of some groups for a length of time, renews all its leases, and returns them and
	// the plans of all groups of this process that exist.
	Renew(ctx context.Context, owner string, length time.Duration, member, all []Group) (map[ID]int64, []Plan[D], error)
	// Acquire gives at most so many free partitions of a group to owner, each with a new token.
	Acquire(ctx context.Context, owner string, length time.Duration, group Group, most int) ([]Lease, error)
	// Release gives a partition of owner back.
	Release(ctx context.Context, owner string, id ID) error
	// LeaveGroup ends the membership of owner in a group.
	LeaveGroup(ctx context.Context, owner string, group Group) error
	// Leave gives some partitions of owner back and ends its memberships.
	Leave(ctx context.Context, owner string, ids []ID) error
	// Inherit frees everything that owners have who have ended.
	Inherit(ctx context.Context, dead []string) error
}

// Member is a group as this process runs it: what the process does as a member of the group. Its methods are called from one goroutine.
type Member[D any] interface {
	// Partitions is how many the group has in this process.
	Partitions() int
	// Joins reports whether this process is a member, as far as it knows before it has asked the store.
	Joins() bool
	// Planned learns what the store says, and reports whether this process may run the group.
	Planned(plan Plan[D]) bool
	// Missing learns that the store has no such group any more.
	Missing()
	// TakeLeft reports that this process does not run the group any more, so that others are told. It reports so once, until
	// the process has run the group again.
	TakeLeft() bool
	// Worker returns the worker of a partition that this process has got the lease of. The worker is run again
	// when it has returned although the partition is to be run.
	Worker(partition int) Worker
}

// Worker runs a partition.
type Worker interface {
	// Run runs the partition, whose token is at least the one given, until ctx is done, or until the partition is
	// not to be run for now.
	Run(ctx context.Context, token int64)
	// Outdate learns the present token of the partition. It may be called while Run runs.
	Outdate(token int64)
}

// NewOwner returns a name that no other process has, and that says at 3 a.m. which process it is:
// host:pid:number@place.
func NewOwner() string {
	host, _ := os.Hostname()
	return at(fmt.Sprintf("%s:%d:%.8s", host, os.Getpid(), uuid.NewString()))
}

// share returns how many of some partitions a member is to have. The partitions that cannot be divided go to
// other members from group to group.
func share(group Group, members []string, owner string, partitions int) int {
	rank := -1
	for n, m := range members {
		if m == owner {
			rank = n
		}
	}
	if rank < 0 {
		return 0
	}
	turn := 0
	for _, c := range group.Name {
		turn += int(c)
	}
	each := partitions / len(members)
	if (rank+turn)%len(members) < partitions%len(members) {
		each++
	}
	return each
}
