// Package account is the bank's aggregate: the state of an account, and its decisions.
package account

import "github.com/tidemark-es/tidemark/aggregate"

// Account is the state of one account: what its decisions need to know, and nothing else. Its
// fields are exported, so that a snapshot holds all of it as JSON.
type Account struct {
	Owner     string
	Currency  string
	Overdraft int64  // how far below zero the balance may go, in minor units such as cents
	Balance   int64  // in minor units
	Status    Status // empty if it was never opened
}

// Definition says how an account is made of its events.
var Definition = aggregate.Define[Account]("account", Codec)

// Apply changes the state by one event. It cannot refuse an event, because the event has already happened.
func (a *Account) Apply(event Event) {
	switch e := event.(type) {
	case Opened:
		*a = Account{Owner: e.Owner, Currency: e.Currency, Overdraft: e.Overdraft, Status: Open}
	case Deposited:
		a.Balance += e.Amount
	case Withdrawn:
		a.Balance -= e.Amount
	case TransferSent:
		a.Balance -= e.Amount
	case TransferReceived:
		a.Balance += e.Amount
	case AccountClosed:
		a.Status = Closed
	}
}

// Open opens the account.
func (a *Account) Open(e Opened) ([]Event, error) {
	if a.Status != "" {
		return nil, ErrExists
	}
	return []Event{e}, nil
}

// Deposit puts money into the account.
func (a *Account) Deposit(b Booking) ([]Event, error) {
	if err := a.canReceive(b.Money); err != nil {
		return nil, err
	}
	return []Event{Deposited{b}}, nil
}

// Withdraw takes money out of the account.
func (a *Account) Withdraw(b Booking) ([]Event, error) {
	if err := a.canPay(b.Money); err != nil {
		return nil, err
	}
	return []Event{Withdrawn{b}}, nil
}

// Send takes money out of the account for another account of this bank.
func (a *Account) Send(to string, b Booking) ([]Event, error) {
	if err := a.canPay(b.Money); err != nil {
		return nil, err
	}
	return []Event{TransferSent{b, to}}, nil
}

// Receive puts money into the account that another account of this bank has sent.
func (a *Account) Receive(from string, b Booking) ([]Event, error) {
	if err := a.canReceive(b.Money); err != nil {
		return nil, err
	}
	return []Event{TransferReceived{b, from}}, nil
}

// Close closes the account, which must be empty.
func (a *Account) Close(e AccountClosed) ([]Event, error) {
	if err := a.canClose(); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}
