package stock

import "github.com/tidemark-es/tidemark/codec"

// Event is what can happen to an item. Only the types in this file are events.
type Event interface{ isStockEvent() }

// Received is goods that came in, from a supplier or back from a customer.
type Received struct {
	Name     string `json:"name"` // what the item is called from now on
	Quantity int64  `json:"quantity"`
	Order    string `json:"order,omitempty"` // the order that was returned
}

// Reserved is a promise of units to an order. It is stored in the same commit as the order.
type Reserved struct {
	Order    string `json:"order"`
	Quantity int64  `json:"quantity"`
}

// Released undoes a Reserved.
type Released struct {
	Order    string `json:"order"`
	Quantity int64  `json:"quantity"`
}

// ShippedOut fulfils a Reserved.
type ShippedOut struct {
	Order    string `json:"order"`
	Quantity int64  `json:"quantity"`
}

func (Received) isStockEvent()   {}
func (Reserved) isStockEvent()   {}
func (Released) isStockEvent()   {}
func (ShippedOut) isStockEvent() {}

// Codec holds the names under which the events are stored. The names must never change.
var Codec = codec.New(
	codec.Of("stock.received", func(e Received) Event { return e }),
	codec.Of("stock.reserved", func(e Reserved) Event { return e }),
	codec.Of("stock.released", func(e Released) Event { return e }),
	codec.Of("stock.shipped_out", func(e ShippedOut) Event { return e }),
)
