package snapshot

import "github.com/tidemark-es/tidemark/eventstore"

// Observer is told what a [Snapshotter] does, for metrics and traces. Its function may be nil, which costs nothing. It is
// called in the goroutine that saves, by several at a time, and saving waits for it, so it must neither block nor panic.
type Observer struct {
	// Save is called when a snapshot has been saved, or could not be taken or saved.
	Save func(done SaveDone)
}

// SaveDone is the end of saving a snapshot.
type SaveDone struct {
	Stream  eventstore.StreamID
	Version eventstore.Version
	Bytes   int // of the state; 0 if it could not be taken
	Err     error
}
