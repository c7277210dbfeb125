package pgtest

import (
	"testing"
	"time"
)

// pollEvery is the time between two looks of [Until]. A look is often a statement or more: without the pause, waiting
// tests take the processor from the tests that work.
const pollEvery = 10 * time.Millisecond

// Until polls until a condition holds. The test ends with an error if the condition does not hold within a duration.
func Until(t testing.TB, within time.Duration, condition string, holds func() bool) {
	t.Helper()
	start := time.Now()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for !holds() {
		if time.Since(start) > within {
			t.Fatalf("did not happen within %s: %s", within, condition)
		}
		<-poll.C
	}
}
