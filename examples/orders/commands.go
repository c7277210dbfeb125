package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/orders/order"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
)

// The commands. Seen is the version at which the caller has seen the order or item; eventstore.Any
// accepts every version.
type (
	ReceiveStock struct {
		Item string
		Seen eventstore.Version
		stock.Received
	}
	PlaceOrder struct {
		Order        string
		order.Placed // the names of its lines come from the stock
	}
	PayOrder struct {
		Order    string
		Seen     eventstore.Version
		Currency string
		order.Paid
	}
	ShipOrder struct {
		Order string
		Seen  eventstore.Version
		order.Shipped
	}
	DeliverOrder struct {
		Order string
		Seen  eventstore.Version
		order.Delivered
	}
	CancelOrder struct {
		Order string
		Seen  eventstore.Version
		order.Cancelled
	}
	ReturnOrder struct {
		Order string
		Seen  eventstore.Version
		order.Returned
	}
)

// The errors of a command whose fields are invalid.
var (
	ErrID   = errors.New("invalid id")
	ErrText = errors.New("invalid text")
)

// LineError says for which line of an order the stock has refused a command.
type LineError struct {
	Item string
	Err  error
}

// Error names the item and the reason.
func (e *LineError) Error() string { return fmt.Sprintf("item %s: %v", e.Item, e.Err) }

// Unwrap returns the stock's error.
func (e *LineError) Unwrap() error { return e.Err }

// validID matches the ids that orders, items and customers can have. They need no escaping anywhere.
var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

func checkID(what, id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("%w: %s %.70q: use 1 to 64 letters, digits, - and _", ErrID, what, id)
	}
	return nil
}

// checkText returns an error unless a text can be stored and shown on one line.
func checkText(what, text string) error {
	if text == "" || len(text) > 200 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return fmt.Errorf("%w: %s must be 1 to 200 bytes of UTF-8 without control characters", ErrText, what)
	}
	return nil
}

// Validate checks what can be checked without looking at the item.
func (c ReceiveStock) Validate() error {
	return firstOf(checkID("item", c.Item), checkText("name", c.Name))
}

// Validate checks what can be checked without looking at the stock.
func (c PlaceOrder) Validate() error {
	err := firstOf(checkID("order", c.Order), checkID("customer", c.Customer))
	for _, line := range c.Lines {
		err = firstOf(err, checkID("item", line.Item))
	}
	return firstOf(err, c.Placed.Validate())
}

// Validate checks what can be checked without looking at the order.
func (c PayOrder) Validate() error {
	return firstOf(order.ValidCurrency(c.Currency), c.Date.Validate())
}

// Validate checks what can be checked without looking at the order.
func (c ShipOrder) Validate() error {
	return firstOf(checkText("carrier", c.Carrier), checkText("tracking", c.Tracking), c.Date.Validate())
}

// Validate checks what can be checked without looking at the order.
func (c DeliverOrder) Validate() error { return c.Date.Validate() }

// Validate checks what can be checked without looking at the order.
func (c CancelOrder) Validate() error {
	return firstOf(checkText("reason", c.Reason), c.Date.Validate())
}

// Validate checks what can be checked without looking at the order.
func (c ReturnOrder) Validate() error {
	return firstOf(checkText("reason", c.Reason), c.Date.Validate())
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// newBus returns a bus that handles the commands.
func newBus(store aggregate.Store, retries *aggregate.Config) (*command.Bus, error) {
	orders, err := aggregate.NewRepository(store, order.Definition, retries)
	if err != nil {
		return nil, err
	}
	items, err := aggregate.NewRepository(store, stock.Definition, retries)
	if err != nil {
		return nil, err
	}
	h := &handlers{store: store, retries: retries, orders: orders, items: items}
	bus := command.NewBus()
	command.Register(bus, h.receive)
	command.Register(bus, h.place)
	command.Register(bus, h.pay)
	command.Register(bus, h.ship)
	command.Register(bus, h.deliver)
	command.Register(bus, h.cancel)
	command.Register(bus, h.takeBack)
	return bus, nil
}

type handlers struct {
	store   aggregate.Store
	retries *aggregate.Config
	orders  *aggregate.Repository[order.Order, order.Event]
	items   *aggregate.Repository[stock.Item, stock.Event]
}

func (h *handlers) receive(ctx context.Context, c ReceiveStock) (eventstore.Receipt, error) {
	return h.items.UpdateAt(ctx, c.Item, c.Seen, func(i *stock.Item) ([]stock.Event, error) {
		return i.Receive(c.Received)
	})
}

// place stores the order and reserves the stock of all its lines in one commit.
func (h *handlers) place(ctx context.Context, c PlaceOrder) (eventstore.Receipt, error) {
	return aggregate.Commit(ctx, h.store, h.retries, func(ctx context.Context) ([]eventstore.Change, error) {
		o, err := h.orders.Load(ctx, c.Order)
		if err != nil {
			return nil, err
		}
		placed := c.Placed
		placed.Lines = slices.Clone(c.Lines)
		items, err := h.loadItems(ctx, placed.Lines)
		if err != nil {
			return nil, err
		}
		for n := range items {
			placed.Lines[n].Name = items[n].State.Name
		}
		change, err := o.Change(o.State.Place(placed))
		if err != nil {
			return nil, err
		}
		reserved, err := changeItems(items, placed.Lines, func(i *stock.Item, line order.Line) ([]stock.Event, error) {
			return i.Reserve(c.Order, line.Quantity)
		})
		return append([]eventstore.Change{change}, reserved...), err
	})
}

func (h *handlers) pay(ctx context.Context, c PayOrder) (eventstore.Receipt, error) {
	return h.orders.UpdateAt(ctx, c.Order, c.Seen, func(o *order.Order) ([]order.Event, error) {
		return o.Pay(c.Currency, c.Paid)
	})
}

func (h *handlers) ship(ctx context.Context, c ShipOrder) (eventstore.Receipt, error) {
	return h.changeBoth(ctx, c.Order, c.Seen,
		func(o *order.Order) ([]order.Event, error) { return o.Ship(c.Shipped) },
		func(i *stock.Item, _ order.Line) ([]stock.Event, error) { return i.ShipOut(c.Order) })
}

func (h *handlers) deliver(ctx context.Context, c DeliverOrder) (eventstore.Receipt, error) {
	return h.orders.UpdateAt(ctx, c.Order, c.Seen, func(o *order.Order) ([]order.Event, error) {
		return o.Deliver(c.Delivered)
	})
}

func (h *handlers) cancel(ctx context.Context, c CancelOrder) (eventstore.Receipt, error) {
	return h.changeBoth(ctx, c.Order, c.Seen,
		func(o *order.Order) ([]order.Event, error) { return o.Cancel(c.Cancelled) },
		func(i *stock.Item, _ order.Line) ([]stock.Event, error) { return i.Release(c.Order) })
}

func (h *handlers) takeBack(ctx context.Context, c ReturnOrder) (eventstore.Receipt, error) {
	return h.changeBoth(ctx, c.Order, c.Seen,
		func(o *order.Order) ([]order.Event, error) { return o.Return(c.Returned) },
		func(i *stock.Item, line order.Line) ([]stock.Event, error) {
			return i.Receive(stock.Received{Name: i.Name, Quantity: line.Quantity, Order: c.Order})
		})
}

// changeBoth changes an order and the items of its lines in one commit.
func (h *handlers) changeBoth(ctx context.Context, id string, seen eventstore.Version,
	decide func(*order.Order) ([]order.Event, error),
	decideItem func(*stock.Item, order.Line) ([]stock.Event, error),
) (eventstore.Receipt, error) {
	return aggregate.Commit(ctx, h.store, h.retries, func(ctx context.Context) ([]eventstore.Change, error) {
		o, err := h.orders.Load(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := o.CheckAt(seen); err != nil {
			return nil, err
		}
		change, err := o.Change(decide(o.State))
		if err != nil {
			return nil, err
		}
		items, err := h.loadItems(ctx, o.State.Lines)
		if err != nil {
			return nil, err
		}
		changes, err := changeItems(items, o.State.Lines, decideItem)
		return append([]eventstore.Change{change}, changes...), err
	})
}

type loadedItem = aggregate.Loaded[stock.Item, stock.Event]

// loadItems loads the item of each line.
func (h *handlers) loadItems(ctx context.Context, lines []order.Line) (items []*loadedItem, err error) {
	for _, line := range lines {
		item, err := h.items.Load(ctx, line.Item)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// changeItems decides on the item of each line.
func changeItems(items []*loadedItem, lines []order.Line, decide func(*stock.Item, order.Line) ([]stock.Event, error)) (changes []eventstore.Change, err error) {
	for n, line := range lines {
		change, err := items[n].Change(decide(items[n].State, line))
		if err != nil {
			return nil, &LineError{Item: line.Item, Err: err}
		}
		changes = append(changes, change)
	}
	return changes, nil
}
