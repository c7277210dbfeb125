package snapshot

import "github.com/tidemark-es/tidemark/eventstore"

// Observer is told what a [Snapshotter] does, for metrics and traces. A nil function costs nothing. The function runs
// in the goroutine that saves, and saving waits for it, so it must neither block nor panic. Several goroutines can call
// it at the same time.
type Observer struct {
	// Save is called when a snapshot has been saved, or could not be taken or saved.
	Save func(done SaveDone)
}

// SaveDone is the end of saving a snapshot.
type SaveDone struct {
	Stream  eventstore.StreamID
	Version eventstore.Version
	Bytes   int // of the state; 0 if the snapshot could not be taken
	Err     error
}
