package account

import "github.com/tidemark-es/tidemark/codec"

// Event is what can happen to an account. Only the types in this file are events.
type Event interface{ isAccountEvent() }

// Opened is the first event of every account.
type Opened struct {
	Owner     string `json:"owner"`
	Currency  string `json:"currency"`
	Overdraft int64  `json:"overdraft"` // in minor units
	Date      Date   `json:"date"`
}

// Booking is what all movements of money have in common.
type Booking struct {
	Money
	Date         Date   `json:"date"` // the day it counts for, chosen by the bank
	Description  string `json:"description,omitempty"`
	Counterparty string `json:"counterparty,omitempty"` // an account at another bank
}

// Deposited is money that came from outside the bank.
type Deposited struct{ Booking }

// Withdrawn is money that left the bank.
type Withdrawn struct{ Booking }

// TransferSent is one half of a transfer within the bank; the other half is a TransferReceived
// in the other account, stored in the same commit.
type TransferSent struct {
	Booking
	To string `json:"to"`
}

// TransferReceived is the other half of a TransferSent.
type TransferReceived struct {
	Booking
	From string `json:"from"`
}

// AccountClosed is the last event of an account.
type AccountClosed struct {
	Date Date `json:"date"`
}

func (Opened) isAccountEvent()           {}
func (Deposited) isAccountEvent()        {}
func (Withdrawn) isAccountEvent()        {}
func (TransferSent) isAccountEvent()     {}
func (TransferReceived) isAccountEvent() {}
func (AccountClosed) isAccountEvent()    {}

// Codec holds the names under which the events are stored. The names must never change.
var Codec = codec.New(
	codec.Of("account.opened", func(e Opened) Event { return e }),
	codec.Of("account.deposited", func(e Deposited) Event { return e }),
	codec.Of("account.withdrawn", func(e Withdrawn) Event { return e }),
	codec.Of("account.transfer_sent", func(e TransferSent) Event { return e }),
	codec.Of("account.transfer_received", func(e TransferReceived) Event { return e }),
	codec.Of("account.closed", func(e AccountClosed) Event { return e }),
)
