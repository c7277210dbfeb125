package lease

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
)

// Group names a set of partitions.
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

// Plan is what the store knows about a group. D is the type of further details for the code that uses the store.
type Plan[D any] struct {
	Group   Group
	Running bool     // its partitions must have workers
	Members []string // the owners that run the group, in the same order in every process
	Free    int      // partitions without an owner
	Detail  D
}

// HasOthers reports whether other processes than owner run the group.
func (p *Plan[D]) HasOthers(owner string) bool {
	for _, m := range p.Members {
		if m != owner {
			return true
		}
	}
	return false
}

// Store keeps leases and members. Each method is one round trip. Renew, Acquire and Inherit skip partitions that are
// locked. ctx bounds every other wait.
type Store[D any] interface {
	// Renew makes owner a member of the groups in member for a length of time, and renews all its leases. It returns
	// these leases with their tokens, and the plans of those groups in all that exist.
	Renew(ctx context.Context, owner string, length time.Duration, member, all []Group) (map[ID]int64, []Plan[D], error)
	// Acquire gives owner at most so many free partitions of a group, each with a new token.
	Acquire(ctx context.Context, owner string, length time.Duration, group Group, most int) ([]Lease, error)
	// Release gives a partition of owner back.
	Release(ctx context.Context, owner string, id ID) error
	// LeaveGroup ends the membership of owner in a group.
	LeaveGroup(ctx context.Context, owner string, group Group) error
	// Leave gives some partitions of owner back and ends its memberships.
	Leave(ctx context.Context, owner string, ids []ID) error
	// Inherit frees everything that belongs to owners that have ended.
	Inherit(ctx context.Context, dead []string) error
}

// Member is a group as this process runs it. Its methods are called from one goroutine.
type Member[D any] interface {
	// Partitions returns how many partitions the group has in this process.
	Partitions() int
	// Joins reports whether this process is a member, as far as the process knows before it has asked the store.
	Joins() bool
	// Planned receives the plan of the store, and reports whether this process may run the group.
	Planned(plan Plan[D]) bool
	// Missing is called when the store has no such group any more.
	Missing()
	// TakeLeft reports that this process does not run the group any more and must tell the other processes. It reports
	// this once. It can report it again when the process has run the group again.
	TakeLeft() bool
	// Worker returns the worker of a partition whose lease this process has. A worker that has returned is run again if
	// the partition must run.
	Worker(partition int) Worker
}

// Worker runs a partition.
type Worker interface {
	// Run runs the partition until ctx is done, or until the partition must not run for now. The partition's token is
	// at least the one given.
	Run(ctx context.Context, token int64)
	// Outdate tells the worker the present token of the partition. It may be called while Run runs.
	Outdate(token int64)
}

// NewOwner returns a name that no other process has. It shows an operator which process it is: host:pid:number@place.
func NewOwner() string {
	host, _ := os.Hostname()
	return at(fmt.Sprintf("%s:%d:%.8s", host, os.Getpid(), uuid.NewString()))
}

// share returns how many partitions a member must have. If the partitions cannot be divided evenly, some members have
// one more than the others. Which members these are differs from group to group.
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
