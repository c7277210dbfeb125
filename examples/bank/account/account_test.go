package account_test

import (
	"math"
	"testing"

	"github.com/tidemark-es/tidemark/aggregate/aggregatetest"
	"github.com/tidemark-es/tidemark/examples/bank/account"
)

func opened(overdraft int64) account.Event {
	return account.Opened{Owner: "Ada", Currency: "EUR", Overdraft: overdraft, Date: "2026-01-02"}
}

func booking(amount int64) account.Booking {
	return account.Booking{Money: account.Money{Amount: amount, Currency: "EUR"}, Date: "2026-01-03"}
}

func deposited(amount int64) account.Event { return account.Deposited{Booking: booking(amount)} }

type decision = func(*account.Account) ([]account.Event, error)

func deposit(b account.Booking) decision {
	return func(a *account.Account) ([]account.Event, error) { return a.Deposit(b) }
}

func withdraw(b account.Booking) decision {
	return func(a *account.Account) ([]account.Event, error) { return a.Withdraw(b) }
}

func send(b account.Booking) decision {
	return func(a *account.Account) ([]account.Event, error) { return a.Send("other", b) }
}

func receive(b account.Booking) decision {
	return func(a *account.Account) ([]account.Event, error) { return a.Receive("other", b) }
}

func closing(a *account.Account) ([]account.Event, error) {
	return a.Close(account.AccountClosed{Date: "2026-01-04"})
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	bank := func(t *testing.T, history ...account.Event) *aggregatetest.Scenario[account.Account, account.Event] {
		return aggregatetest.New(t, account.Definition).Given(history...)
	}
	inCrowns := booking(1)
	inCrowns.Currency = "CZK"
	closed := account.AccountClosed{Date: "2026-01-04"}

	for name, test := range map[string]struct {
		given []account.Event
		when  decision
		then  account.Event // or fails
		fails error
	}{
		"open":                           {nil, func(a *account.Account) ([]account.Event, error) { return a.Open(opened(5).(account.Opened)) }, opened(5), nil},
		"open twice":                     {[]account.Event{opened(0)}, func(a *account.Account) ([]account.Event, error) { return a.Open(opened(5).(account.Opened)) }, nil, account.ErrExists},
		"deposit":                        {[]account.Event{opened(0)}, deposit(booking(7)), deposited(7), nil},
		"deposit, not opened":            {nil, deposit(booking(7)), nil, account.ErrUnknown},
		"deposit, closed":                {[]account.Event{opened(0), closed}, deposit(booking(7)), nil, account.ErrClosed},
		"deposit, other currency":        {[]account.Event{opened(0)}, deposit(inCrowns), nil, account.ErrCurrency},
		"deposit, overflow":              {[]account.Event{opened(0), deposited(account.MaxAmount)}, deposit(booking(1)), nil, account.ErrTooMuch},
		"withdraw all":                   {[]account.Event{opened(0), deposited(7)}, withdraw(booking(7)), account.Withdrawn{Booking: booking(7)}, nil},
		"deposit a negative amount":      {[]account.Event{opened(0), deposited(7)}, deposit(booking(-5)), nil, account.ErrAmount},
		"withdraw a negative amount":     {[]account.Event{opened(0), deposited(7)}, withdraw(booking(-5)), nil, account.ErrAmount},
		"send nothing":                   {[]account.Event{opened(0), deposited(7)}, send(booking(0)), nil, account.ErrAmount},
		"withdraw more":                  {[]account.Event{opened(0), deposited(7)}, withdraw(booking(8)), nil, account.ErrInsufficientFunds},
		"withdraw into overdraft":        {[]account.Event{opened(3), deposited(7)}, withdraw(booking(10)), account.Withdrawn{Booking: booking(10)}, nil},
		"withdraw beyond overdraft":      {[]account.Event{opened(3), deposited(7)}, withdraw(booking(11)), nil, account.ErrInsufficientFunds},
		"withdraw, other currency":       {[]account.Event{opened(0), deposited(7)}, withdraw(inCrowns), nil, account.ErrCurrency},
		"withdraw the largest overdraft": {[]account.Event{opened(account.MaxAmount)}, withdraw(booking(account.MaxAmount)), account.Withdrawn{Booking: booking(account.MaxAmount)}, nil},
		"send":                           {[]account.Event{opened(0), deposited(7)}, send(booking(7)), account.TransferSent{Booking: booking(7), To: "other"}, nil},
		"send more":                      {[]account.Event{opened(0), deposited(7)}, send(booking(8)), nil, account.ErrInsufficientFunds},
		"receive":                        {[]account.Event{opened(0)}, receive(booking(7)), account.TransferReceived{Booking: booking(7), From: "other"}, nil},
		"receive, closed":                {[]account.Event{opened(0), closed}, receive(booking(7)), nil, account.ErrClosed},
		"close":                          {[]account.Event{opened(0)}, closing, closed, nil},
		"close, not empty":               {[]account.Event{opened(0), deposited(7)}, closing, nil, account.ErrNotEmpty},
		"close, overdrawn":               {[]account.Event{opened(9), account.TransferSent{Booking: booking(7), To: "other"}}, closing, nil, account.ErrNotEmpty},
		"close, emptied":                 {[]account.Event{opened(0), account.TransferReceived{Booking: booking(7), From: "other"}, account.Withdrawn{Booking: booking(7)}}, closing, closed, nil},
		"close twice":                    {[]account.Event{opened(0), closed}, closing, nil, account.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcome := bank(t, test.given...).When(test.when)
			if test.fails != nil {
				outcome.ThenError(test.fails)
				return
			}
			outcome.Then(test.then)
		})
	}
}

func TestMoney(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		money account.Money
		ok    bool
	}{
		{account.Money{Amount: 1, Currency: "EUR"}, true},
		{account.Money{Amount: account.MaxAmount, Currency: "EUR"}, true},
		{account.Money{Amount: 0, Currency: "EUR"}, false},
		{account.Money{Amount: -1, Currency: "EUR"}, false},
		{account.Money{Amount: account.MaxAmount + 1, Currency: "EUR"}, false},
		{account.Money{Amount: math.MaxInt64, Currency: "EUR"}, false},
		{account.Money{Amount: 1, Currency: "EU"}, false},
		{account.Money{Amount: 1, Currency: "eur"}, false},
		{account.Money{Amount: 1, Currency: "EÜ"}, false},
	} {
		if err := test.money.Validate(); (err == nil) != test.ok {
			t.Errorf("%+v: %v", test.money, err)
		}
	}
	for date, ok := range map[account.Date]bool{"2026-02-28": true, "2026-02-29": false, "": false, "0000-01-01": false, "2026-1-1": false} {
		if err := date.Validate(); (err == nil) != ok {
			t.Errorf("date %q: %v", date, err)
		}
	}
}
