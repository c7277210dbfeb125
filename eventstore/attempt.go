package eventstore

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// attempt records the use of an idempotency key since [WithKey] put the key into a context. A key serves one commit
// of an attempt. A second commit would be answered with the receipts of the first one, and never be stored.
type attempt struct {
	mu      sync.Mutex
	now     usage
	found   []StreamID // streams of the commit that Receipts found under the key, nil if none
	strayed []StreamID // streams of the commit that was answered with the receipts of other streams, nil if none
	steps   map[string]*attempt
}

// step returns the attempt for a step. The same name gives the same attempt each time.
func (a *attempt) step(name string) *attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	one, ok := a.steps[name]
	if !ok {
		if a.steps == nil {
			a.steps = make(map[string]*attempt)
		}
		one = new(attempt)
		a.steps[name] = one
	}
	return one
}

// usage says which commit has the key, and the state of that commit.
type usage struct {
	state  state
	commit []Change
}

type state int

const (
	unused   state = iota
	running        // the commit is being stored
	doubtful       // its outcome is not known
	inTx           // the commit is stored if the caller's transaction is committed
	served         // the commit is stored
)

// KeyUse is the use of an idempotency key by one commit, see [Key.Use].
type KeyUse struct {
	key    Key
	commit []Change
	before usage
	exempt bool // nothing to record: the key has no attempt, or the commit that has the key is sent again
}

// Use claims the key for one commit, before the commit is stored. [KeyUse.End] ends the claim. Use is for
// implementations of another store, and for code that answers with the receipts of [Store.Receipts]. It returns a
// [KeySpentError] while another commit has the key: a commit that is being stored, is stored, or has an unknown
// outcome. After an unknown outcome a commit to the same streams may claim the key. Use is safe for concurrent use.
func (k Key) Use(commit ...Change) (*KeyUse, error) {
	if k.attempt == nil {
		return &KeyUse{key: k, exempt: true}, nil
	}
	u := &KeyUse{key: k, commit: withoutPayloads(commit)}
	a := k.attempt
	a.mu.Lock()
	defer a.mu.Unlock()
	u.before = a.now
	switch {
	case a.now.state != unused && sameEvents(a.now.commit, commit):
		u.exempt = true
		return u, nil
	case a.now.state == running, a.now.state == served,
		a.now.state == doubtful && len(commit) > 0 && !slices.Equal(streamsOf(a.now.commit), streamsOf(commit)):
		return nil, k.spent(streamsOf(a.now.commit), streamsOf(commit))
	}
	a.now = usage{running, u.commit}
	return u, nil
}

// End records the outcome of the commit. earlier is nil, unless the answer of the commit was the receipts of an
// earlier commit under the key: then it has the streams of the earlier commit. End returns err, or a [KeySpentError]
// when the answer belongs to another commit of this attempt.
func (u *KeyUse) End(earlier []StreamID, err error) error { return u.end(served, earlier, err) }

func (u *KeyUse) end(stored state, earlier []StreamID, err error) error {
	if u.exempt {
		return err
	}
	a := u.key.attempt
	a.mu.Lock()
	defer a.mu.Unlock()
	next, strayed := u.before.after(u.commit, stored, earlier, err)
	if strayed {
		if err = u.key.spent(a.strayed, streamsOf(u.commit)); a.strayed == nil {
			a.strayed, err = streamsOf(u.commit), nil // a handler that runs again may take another branch
		}
	}
	if err == nil && u.before.state == inTx && earlier != nil {
		err = u.key.spent(streamsOf(u.before.commit), streamsOf(u.commit))
	}
	a.now = next
	return err
}

// after returns the usage after the end of a commit, and whether the commit was answered with the receipts
// of other streams.
func (before usage) after(commit []Change, stored state, earlier []StreamID, err error) (_ usage, strayed bool) {
	switch {
	case errors.Is(err, ErrUnknownOutcome) && stored != inTx: // a lost transaction is rolled back
		return usage{doubtful, commit}, false
	case err != nil, earlier != nil && before.state == inTx:
		return before, false
	case earlier == nil:
		return usage{stored, commit}, false
	case len(commit) == 0, before.state == doubtful, slices.Equal(earlier, streamsOf(commit)):
		return usage{served, changesOf(earlier)}, false
	}
	return before, true
}

// Found notes the streams of the commit that [Store.Receipts] has found under the key. It is for implementations
// of another store.
func (k Key) Found(streams []StreamID) {
	if k.attempt == nil || streams == nil {
		return
	}
	k.attempt.mu.Lock()
	defer k.attempt.mu.Unlock()
	k.attempt.found = streams
}

// Answer claims the key for code that does not commit to these streams, but answers with the receipts of
// [Store.Receipts]. Pass no streams if they are not known. It returns a [KeySpentError] as [Key.Use] and [KeyUse.End]
// do.
func (k Key) Answer(streams ...StreamID) error {
	u, err := k.Use(changesOf(streams)...)
	if err != nil || u.exempt {
		return err
	}
	k.attempt.mu.Lock()
	found := k.attempt.found
	k.attempt.mu.Unlock()
	return u.End(found, nil)
}

// Repeats reports whether a commit to these streams may be answered with the receipts that are stored under the key.
// This is so if the attempt has no commit yet, or has a commit to the same streams whose outcome is not known. Code
// that decides before it commits calls [Store.Receipts] only if Repeats returns true.
func (k Key) Repeats(streams ...StreamID) bool {
	if k.attempt == nil {
		return true
	}
	k.attempt.mu.Lock()
	defer k.attempt.mu.Unlock()
	now := k.attempt.now
	return now.state == unused || now.state == doubtful && slices.Equal(streamsOf(now.commit), streams)
}

// Doubtful reports whether the attempt has a commit whose outcome is not known.
func (k Key) Doubtful() bool {
	if k.attempt == nil {
		return false
	}
	k.attempt.mu.Lock()
	defer k.attempt.mu.Unlock()
	return k.attempt.now.state == doubtful
}

func (k Key) spent(first, second []StreamID) error {
	return fmt.Errorf("eventstore: %w", &KeySpentError{Key: k.Name, First: first, Second: second})
}

// sameEvents reports whether two commits store events with the same ids in the same streams. Only ids that the caller
// has given count.
func sameEvents(a, b []Change) bool {
	return len(a) > 0 && slices.EqualFunc(a, b, func(a, b Change) bool {
		return a.Stream == b.Stream && len(a.Events) > 0 &&
			slices.EqualFunc(a.Events, b.Events, func(a, b Draft) bool { return a.ID == b.ID && a.ID != uuid.Nil })
	})
}

// withoutPayloads copies the streams and ids that sameEvents compares. The slices are the caller's, and the caller
// may put other events into them.
func withoutPayloads(commit []Change) []Change {
	copied := make([]Change, len(commit))
	for i, change := range commit {
		copied[i] = Change{Stream: change.Stream, Events: make([]Draft, len(change.Events))}
		for n, draft := range change.Events {
			copied[i].Events[n].ID = draft.ID
		}
	}
	return copied
}

func streamsOf(changes []Change) []StreamID {
	streams := make([]StreamID, len(changes))
	for i, change := range changes {
		streams[i] = change.Stream
	}
	return streams
}

func changesOf(streams []StreamID) []Change {
	changes := make([]Change, len(streams))
	for i, stream := range streams {
		changes[i].Stream = stream
	}
	return changes
}
