package order

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// The errors of an order, one for each rule that a command can break.
var (
	ErrUnknown      = errors.New("there is no such order")
	ErrExists       = errors.New("the order has been placed before")
	ErrState        = errors.New("the order is in the wrong state")
	ErrWrongPayment = errors.New("the payment is not what is due")
	ErrLines        = errors.New("invalid lines")
	ErrCurrency     = errors.New("invalid currency")
	ErrDate         = errors.New("invalid date")
)

// StateError says which status an order has, and which status it therefore cannot get.
type StateError struct {
	Status Status
	Wanted string
}

// Error names both statuses.
func (e *StateError) Error() string {
	return fmt.Sprintf("an order that is %s cannot be %s", e.Status, e.Wanted)
}

// Unwrap returns [ErrState].
func (e *StateError) Unwrap() error { return ErrState }

// WrongPaymentError says how much is due, in minor units.
type WrongPaymentError struct {
	Due      int64
	Currency string
}

// Error names the amount that is due.
func (e *WrongPaymentError) Error() string {
	return fmt.Sprintf("%v: %d %s are due", ErrWrongPayment, e.Due, e.Currency)
}

// Unwrap returns [ErrWrongPayment].
func (e *WrongPaymentError) Unwrap() error { return ErrWrongPayment }

// Status is the status of an order.
type Status string

// The statuses of an order that has been placed.
const (
	StatusPlaced    Status = "placed"
	StatusPaid      Status = "paid"
	StatusShipped   Status = "shipped"
	StatusDelivered Status = "delivered"
	StatusCancelled Status = "cancelled"
	StatusReturned  Status = "returned"
)

// Statuses lists all statuses.
var Statuses = []Status{StatusPlaced, StatusPaid, StatusShipped, StatusDelivered, StatusCancelled, StatusReturned}

// require returns an error unless the order is in one of the states.
func (o *Order) require(be string, in ...Status) error {
	switch {
	case o.Status == "":
		return ErrUnknown
	case !slices.Contains(in, o.Status):
		return &StateError{Status: o.Status, Wanted: be}
	}
	return nil
}

// The bounds of an order. With them its total has at most 13 digits. A number in JSON has 53 bits: it holds the sum
// of more than a thousand of the largest orders without losing digits.
const (
	MaxLines    = 50
	MaxQuantity = 1_000
	MaxPrice    = 100_000_000 // in minor units
)

// Validate returns [ErrLines], [ErrCurrency] or [ErrDate] unless there is at least one line, each line is for a
// different item, and all values are within their bounds.
func (e Placed) Validate() error {
	if len(e.Lines) == 0 || len(e.Lines) > MaxLines {
		return fmt.Errorf("%w: %d lines, want 1 to %d", ErrLines, len(e.Lines), MaxLines)
	}
	items := make(map[string]bool)
	for _, line := range e.Lines {
		switch {
		case items[line.Item]:
			return fmt.Errorf("%w: item %s is in two lines", ErrLines, line.Item)
		case line.Quantity < 1 || line.Quantity > MaxQuantity:
			return fmt.Errorf("%w: item %s: quantity %d is not between 1 and %d", ErrLines, line.Item, line.Quantity, MaxQuantity)
		case line.Price < 1 || line.Price > MaxPrice:
			return fmt.Errorf("%w: item %s: price %d is not between 1 and %d", ErrLines, line.Item, line.Price, MaxPrice)
		}
		items[line.Item] = true
	}
	if err := ValidCurrency(e.Currency); err != nil {
		return err
	}
	return e.Date.Validate()
}

// Total returns the price of all lines, in minor units.
func Total(lines []Line) (total int64) {
	for _, line := range lines {
		total += line.Quantity * line.Price
	}
	return total
}

var currencyCode = regexp.MustCompile(`^[A-Z]{3}$`)

// ValidCurrency returns [ErrCurrency] unless the code has three capital letters.
func ValidCurrency(code string) error {
	if !currencyCode.MatchString(code) {
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
