// Package service has what a program around a store needs besides its domain: a pool over a migrated schema ([Connect]),
// projections that run beside its server ([Run]), and a server that finishes what it has begun ([Serve]). Each of them is
// a few lines over the other packages and can be replaced alone.
//
// # Guarantees
//
//   - Order at the start: [Serve] inside [Run] takes no request before the tables of the read models are there.
//   - Order at the end: when ctx is done, first the server finishes the requests under way, while the projections still
//     run, so that a request that waits for its read model gets its answer. Then the projections stop.
//   - Nothing is left running when a function returns.
package service
