package account_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/examples/bank/account"
)

// TestSnapshot: with a snapshot at any point of a history of all event types, an account comes to the same state as
// without.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	aggregatetest.CheckSnapshot(t, account.Definition, everyEvent)
}

// TestApply: Apply has a case for every event.
func TestApply(t *testing.T) {
	t.Parallel()
	aggregatetest.CheckApply(t, account.Definition, everyEvent)
}

var everyEvent = []account.Event{
	opened(account.MaxAmount),
	deposited(account.MaxAmount),
	account.Withdrawn{Booking: booking(account.MaxAmount - 1)},
	account.TransferSent{Booking: booking(7), To: "other"},
	account.TransferReceived{Booking: booking(6), From: "other"},
	account.AccountClosed{Date: "2026-01-04"},
}

// TestSnapshotOfAny is TestSnapshot with random histories, also those that no decisions would have made.
func TestSnapshotOfAny(t *testing.T) {
	t.Parallel()
	event := rapid.Custom(func(t *rapid.T) account.Event {
		b := booking(rapid.Int64Range(1, account.MaxAmount).Draw(t, "amount"))
		return rapid.SampledFrom([]account.Event{
			account.Opened{
				Owner:     rapid.String().Draw(t, "owner"),
				Currency:  rapid.StringMatching(`[A-Z]{3}`).Draw(t, "currency"),
				Overdraft: rapid.Int64Range(0, account.MaxAmount).Draw(t, "overdraft"),
			},
			account.Deposited{Booking: b},
			account.Withdrawn{Booking: b},
			account.TransferSent{Booking: b, To: "other"},
			account.TransferReceived{Booking: b, From: "other"},
			account.AccountClosed{Date: "2026-01-04"},
		}).Draw(t, "event")
	})
	rapid.Check(t, func(r *rapid.T) {
		aggregatetest.CheckSnapshot(r, account.Definition, rapid.SliceOfN(event, 0, 20).Draw(r, "history"))
	})
}
