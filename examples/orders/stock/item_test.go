package stock_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
)

func received(quantity int64) stock.Received {
	return stock.Received{Name: "Tea pot", Quantity: quantity}
}

func reserved(order string, quantity int64) stock.Event {
	return stock.Reserved{Order: order, Quantity: quantity}
}

func released(order string, quantity int64) stock.Event {
	return stock.Released{Order: order, Quantity: quantity}
}

func shippedOut(order string, quantity int64) stock.Event {
	return stock.ShippedOut{Order: order, Quantity: quantity}
}

type decision = func(*stock.Item) ([]stock.Event, error)

func receive(e stock.Received) decision {
	return func(i *stock.Item) ([]stock.Event, error) { return i.Receive(e) }
}

func reserve(order string, quantity int64) decision {
	return func(i *stock.Item) ([]stock.Event, error) { return i.Reserve(order, quantity) }
}

func release(order string) decision {
	return func(i *stock.Item) ([]stock.Event, error) { return i.Release(order) }
}

func shipOut(order string) decision {
	return func(i *stock.Item) ([]stock.Event, error) { return i.ShipOut(order) }
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	type history = []stock.Event
	fromCustomer := stock.Received{Name: "Tea pot", Quantity: 2, Order: "a"}

	for name, test := range map[string]struct {
		given history
		when  decision
		then  stock.Event // or fails
		fails error
	}{
		"receive":                     {nil, receive(received(1)), received(1), nil},
		"receive more":                {history{received(5)}, receive(received(7)), received(7), nil},
		"receive from a customer":     {history{received(5), reserved("a", 2), shippedOut("a", 2)}, receive(fromCustomer), fromCustomer, nil},
		"receive the most":            {nil, receive(received(1_000_000)), received(1_000_000), nil},
		"receive too many":            {nil, receive(received(1_000_001)), nil, stock.ErrQuantity},
		"receive none":                {nil, receive(received(0)), nil, stock.ErrQuantity},
		"receive without a name":      {nil, receive(stock.Received{Quantity: 1}), nil, stock.ErrName},
		"receive a negative quantity": {nil, receive(received(-1)), nil, stock.ErrQuantity},

		"reserve":                          {history{received(5)}, reserve("a", 1), reserved("a", 1), nil},
		"reserve all":                      {history{received(5)}, reserve("a", 5), reserved("a", 5), nil},
		"reserve what is left":             {history{received(5), reserved("a", 2)}, reserve("b", 3), reserved("b", 3), nil},
		"reserve more than is left":        {history{received(5), reserved("a", 2)}, reserve("b", 4), nil, stock.ErrOutOfStock},
		"reserve, none left":               {history{received(5), reserved("a", 5)}, reserve("b", 1), nil, stock.ErrOutOfStock},
		"reserve what was shipped out":     {history{received(5), reserved("a", 5), shippedOut("a", 5)}, reserve("b", 1), nil, stock.ErrOutOfStock},
		"reserve what was released":        {history{received(5), reserved("a", 5), released("a", 5)}, reserve("b", 5), reserved("b", 5), nil},
		"reserve what came in later":       {history{received(5), reserved("a", 5), received(2)}, reserve("b", 2), reserved("b", 2), nil},
		"reserve twice":                    {history{received(5), reserved("a", 2)}, reserve("a", 1), nil, stock.ErrReserved},
		"reserve twice, more than is left": {history{received(5), reserved("a", 2)}, reserve("a", 4), nil, stock.ErrReserved},
		"reserve again after release":      {history{received(5), reserved("a", 2), released("a", 2)}, reserve("a", 4), reserved("a", 4), nil},
		"reserve none":                     {history{received(5)}, reserve("a", 0), nil, stock.ErrQuantity},
		"reserve a negative quantity":      {history{received(5)}, reserve("a", -1), nil, stock.ErrQuantity},
		"reserve, never received":          {nil, reserve("a", 1), nil, stock.ErrUnknown},
		"release":                          {history{received(5), reserved("a", 2), reserved("b", 3)}, release("a"), released("a", 2), nil},
		"release what was not reserved":    {history{received(5), reserved("a", 2)}, release("b"), nil, stock.ErrNotReserved},
		"release twice":                    {history{received(5), reserved("a", 2), released("a", 2)}, release("a"), nil, stock.ErrNotReserved},
		"release what was shipped out":     {history{received(5), reserved("a", 2), shippedOut("a", 2)}, release("a"), nil, stock.ErrNotReserved},
		"release, never received":          {nil, release("a"), nil, stock.ErrNotReserved},
		"ship out":                         {history{received(5), reserved("a", 2), reserved("b", 3)}, shipOut("b"), shippedOut("b", 3), nil},
		"ship out what was not reserved":   {history{received(5), reserved("a", 2)}, shipOut("b"), nil, stock.ErrNotReserved},
		"ship out twice":                   {history{received(5), reserved("a", 2), shippedOut("a", 2)}, shipOut("a"), nil, stock.ErrNotReserved},
		"ship out what was released":       {history{received(5), reserved("a", 2), released("a", 2)}, shipOut("a"), nil, stock.ErrNotReserved},
		"ship out, never received":         {nil, shipOut("a"), nil, stock.ErrNotReserved},
		"ship out what was reserved again": {history{received(5), reserved("a", 2), released("a", 2), reserved("a", 1)}, shipOut("a"), shippedOut("a", 1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome := aggregatetest.New(t, stock.Definition).Given(test.given...).When(test.when)
			if test.fails != nil {
				outcome.ThenError(test.fails)
				return
			}
			outcome.Then(test.then)
		})
	}
}

// TestOutOfStock: the error has the latest name of the item and the units that are left.
func TestOutOfStock(t *testing.T) {
	t.Parallel()
	err := aggregatetest.New(t, stock.Definition).
		Given(received(5), reserved("a", 3), stock.Received{Name: "Blue tea pot", Quantity: 1}).
		When(reserve("b", 4)).
		ThenError(stock.ErrOutOfStock)
	var is *stock.OutOfStockError
	if want := (stock.OutOfStockError{Name: "Blue tea pot", Available: 3}); !errors.As(err, &is) || *is != want {
		t.Errorf("error %#v, want %#v", err, want)
	}
}

// TestNothingIsLost takes random decisions in random order. A decision is refused exactly when a simple model refuses
// it, and every unit that was received is available, reserved or shipped.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var item stock.Item
		var in, out int64              // what the model has received and shipped
		promised := map[string]int64{} // what the model has reserved
		left := func() int64 {
			n := in - out
			for _, quantity := range promised {
				n -= quantity
			}
			return n
		}
		// try applies the events of a decision, unless the decision is refused.
		try := func(t *rapid.T, want bool, decide decision) bool {
			events, err := decide(&item)
			if (err == nil) != want {
				t.Fatalf("the decision returned %v; the model allows it: %v", err, want)
			}
			for _, event := range events {
				item.Apply(event)
			}
			return err == nil
		}
		order := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		quantity := rapid.Int64Range(-1, 12)

		t.Repeat(map[string]func(*rapid.T){
			"receive": func(t *rapid.T) {
				q := rapid.OneOf(quantity, rapid.Int64Range(999_999, 1_000_001)).Draw(t, "quantity")
				if try(t, q >= 1 && q <= 1_000_000, receive(received(q))) {
					in += q
				}
			},
			"reserve": func(t *rapid.T) {
				o := order.Draw(t, "order")
				q := rapid.OneOf(quantity, rapid.Just(left()), rapid.Just(left()+1)).Draw(t, "quantity")
				if try(t, q >= 1 && q <= left() && promised[o] == 0, reserve(o, q)) {
					promised[o] = q
				}
			},
			"release": func(t *rapid.T) {
				o := order.Draw(t, "order")
				if try(t, promised[o] > 0, release(o)) {
					delete(promised, o)
				}
			},
			"ship out": func(t *rapid.T) {
				o := order.Draw(t, "order")
				if try(t, promised[o] > 0, shipOut(o)) {
					out += promised[o]
					delete(promised, o)
				}
			},
			"": func(t *rapid.T) {
				var sum int64
				for _, quantity := range item.Reserved {
					sum += quantity
				}
				if item.Available < 0 || item.Available+sum+out != in {
					t.Fatalf("%d available + %d reserved + %d shipped, but %d received", item.Available, sum, out, in)
				}
				if diff := cmp.Diff(promised, item.Reserved, cmpopts.EquateEmpty()); diff != "" {
					t.Fatalf("reserved (-model +item):\n%s", diff)
				}
			},
		})
	})
}
