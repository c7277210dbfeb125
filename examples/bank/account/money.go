package account

import (
	"fmt"
	"time"
)

// MaxAmount is the largest amount, balance and overdraft, in minor units. An int64 and a number in JSON
// hold much larger numbers without losing digits.
const MaxAmount = 1_000_000_000_000_000

// Money is an amount in minor units of a currency: 12.50 EUR is {1250, "EUR"}.
type Money struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Validate returns [ErrAmount] or [ErrCurrency] unless the amount is positive and at most
// MaxAmount, and the currency has three capital letters.
func (m Money) Validate() error {
	if m.Amount <= 0 || m.Amount > MaxAmount {
		return fmt.Errorf("%w: %d is not between 1 and %d", ErrAmount, m.Amount, int64(MaxAmount))
	}
	return ValidCurrency(m.Currency)
}

// ValidCurrency returns [ErrCurrency] unless the code has three capital letters.
func ValidCurrency(code string) error {
	ok := len(code) == 3
	for _, letter := range code {
		ok = ok && 'A' <= letter && letter <= 'Z'
	}
	if !ok {
		return fmt.Errorf("%w: %q is not a code of three capital letters", ErrCurrency, code)
	}
	return nil
}

// Date is a day, written 2006-01-02.
type Date string

// Today returns the present day in UTC.
func Today() Date { return Date(time.Now().UTC().Format(time.DateOnly)) }

// Validate returns [ErrDate] unless the date is one of the years 1 to 9999.
func (d Date) Validate() error {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil || t.Year() < 1 {
		return fmt.Errorf("%w: %q is not of the form 2006-01-02", ErrDate, string(d))
	}
	return nil
}
