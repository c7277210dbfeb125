package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
)

// The commands. Seen is the version at which the caller has seen the account; eventstore.Any accepts
// every version.
type (
	OpenAccount struct {
		Account string
		account.Opened
	}
	Deposit struct {
		Account string
		Seen    eventstore.Version
		account.Booking
	}
	Withdraw struct {
		Account string
		Seen    eventstore.Version
		account.Booking
	}
	Transfer struct {
		From, To string
		Seen     eventstore.Version // of From
		account.Booking
	}
	CloseAccount struct {
		Account string
		Seen    eventstore.Version
		account.AccountClosed
	}
)

// validID matches the ids that accounts can have. They need no escaping anywhere.
var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

func checkID(id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("%w: %.70q: use 1 to 64 letters, digits, - and _", account.ErrID, id)
	}
	return nil
}

// Validate checks what can be checked without looking at the account.
func (c OpenAccount) Validate() error {
	if err := firstOf(checkID(c.Account), validText("owner", c.Owner)); err != nil {
		return err
	}
	if c.Owner == "" {
		return fmt.Errorf("%w: owner is empty", account.ErrText)
	}
	if c.Overdraft < 0 || c.Overdraft > account.MaxAmount {
		return fmt.Errorf("%w: overdraft %d is not between 0 and %d", account.ErrAmount, c.Overdraft, int64(account.MaxAmount))
	}
	return firstOf(account.ValidCurrency(c.Currency), c.Date.Validate())
}

// Validate checks what can be checked without looking at the account.
func (c Deposit) Validate() error { return validBooking(c.Booking) }

// Validate checks what can be checked without looking at the account.
func (c Withdraw) Validate() error { return validBooking(c.Booking) }

// Validate checks what can be checked without looking at the accounts.
func (c Transfer) Validate() error {
	if c.From == c.To {
		return account.ErrSameAccount
	}
	return firstOf(checkID(c.To), validBooking(c.Booking))
}

// Validate checks what can be checked without looking at the account.
func (c CloseAccount) Validate() error { return c.Date.Validate() }

func validBooking(b account.Booking) error {
	return firstOf(b.Money.Validate(), b.Date.Validate(),
		validText("description", b.Description), validText("counterparty", b.Counterparty))
}

func validText(name, text string) error {
	if len(text) > 500 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return fmt.Errorf("%w: %s must be at most 500 bytes of UTF-8 without control characters", account.ErrText, name)
	}
	return nil
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
func newBus(store aggregate.Store, accounts *accounts) *command.Bus {
	h := &handlers{store, accounts}
	bus := command.NewBus()
	command.Register(bus, h.open)
	command.Register(bus, h.deposit)
	command.Register(bus, h.withdraw)
	command.Register(bus, h.transfer)
	command.Register(bus, h.close)
	return bus
}

type handlers struct {
	store    aggregate.Store
	accounts *accounts
}

func (h *handlers) open(ctx context.Context, c OpenAccount) (eventstore.Receipt, error) {
	return h.accounts.Update(ctx, c.Account, func(a *account.Account) ([]account.Event, error) {
		return a.Open(c.Opened)
	})
}

func (h *handlers) deposit(ctx context.Context, c Deposit) (eventstore.Receipt, error) {
	return h.accounts.UpdateAt(ctx, c.Account, c.Seen, func(a *account.Account) ([]account.Event, error) {
		return a.Deposit(c.Booking)
	})
}

func (h *handlers) withdraw(ctx context.Context, c Withdraw) (eventstore.Receipt, error) {
	return h.accounts.UpdateAt(ctx, c.Account, c.Seen, func(a *account.Account) ([]account.Event, error) {
		return a.Withdraw(c.Booking)
	})
}

func (h *handlers) close(ctx context.Context, c CloseAccount) (eventstore.Receipt, error) {
	return h.accounts.UpdateAt(ctx, c.Account, c.Seen, func(a *account.Account) ([]account.Event, error) {
		return a.Close(c.AccountClosed)
	})
}

// transfer changes two accounts in one commit: one loses the amount that the other gets.
func (h *handlers) transfer(ctx context.Context, c Transfer) (eventstore.Receipt, error) {
	return aggregate.Commit(ctx, h.store, nil, func(ctx context.Context) ([]eventstore.Change, error) {
		from, err := h.accounts.Load(ctx, c.From)
		if err != nil {
			return nil, err
		}
		if err := from.CheckAt(c.Seen); err != nil {
			return nil, err
		}
		to, err := h.accounts.Load(ctx, c.To)
		if err != nil {
			return nil, err
		}
		debit, err := from.Change(from.State.Send(c.To, c.Booking))
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", c.From, err)
		}
		credit, err := to.Change(to.State.Receive(c.From, c.Booking))
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", c.To, err)
		}
		return []eventstore.Change{debit, credit}, nil
	})
}
