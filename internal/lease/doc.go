// Package lease spreads partitions over processes and fences them.
//
// A group is what has partitions: a projection at a version, for example. Each process that runs a group is a
// member of the group. A [Spreader] keeps this process's share of the partitions of each group, counted over the
// members, and a worker for each of them. Where leases are stored is behind the interface [Store]; what a worker
// does is behind [Worker].
//
// # Guarantees
//
//   - A partition has one owner at a time, as far as the store can know: a lease that has expired is taken by
//     another process, with a new fencing token. What the former owner still does under its token fails.
//   - Shares differ by one at most. The partitions that cannot be divided go to other members from group to group.
//   - A process that ends gives its partitions back. A process that was killed loses them when its leases expire,
//     or at once if another process of the same machine can prove that it has ended.
//   - A partition that an operator has locked is neither renewed nor stolen, and holds up no other one. A tick is
//     given up after five seconds, whatever the store waits for.
//   - No duration depends on a stored time that lies further in the future than a lease is long.
package lease
