package account

import (
	"errors"
	"fmt"
)

// The errors of an account, one for each rule that a command can break.
var (
	ErrUnknown           = errors.New("there is no such account")
	ErrExists            = errors.New("the account has been opened before")
	ErrClosed            = errors.New("the account is closed")
	ErrNotEmpty          = errors.New("the account is not empty")
	ErrInsufficientFunds = errors.New("insufficient funds")
	ErrTooMuch           = errors.New("the account cannot hold so much")
	ErrSameAccount       = errors.New("an account cannot transfer to itself")
	ErrAmount            = errors.New("invalid amount")
	ErrCurrency          = errors.New("invalid currency")
	ErrDate              = errors.New("invalid date")
	ErrText              = errors.New("invalid text")
	ErrID                = errors.New("invalid account id")
)

// InsufficientFundsError says how much could be taken out, in minor units.
type InsufficientFundsError struct{ Available int64 }

// Error names the amount that is available.
func (e *InsufficientFundsError) Error() string {
	return fmt.Sprintf("%v: %d are available", ErrInsufficientFunds, e.Available)
}

// Unwrap returns [ErrInsufficientFunds].
func (e *InsufficientFundsError) Unwrap() error { return ErrInsufficientFunds }

// NotEmptyError says how much is in the account, in minor units.
type NotEmptyError struct{ Balance int64 }

// Error names the balance.
func (e *NotEmptyError) Error() string {
	return fmt.Sprintf("%v: its balance is %d", ErrNotEmpty, e.Balance)
}

// Unwrap returns [ErrNotEmpty].
func (e *NotEmptyError) Unwrap() error { return ErrNotEmpty }

// Status says whether an account can be used.
type Status string

// The statuses of an account that has been opened.
const (
	Open   Status = "open"
	Closed Status = "closed"
)

func (a *Account) canReceive(m Money) error {
	if err := a.usable(m); err != nil {
		return err
	}
	if m.Amount > MaxAmount-a.Balance {
		return ErrTooMuch
	}
	return nil
}

func (a *Account) canPay(m Money) error {
	if err := a.usable(m); err != nil {
		return err
	}
	if available := a.Balance + a.Overdraft; m.Amount > available {
		return &InsufficientFundsError{Available: available}
	}
	return nil
}

func (a *Account) canClose() error {
	if err := a.isOpen(); err != nil {
		return err
	}
	if a.Balance != 0 {
		return &NotEmptyError{Balance: a.Balance}
	}
	return nil
}

func (a *Account) usable(m Money) error {
	if err := a.isOpen(); err != nil {
		return err
	}
	if a.Currency != m.Currency {
		return fmt.Errorf("%w: the account is kept in %s", ErrCurrency, a.Currency)
	}
	return m.Validate()
}

func (a *Account) isOpen() error {
	switch a.Status {
	case "":
		return ErrUnknown
	case Closed:
		return ErrClosed
	}
	return nil
}
