package order_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/examples/orders/order"
)

const due = 2*1250 + 3990

var (
	cups      = order.Line{Item: "cup", Name: "Espresso cup", Quantity: 2, Price: 1250}
	pot       = order.Line{Item: "pot", Name: "Tea pot", Quantity: 1, Price: 3990}
	placed    = order.Placed{Customer: "ada", Currency: "USD", Lines: []order.Line{cups, pot}, Date: "2026-01-02"}
	paid      = order.Paid{Amount: due, Date: "2026-01-03"}
	shipped   = order.Shipped{Carrier: "DHL", Tracking: "JJD1", Date: "2026-01-04"}
	delivered = order.Delivered{Date: "2026-01-05"}
)

// The refund of Cancel and Return depends on the payment.
func cancelled(refunded int64) order.Cancelled {
	return order.Cancelled{Reason: "changed my mind", Refunded: refunded, Date: "2026-01-06"}
}

func returned(refunded int64) order.Returned {
	return order.Returned{Reason: "does not fit", Refunded: refunded, Date: "2026-01-07"}
}

type decision = func(*order.Order) ([]order.Event, error)

func place(e order.Placed) decision {
	return func(o *order.Order) ([]order.Event, error) { return o.Place(e) }
}

func pay(currency string, amount int64) decision {
	return func(o *order.Order) ([]order.Event, error) {
		return o.Pay(currency, order.Paid{Amount: amount, Date: paid.Date})
	}
}

// histories are the events that lead to each status. An order without events has the status "".
var histories = map[order.Status][]order.Event{
	"":                    nil,
	order.StatusPlaced:    {placed},
	order.StatusPaid:      {placed, paid},
	order.StatusShipped:   {placed, paid, shipped},
	order.StatusDelivered: {placed, paid, shipped, delivered},
	order.StatusCancelled: {placed, paid, cancelled(due)},
	order.StatusReturned:  {placed, paid, shipped, delivered, returned(due)},
}

// decisions has, for each status, the decision that leads to it, the statuses from which it is allowed, and the event
// that then follows.
var decisions = map[order.Status]struct {
	decide decision
	from   map[order.Status]order.Event
}{
	order.StatusPlaced: {place(placed), map[order.Status]order.Event{"": placed}},
	order.StatusPaid:   {pay("USD", due), map[order.Status]order.Event{order.StatusPlaced: paid}},
	order.StatusShipped: {
		func(o *order.Order) ([]order.Event, error) { return o.Ship(shipped) },
		map[order.Status]order.Event{order.StatusPaid: shipped},
	},
	order.StatusDelivered: {
		func(o *order.Order) ([]order.Event, error) { return o.Deliver(delivered) },
		map[order.Status]order.Event{order.StatusShipped: delivered},
	},
	// The order decides how much is refunded, not the caller.
	order.StatusCancelled: {
		func(o *order.Order) ([]order.Event, error) { return o.Cancel(cancelled(99)) },
		map[order.Status]order.Event{order.StatusPlaced: cancelled(0), order.StatusPaid: cancelled(due)},
	},
	order.StatusReturned: {
		func(o *order.Order) ([]order.Event, error) { return o.Return(returned(0)) },
		map[order.Status]order.Event{order.StatusDelivered: returned(due)},
	},
}

// TestDecisions tries every decision in every status.
func TestDecisions(t *testing.T) {
	t.Parallel()
	for _, from := range append([]order.Status{""}, order.Statuses...) {
		history, ok := histories[from]
		if got := order.Definition.Fold(history...).Status; !ok || got != from {
			t.Fatalf("the history that should lead to %q leads to %q", from, got)
		}
		for _, to := range order.Statuses {
			t.Run(fmt.Sprintf("%s order is %s", from, to), func(t *testing.T) {
				t.Parallel()
				d := decisions[to]
				outcome := aggregatetest.New(t, order.Definition).Given(history...).When(d.decide)
				if then, allowed := d.from[from]; allowed {
					outcome.Then(then)
					outcome.ThenState(func(o *order.Order) {
						if o.Status != to {
							t.Errorf("then the order is %s", o.Status)
						}
					})
					return
				}
				switch {
				case to == order.StatusPlaced:
					outcome.ThenError(order.ErrExists)
				case from == "":
					outcome.ThenError(order.ErrUnknown)
				default:
					err := outcome.ThenError(order.ErrState)
					var is *order.StateError
					if want := (order.StateError{Status: from, Wanted: string(to)}); !errors.As(err, &is) || *is != want {
						t.Errorf("error %#v, want %#v", err, want)
					}
				}
			})
		}
	}
}

func TestWrongPayment(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]decision{
		"too little": pay("USD", due-1), "too much": pay("USD", due+1), "nothing": pay("USD", 0), "negative": pay("USD", -due),
		"other currency": pay("EUR", due), "lower case": pay("usd", due), "no currency": pay("", due),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := aggregatetest.New(t, order.Definition).Given(placed).When(wrong).ThenError(order.ErrWrongPayment)
			var is *order.WrongPaymentError
			if want := (order.WrongPaymentError{Due: due, Currency: "USD"}); !errors.As(err, &is) || *is != want {
				t.Errorf("error %#v, want %#v", err, want)
			}
		})
	}
}

// largest returns an order with this many lines, whose other values are at their upper bounds.
func largest(lines int) order.Placed {
	e := order.Placed{Customer: "ada", Currency: "USD", Date: "9999-12-31"}
	for n := range lines {
		e.Lines = append(e.Lines, order.Line{Item: fmt.Sprint("item", n), Name: "Item", Quantity: order.MaxQuantity, Price: order.MaxPrice})
	}
	return e
}

func TestLargestTotal(t *testing.T) {
	t.Parallel()
	const total, exactInJSON = 5_000_000_000_000, 1 << 53
	e := largest(order.MaxLines)
	if got := order.Total(e.Lines); got != total || 1000*got > exactInJSON {
		t.Errorf("the largest total is %d, want %d", got, int64(total))
	}
	aggregatetest.New(t, order.Definition).Given(e).When(pay("USD", total)).Then(order.Paid{Amount: total, Date: paid.Date})
}

func TestPlaceValidates(t *testing.T) {
	t.Parallel()
	line := func(change func(*order.Line)) order.Placed {
		second := pot
		change(&second)
		return order.Placed{Customer: "ada", Currency: "USD", Lines: []order.Line{cups, second}, Date: "2026-01-02"}
	}
	quantity := func(q int64) order.Placed { return line(func(l *order.Line) { l.Quantity = q }) }
	price := func(p int64) order.Placed { return line(func(l *order.Line) { l.Price = p }) }
	currency := func(c string) order.Placed { e := placed; e.Currency = c; return e }
	date := func(d order.Date) order.Placed { e := placed; e.Date = d; return e }

	for name, test := range map[string]struct {
		place order.Placed
		fails error
	}{
		"no lines": {largest(0), order.ErrLines}, "1 line": {largest(1), nil}, "50 lines": {largest(50), nil}, "51 lines": {largest(51), order.ErrLines},
		"item twice":  {line(func(l *order.Line) { l.Item = cups.Item }), order.ErrLines},
		"quantity -1": {quantity(-1), order.ErrLines}, "quantity 0": {quantity(0), order.ErrLines}, "quantity 1": {quantity(1), nil},
		"quantity 1000": {quantity(1000), nil}, "quantity 1001": {quantity(1001), order.ErrLines},
		"price -1": {price(-1), order.ErrLines}, "price 0": {price(0), order.ErrLines}, "price 1": {price(1), nil},
		"price 10^8": {price(1e8), nil}, "price 10^8+1": {price(1e8 + 1), order.ErrLines},
		"no currency": {currency(""), order.ErrCurrency}, "currency EU": {currency("EU"), order.ErrCurrency}, "currency EURO": {currency("EURO"), order.ErrCurrency},
		"currency eur": {currency("eur"), order.ErrCurrency}, "currency EÜ": {currency("EÜ"), order.ErrCurrency}, "currency CZK": {currency("CZK"), nil},
		"currency and newline": {currency("EUR\n"), order.ErrCurrency},
		"no date":              {date(""), order.ErrDate}, "no leap year": {date("2026-02-29"), order.ErrDate}, "leap year": {date("2028-02-29"), nil},
		"year 0": {date("0000-12-31"), order.ErrDate}, "year 1": {date("0001-01-01"), nil}, "year 9999": {date("9999-12-31"), nil},
		"year 10000": {date("10000-01-01"), order.ErrDate}, "short date": {date("2026-1-1"), order.ErrDate}, "date and time": {date("2026-01-02T00:00:00Z"), order.ErrDate},
		"today": {date(order.Today()), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := test.place.Validate(); !errors.Is(err, test.fails) {
				t.Errorf("Validate: %v, want %v", err, test.fails)
			}
			outcome := aggregatetest.New(t, order.Definition).When(place(test.place))
			if test.fails != nil {
				outcome.ThenError(test.fails)
				return
			}
			outcome.Then(test.place)
			outcome.ThenState(func(o *order.Order) {
				want := order.Order{Status: order.StatusPlaced, Currency: test.place.Currency, Lines: test.place.Lines}
				if diff := cmp.Diff(want, *o); diff != "" {
					t.Errorf("then the order is (-want +got):\n%s", diff)
				}
			})
		})
	}
}
