// Package order is an aggregate of the order service: the state of an order, and its decisions.
package order

import "github.com/tidemark-es/tidemark/aggregate"

// Order is the state of one order: what its decisions need to know, and nothing else.
type Order struct {
	Status   Status // empty if it was never placed
	Currency string
	Lines    []Line
	Paid     int64 // in minor units
}

// Definition says how an order is made of its events.
var Definition = aggregate.Define[Order]("order", Codec)

// Apply changes the state by one event. It cannot refuse an event, because the event has already happened.
func (o *Order) Apply(event Event) {
	switch e := event.(type) {
	case Placed:
		*o = Order{Status: StatusPlaced, Currency: e.Currency, Lines: e.Lines}
	case Paid:
		o.Status, o.Paid = StatusPaid, e.Amount
	case Shipped:
		o.Status = StatusShipped
	case Delivered:
		o.Status = StatusDelivered
	case Cancelled:
		o.Status = StatusCancelled
	case Returned:
		o.Status = StatusReturned
	}
}

// Place places the order.
func (o *Order) Place(e Placed) ([]Event, error) {
	if o.Status != "" {
		return nil, ErrExists
	}
	if err := e.Validate(); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

// Pay pays the order, all of it at once and in its currency.
func (o *Order) Pay(currency string, e Paid) ([]Event, error) {
	if err := o.require("paid", StatusPlaced); err != nil {
		return nil, err
	}
	if due := Total(o.Lines); e.Amount != due || currency != o.Currency {
		return nil, &WrongPaymentError{Due: due, Currency: o.Currency}
	}
	return []Event{e}, nil
}

// Ship hands the order to a carrier.
func (o *Order) Ship(e Shipped) ([]Event, error) {
	if err := o.require("shipped", StatusPaid); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

// Deliver notes that the order has reached the customer.
func (o *Order) Deliver(e Delivered) ([]Event, error) {
	if err := o.require("delivered", StatusShipped); err != nil {
		return nil, err
	}
	return []Event{e}, nil
}

// Cancel cancels the order before it is shipped, and refunds a payment.
func (o *Order) Cancel(e Cancelled) ([]Event, error) {
	if err := o.require("cancelled", StatusPlaced, StatusPaid); err != nil {
		return nil, err
	}
	e.Refunded = o.Paid
	return []Event{e}, nil
}

// Return takes back the whole order after its delivery, and refunds the payment.
func (o *Order) Return(e Returned) ([]Event, error) {
	if err := o.require("returned", StatusDelivered); err != nil {
		return nil, err
	}
	e.Refunded = o.Paid
	return []Event{e}, nil
}
