package order

import "github.com/tidemark-es/tidemark/codec"

// Event is what can happen to an order. Only the types in this file are events.
type Event interface{ isOrderEvent() }

// Placed is the first event of every order.
type Placed struct {
	Customer string `json:"customer"`
	Currency string `json:"currency"`
	Lines    []Line `json:"lines"`
	Date     Date   `json:"date"`
}

// Line is a quantity of one item, with the price and the name that the item had when it was ordered.
type Line struct {
	Item     string `json:"item"`
	Name     string `json:"name"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"` // of one unit, in minor units
}

// Paid is the customer's payment of the whole order, in the order's currency.
type Paid struct {
	Amount int64 `json:"amount"` // in minor units
	Date   Date  `json:"date"`
}

// Shipped says which carrier has the parcel.
type Shipped struct {
	Carrier  string `json:"carrier"`
	Tracking string `json:"tracking"`
	Date     Date   `json:"date"`
}

// Delivered says that the carrier has handed over the parcel.
type Delivered struct {
	Date Date `json:"date"`
}

// Cancelled ends an order that was not shipped yet.
type Cancelled struct {
	Reason   string `json:"reason"`
	Refunded int64  `json:"refunded"` // in minor units; 0 if it was not paid
	Date     Date   `json:"date"`
}

// Returned ends an order that was delivered.
type Returned struct {
	Reason   string `json:"reason"`
	Refunded int64  `json:"refunded"` // in minor units
	Date     Date   `json:"date"`
}

func (Placed) isOrderEvent()    {}
func (Paid) isOrderEvent()      {}
func (Shipped) isOrderEvent()   {}
func (Delivered) isOrderEvent() {}
func (Cancelled) isOrderEvent() {}
func (Returned) isOrderEvent()  {}

// Codec holds the names under which the events are stored. The names must never change, and every shape
// that was ever stored must stay: see placedV1.
var Codec = codec.New(
	codec.Of("order.placed", func(e placedV1) Event { return e.upcast() }),
	codec.Of("order.placed", func(e Placed) Event { return e }).WithSchema(2),
	codec.Of("order.paid", func(e Paid) Event { return e }),
	codec.Of("order.shipped", func(e Shipped) Event { return e }),
	codec.Of("order.delivered", func(e Delivered) Event { return e }),
	codec.Of("order.cancelled", func(e Cancelled) Event { return e }),
	codec.Of("order.returned", func(e Returned) Event { return e }),
)
