// Package lease spreads partitions over processes and fences them.
//
// A group has partitions. For example, a projection at a version is a group. Each process that runs a group is a member
// of the group. The partitions of a group are divided among its members. A [Spreader] keeps this process's share of
// each group, and a worker for each partition of the share. Leases are stored behind the interface [Store]. The work is
// done behind the interface [Worker].
//
// # Guarantees
//
//   - A partition has one owner at a time, as far as the store can know. When a lease has expired, another process
//     takes it with a new fencing token. Everything that the former owner still does under its old token fails.
//   - Shares differ by one at most. Which members have one partition more differs from group to group.
//   - A process that ends gives its partitions back. A process that was killed loses them when its leases expire, or as
//     soon as another process of the same machine can prove that it has ended.
//   - A partition that an operator has locked is neither renewed nor taken, and does not hold up other partitions. A
//     tick is given up after five seconds, or after the length of a lease if that is shorter, whatever the store waits
//     for.
//   - No duration depends on a stored time that is further in the future than the length of a lease.
package lease
