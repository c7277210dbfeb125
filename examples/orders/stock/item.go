// Package stock is an aggregate of the order service: how many units of an item there are, and which orders have them
// reserved.
package stock

import (
	"errors"
	"fmt"

	"github.com/tidemark-es/tidemark/aggregate"
)

// Item is the state of one item of the stock.
type Item struct {
	Name      string           // empty if none was ever received
	Available int64            // units that can be promised
	Reserved  map[string]int64 // units that were promised, by order
}

// Definition says how an item is made of its events.
var Definition = aggregate.Define[Item]("stock", Codec)

// Apply changes the state by one event. It cannot refuse an event, because the event has already happened.
func (i *Item) Apply(event Event) {
	switch e := event.(type) {
	case Received:
		i.Name = e.Name
		i.Available += e.Quantity
	case Reserved:
		i.Available -= e.Quantity
		if i.Reserved == nil {
			i.Reserved = make(map[string]int64)
		}
		i.Reserved[e.Order] = e.Quantity
	case Released:
		i.Available += e.Quantity
		delete(i.Reserved, e.Order)
	case ShippedOut:
		delete(i.Reserved, e.Order)
	}
}

// Receive puts goods into the stock.
func (i *Item) Receive(e Received) ([]Event, error) {
	if e.Name == "" {
		return nil, ErrName
	}
	if e.Quantity < 1 || e.Quantity > MaxQuantity {
		return nil, fmt.Errorf("%w: %d is not between 1 and %d", ErrQuantity, e.Quantity, MaxQuantity)
	}
	return []Event{e}, nil
}

// Reserve promises available units to an order.
func (i *Item) Reserve(order string, quantity int64) ([]Event, error) {
	switch {
	case i.Name == "":
		return nil, ErrUnknown
	case quantity < 1:
		return nil, fmt.Errorf("%w: %d", ErrQuantity, quantity)
	case i.Reserved[order] != 0:
		return nil, ErrReserved
	case quantity > i.Available:
		return nil, &OutOfStockError{Name: i.Name, Available: i.Available}
	}
	return []Event{Reserved{Order: order, Quantity: quantity}}, nil
}

// Release takes a promise back: the units that were reserved for the order are available again.
func (i *Item) Release(order string) ([]Event, error) {
	quantity, ok := i.Reserved[order]
	if !ok {
		return nil, ErrNotReserved
	}
	return []Event{Released{Order: order, Quantity: quantity}}, nil
}

// ShipOut keeps a promise: the units that were reserved for the order leave the stock.
func (i *Item) ShipOut(order string) ([]Event, error) {
	quantity, ok := i.Reserved[order]
	if !ok {
		return nil, ErrNotReserved
	}
	return []Event{ShippedOut{Order: order, Quantity: quantity}}, nil
}

// MaxQuantity is the largest quantity that can be received at once.
const MaxQuantity = 1_000_000

// The errors of an item, one for each rule that a command can break.
var (
	ErrUnknown     = errors.New("there is no such item")
	ErrOutOfStock  = errors.New("out of stock")
	ErrName        = errors.New("an item needs a name")
	ErrQuantity    = errors.New("invalid quantity")
	ErrReserved    = errors.New("the order has a reservation already")
	ErrNotReserved = errors.New("nothing is reserved for the order")
)

// OutOfStockError says how many units are left.
type OutOfStockError struct {
	Name      string
	Available int64
}

// Error names the item and the units that are left.
func (e *OutOfStockError) Error() string {
	return fmt.Sprintf("%v: only %d of %q left", ErrOutOfStock, e.Available, e.Name)
}

// Unwrap returns [ErrOutOfStock].
func (e *OutOfStockError) Unwrap() error { return ErrOutOfStock }
