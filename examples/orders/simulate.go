package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/internal/host"
	"github.com/tidemark-es/tidemark/examples/orders/order"
	"github.com/tidemark-es/tidemark/examples/orders/stock"
)

// simulation says what to simulate. The same seed and number of orders give the same orders with the same ids and
// idempotency keys. So a simulation that was killed can be started again.
type simulation struct {
	orders, workers int
	seed            uint64
}

func parseSimulation(args []string) simulation {
	var s simulation
	flags := flag.NewFlagSet("simulate", flag.ExitOnError)
	flags.IntVar(&s.orders, "orders", 1000, "how many orders customers try to place, `N`; 0 only checks everything")
	flags.IntVar(&s.workers, "workers", 8, "how many customers are served at a time, `W`")
	flags.Uint64Var(&s.seed, "seed", 1, "the seed of the random numbers, `S`")
	_ = flags.Parse(args) // exits if it fails
	if s.orders < 0 || s.workers < 1 || s.workers > 1000 || flags.NArg() > 0 {
		fmt.Fprintln(flags.Output(), "orders: simulate wants -orders of 0 or more, -workers from 1 to 1000, and nothing else")
		flags.Usage()
		os.Exit(2)
	}
	return s
}

// runSimulation lets customers order, and then checks everything.
func runSimulation(ctx context.Context, data string, what simulation) error {
	return withApp(ctx, data, func(ctx context.Context, s *app) error {
		sim := &simulator{simulation: what, app: s, out: os.Stdout, progress: host.NewProgress(os.Stdout, "orders", what.orders)}
		err := sim.run(ctx)
		switch {
		case ctx.Err() != nil && s.kept:
			return errors.New("interrupted: run the same command again to continue")
		case ctx.Err() != nil:
			return errors.New("interrupted: the orders were deleted with their database; use -data or DATABASE_URL to keep the database")
		}
		return err
	})
}

const (
	products = 100
	// supply is how many units of each product there are per order. They are enough on average, but
	// customers order the first products most.
	supply = 0.05
)

// simulator runs one simulation.
type simulator struct {
	simulation
	*app
	out      io.Writer
	progress *progressbar.ProgressBar
	counts   struct{ placed, soldOut, paid, shipped, cancelled, returned, early, repeated, givenUp atomic.Int64 }
}

func (s *simulator) run(ctx context.Context) error {
	ctx = eventstore.WithMetadata(ctx, eventstore.Metadata{Actor: "simulate"})
	begun := time.Now()
	for p := 0; p < products && s.orders > 0; p++ {
		if err := s.deliver(ctx, p, 0); err != nil {
			return err
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(s.workers)
	for n := range s.orders {
		if groupCtx.Err() != nil {
			break
		}
		group.Go(func() error {
			defer func() { _ = s.progress.Add(1) }()
			if err := s.customer(groupCtx, n); err != nil {
				return fmt.Errorf("order %s: %w", s.orderID(n), err)
			}
			return nil
		})
	}
	err := group.Wait()
	_ = s.progress.Finish()
	if err != nil {
		return err
	}
	took, c := time.Since(begun).Seconds(), &s.counts
	fmt.Fprintf(s.out, "%d orders in %.1f s: %.0f orders/s\n", s.orders, took, float64(s.orders)/took)
	fmt.Fprintf(s.out, "placed %d, sold out %d, paid %d, shipped %d, cancelled %d, returned %d\n",
		c.placed.Load(), c.soldOut.Load(), c.paid.Load(), c.shipped.Load(), c.cancelled.Load(), c.returned.Load())
	fmt.Fprintf(s.out, "sent twice and done once %d, too early and refused %d, given up after conflicts %d\n",
		c.repeated.Load(), c.early.Load(), c.givenUp.Load())
	return s.audit(ctx, s.out)
}

// name is part of all ids and idempotency keys. Different simulations have different names.
func (s *simulator) name() string { return fmt.Sprintf("sim%d-%d", s.seed, s.orders) }

func (s *simulator) orderID(n int) string { return fmt.Sprintf("%s-%d", s.name(), n) }

func itemID(p int) string { return fmt.Sprintf("product%02d", p) }

// deliver receives one of two lots of a product from the supplier, each with half of the supply.
func (s *simulator) deliver(ctx context.Context, p, lot int) error {
	names := [...]string{"Espresso cup", "Tea pot", "Milk jug", "Sugar bowl", "Cake plate", "Egg cup", "Salt mill", "Fruit bowl"}
	_, err := s.send(ctx, false, fmt.Sprintf("delivery/%d/%d", p, lot), ReceiveStock{itemID(p), eventstore.Any, stock.Received{
		Name:     fmt.Sprintf("%s No. %d", names[p%len(names)], p/len(names)+1),
		Quantity: 1 + int64(supply/2*float64(s.orders)),
	}})
	return err
}

// customer acts as one customer with one order, from placing the order to its last step.
func (s *simulator) customer(ctx context.Context, n int) error {
	random := rand.New(rand.NewPCG(s.seed, uint64(n)))
	if every := max(s.orders/products, 1); n%every == every-1 && n/every < products {
		if err := s.deliver(ctx, n/every, 1); err != nil {
			return err
		}
	}
	do := func(name string, c any) (eventstore.Receipt, error) {
		receipt, err := s.send(ctx, random.Float64() < 0.15, fmt.Sprintf("%d/%s", n, name), c)
		if errors.Is(err, eventstore.ErrConflict) {
			s.counts.givenUp.Add(1)
		}
		return receipt, err
	}

	placed := s.order(random, s.day(n, 0))
	receipt, err := do("place", PlaceOrder{s.orderID(n), placed})
	switch {
	case errors.Is(err, stock.ErrOutOfStock):
		s.counts.soldOut.Add(1)
		return nil
	case errors.Is(err, eventstore.ErrConflict):
		return nil
	case err != nil:
		return err
	}
	s.counts.placed.Add(1)
	if random.Float64() < 0.05 { // the warehouse ships too early
		if err := s.shipEarly(ctx, n, receipt.Version); err != nil {
			return err
		}
	}
	for _, step := range s.fate(random.Float64(), n, placed) {
		if _, err := do(step.name, step.command); errors.Is(err, eventstore.ErrConflict) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if step.count != nil {
			step.count.Add(1)
		}
	}
	return nil
}

// day returns the date that is later days after order n is placed. All orders are placed within three months.
func (s *simulator) day(n, later int) order.Date {
	return order.Date(time.Date(2026, 1, 1+90*n/s.orders+later, 0, 0, 0, 0, time.UTC).Format(time.DateOnly))
}

// shipEarly sends a shipment that must be refused: the order has not been paid, or has changed after version seen.
func (s *simulator) shipEarly(ctx context.Context, n int, seen eventstore.Version) error {
	_, err := s.bus.Dispatch(ctx, ShipOrder{s.orderID(n), seen, order.Shipped{Carrier: "DHL", Tracking: "none", Date: s.day(n, 0)}})
	if !errors.Is(err, order.ErrState) && !errors.Is(err, eventstore.ErrConflict) {
		return fmt.Errorf("shipped before it was paid: %v", err)
	}
	s.counts.early.Add(1)
	return nil
}

// step is one command on an order that was placed.
type step struct {
	name    string
	count   *atomic.Int64
	command any
}

// fate returns the steps of an order after it was placed, chosen by a random number from 0 to 1.
func (s *simulator) fate(chance float64, n int, placed order.Placed) []step {
	id, seen, c := s.orderID(n), eventstore.Any, &s.counts
	cancel := step{"cancel", &c.cancelled, CancelOrder{id, seen, order.Cancelled{Reason: "changed my mind", Date: s.day(n, 1)}}}
	pay := step{"pay", &c.paid, PayOrder{id, seen, placed.Currency, order.Paid{Amount: order.Total(placed.Lines), Date: s.day(n, 1)}}}
	ship := step{"ship", &c.shipped, ShipOrder{id, seen, order.Shipped{Carrier: "DHL", Tracking: fmt.Sprintf("JJD%08d", n), Date: s.day(n, 2)}}}
	arrive := step{"deliver", nil, DeliverOrder{id, seen, order.Delivered{Date: s.day(n, 4)}}}
	sendBack := step{"return", &c.returned, ReturnOrder{id, seen, order.Returned{Reason: "does not fit", Date: s.day(n, 9)}}}
	switch {
	case chance < 0.05: // the customer forgets the order
		return nil
	case chance < 0.15:
		return []step{cancel}
	case chance < 0.25:
		return []step{pay, cancel}
	case chance < 0.35:
		return []step{pay}
	case chance < 0.45:
		return []step{pay, ship}
	case chance < 0.85:
		return []step{pay, ship, arrive}
	}
	return []step{pay, ship, arrive, sendBack}
}

// order returns a random order. It has some products far more often than others.
func (s *simulator) order(random *rand.Rand, day order.Date) order.Placed {
	placed := order.Placed{Customer: fmt.Sprintf("customer%d", random.IntN(s.orders/5+1)), Currency: "EUR", Date: day}
	if random.Float64() < 0.2 {
		placed.Currency = "USD"
	}
	favourites := rand.NewZipf(random, 1.2, 20, products-1)
	for range 1 + random.IntN(4) {
		p := int(favourites.Uint64())
		if slices.ContainsFunc(placed.Lines, func(l order.Line) bool { return l.Item == itemID(p) }) {
			continue
		}
		placed.Lines = append(placed.Lines, order.Line{Item: itemID(p), Quantity: 1 + random.Int64N(3), Price: int64(500 + 137*p)})
	}
	return placed
}

// send sends a command with an idempotency key. With twice it sends the command twice at the same time, as an
// impatient client does, and both answers must be the same.
func (s *simulator) send(ctx context.Context, twice bool, key string, c any) (eventstore.Receipt, error) {
	attempt := func() (eventstore.Receipt, error) {
		return s.bus.Dispatch(eventstore.WithKey(ctx, s.name()+"/"+key, nil), c)
	}
	if !twice {
		return attempt()
	}
	var receipts [2]eventstore.Receipt
	var errs [2]error
	var both sync.WaitGroup
	for i := range receipts {
		both.Go(func() { receipts[i], errs[i] = attempt() })
	}
	both.Wait()
	for i, err := range errs {
		// This attempt was given up, or found the item sold out before the other one found released units.
		if errors.Is(err, eventstore.ErrConflict) || errors.Is(err, stock.ErrOutOfStock) {
			return receipts[1-i], errs[1-i]
		}
	}
	if err := errors.Join(errs[:]...); err != nil || receipts[0] != receipts[1] {
		return receipts[0], fmt.Errorf("sent twice and answered differently: %+v and %+v, %v", receipts[0], receipts[1], err)
	}
	s.counts.repeated.Add(1)
	return receipts[0], nil
}
