package eventstore

import (
	"context"
	"time"
)

// Observer is told what a store does, for metrics and traces. Each function may be nil, which costs nothing. They are
// called in the goroutine that does the work, by several goroutines at a time, and the work waits for them, so they must neither block nor panic. They must
// not change what they are given, nor keep the slices.
type Observer struct {
	// Append is called at the end of every [Store.Append] and [Store.Commit], with the context of the caller.
	Append func(ctx context.Context, done AppendDone)
	// Group is called when a group of commits has been written, or has failed as a whole.
	Group func(done GroupDone)
}

// AppendDone is the end of a commit.
type AppendDone struct {
	Changes  []Change      // as the caller gave them
	Receipts []Receipt     // one for each change; none after an error
	Took     time.Duration // waiting for a place in a group included
	Err      error         // a [ConflictError] if a stream was not at its expected version
}

// GroupDone is the end of a transaction that several commits have shared.
type GroupDone struct {
	Commits, Events int
	Bytes           int           // payloads and metadata
	Took            time.Duration // from sending the group to its answer
	Err             error         // of the whole group: it is written again in smaller groups, or its callers are told
}
