package account_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/codec/codectest"
	"github.com/tidemark-es/tidemark/examples/bank/account"
)

// TestGolden: the events that any release has stored still have the same meaning.
func TestGolden(t *testing.T) {
	t.Parallel()
	booking := account.Booking{
		Money: account.Money{Amount: 1250, Currency: "CZK"}, Date: "2026-03-01", Description: "rent", Counterparty: "YZ-87144583",
	}
	codectest.Golden[account.Event](t, "testdata/events", account.Codec,
		account.Opened{Owner: "Ada", Currency: "CZK", Overdraft: 10000, Date: "2026-03-01"},
		account.Deposited{Booking: booking},
		account.Withdrawn{Booking: booking},
		account.TransferSent{Booking: booking, To: "2"},
		account.TransferReceived{Booking: booking, From: "1"},
		account.AccountClosed{Date: "2026-03-31"})
}
