package eventstore

import (
	"context"
	"time"
)

// Observer has functions that a store calls for metrics and traces. Each function may be nil, which costs nothing. A
// function is called in the goroutine that does the work, and the work waits for it, so it must neither block nor
// panic. Several goroutines may call it at a time. It must not change its arguments, nor keep their slices.
type Observer struct {
	// Append is called at the end of every [Store.Append] and [Store.Commit], with the context of the caller.
	Append func(ctx context.Context, done AppendDone)
	// Group is called when a group of commits has been written, or has failed as a whole.
	Group func(done GroupDone)
}

// AppendDone describes a commit that has ended.
type AppendDone struct {
	Changes  []Change      // as the caller gave them
	Receipts []Receipt     // one for each change; none after an error
	Took     time.Duration // including the wait in the queue
	Err      error         // a [ConflictError] if a stream was not at its expected version
}

// GroupDone describes the write of a group: one transaction for one or more commits.
type GroupDone struct {
	Commits, Events int
	Bytes           int           // payloads and metadata
	Took            time.Duration // from sending the group to its answer
	Err             error         // of the whole group: the group is written again in smaller groups, or its callers get the error
}
