// Package service has the parts that a program around a store needs besides its domain: a pool over a migrated schema
// ([Connect]), projections that run beside its server ([Run]), and a server that finishes the requests under way
// ([Serve]). Each part is a few lines over the other packages and can be replaced alone.
//
// # Guarantees
//
//   - Order at the start: [Serve] inside [Run] takes no request before the tables of the read models exist.
//   - Order at the end: when ctx is done, the server first finishes the requests under way. The projections still run
//     then, so that a request that waits for its read model gets its answer. Then the projections stop.
//   - Nothing is left running when a function returns.
package service
