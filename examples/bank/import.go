package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/examples/bank/berka"
	"github.com/tidemark-es/tidemark/examples/internal/host"
)

const (
	importers       = 16 // accounts imported at a time
	importCurrency  = "CZK"
	importOverdraft = 1_000_000_00     // the file's bank allowed overdrafts, but the file does not say how much
	tolerance       = 100              // one crown: the file's interest is rounded
	mustReconcile   = 39_900 / 39_960. // of the account-days; the other differences are in the file itself
)

// runImport imports a file, waits for the read models and compares them with the file. It can be
// interrupted and repeated: each line is a command with an idempotency key of its own.
func runImport(ctx context.Context, data, path string) error {
	transactions, err := readFile(path) // before anything is started
	if err != nil {
		return err
	}
	return withBank(ctx, data, func(ctx context.Context, b *bank) error {
		im := &importer{bank: b, out: os.Stdout, progress: host.NewProgress(os.Stdout, "transactions", len(transactions)), byAccount: make(map[string][]berka.Transaction)}
		for _, t := range transactions {
			im.byAccount[t.Account] = append(im.byAccount[t.Account], t)
		}
		err := im.run(ctx)
		switch {
		case ctx.Err() != nil && b.kept:
			return fmt.Errorf("interrupted: import %s again to continue", path)
		case ctx.Err() != nil:
			return errors.New("interrupted: the import was deleted with its database; use -data or DATABASE_URL to keep the database")
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
}

// readFile reads the whole file and checks each line of it as a command.
func readFile(path string) ([]berka.Transaction, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	transactions, err := berka.Parse(file)
	for _, t := range transactions {
		if invalid := commandFor(t).Validate(); invalid != nil {
			err = &berka.Error{Line: t.Line, Err: invalid}
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: nothing was imported", path, err)
	}
	return transactions, nil
}

// importer imports one file.
type importer struct {
	*bank
	out       io.Writer
	progress  *progressbar.ProgressBar
	byAccount map[string][]berka.Transaction
	start     eventstore.Position // events up to this position were stored before
	stored    atomic.Int64        // events that were stored now
	before    atomic.Int64        // events that were stored before
}

func (im *importer) run(ctx context.Context) (err error) {
	if im.start, err = im.store.Tidemark(ctx); err != nil {
		return err
	}
	begun := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(importers)
	for id, lines := range im.byAccount {
		group.Go(func() error { return im.account(groupCtx, id, lines) })
	}
	err = group.Wait()
	_ = im.progress.Finish()
	if err != nil {
		return err
	}
	took := time.Since(begun)
	fmt.Fprintf(im.out, "%d accounts, %d events in %.1f s: %.0f events/s\n",
		len(im.byAccount), im.stored.Load(), took.Seconds(), float64(im.stored.Load())/took.Seconds())
	if n := im.before.Load(); n > 0 {
		fmt.Fprintf(im.out, "%d events were stored before\n", n)
	}
	end, err := im.store.Tidemark(ctx)
	if err != nil {
		return err
	}
	if err := im.runner.Wait(ctx, end); err != nil {
		return err
	}
	fmt.Fprintf(im.out, "read models complete after %.1f s\n", time.Since(begun).Seconds())
	return im.reconcile(ctx)
}

// account sends the commands for one account, in the order of the file.
func (im *importer) account(ctx context.Context, id string, lines []berka.Transaction) error {
	ctx = eventstore.WithMetadata(ctx, eventstore.Metadata{Actor: "import"})
	open := OpenAccount{id, account.Opened{
		Owner: "Account holder " + id, Currency: importCurrency,
		Overdraft: importOverdraft, Date: account.Date(lines[0].Date),
	}}
	if err := im.dispatch(eventstore.WithKey(ctx, "import/account/"+id, nil), open); err != nil {
		return fmt.Errorf("open account %s: %w", id, err)
	}
	for _, t := range lines {
		keyed := eventstore.WithKey(ctx, "import/transaction/"+t.ID, fmt.Append(nil, t.Account, t.Date, t.Amount, t.Credit))
		if err := im.dispatch(keyed, commandFor(t)); err != nil {
			return &berka.Error{Line: t.Line, Err: fmt.Errorf("account %s: %w", id, err)}
		}
		_ = im.progress.Add(1)
	}
	return nil
}

func (im *importer) dispatch(ctx context.Context, c any) error {
	receipt, err := im.bus.Dispatch(ctx, c)
	switch {
	case err != nil:
		return err
	case receipt.Position <= im.start:
		im.before.Add(1)
	default:
		im.stored.Add(1)
	}
	return nil
}

func commandFor(t berka.Transaction) interface{ Validate() error } {
	booking := account.Booking{
		Money:        account.Money{Amount: t.Amount, Currency: importCurrency},
		Date:         account.Date(t.Date),
		Description:  t.Description,
		Counterparty: t.Counterparty,
	}
	if t.Credit {
		return Deposit{t.Account, eventstore.Any, booking}
	}
	return Withdraw{t.Account, eventstore.Any, booking}
}

// reconcile compares the balance of the read model at the end of each day with the file. Within a day the lines of the
// file are not in the bank's order. So the balance must match any one of the balances that the file has for the day.
func (im *importer) reconcile(ctx context.Context) error {
	type accountDay struct{ account, date string }
	recorded := make(map[accountDay][]int64)
	for id, lines := range im.byAccount {
		for _, t := range lines {
			recorded[accountDay{id, t.Date}] = append(recorded[accountDay{id, t.Date}], t.Balance)
		}
	}
	rows, err := im.pool.Query(ctx, `
		select distinct on (account, booked_on) account, booked_on::text, balance
		  from bank.statement
		 order by account, booked_on, version desc`)
	if err != nil {
		return err
	}
	agree, differs := 0, ""
	var day accountDay
	var balance int64
	_, err = pgx.ForEachRow(rows, []any{&day.account, &day.date, &balance}, func() error {
		figures, ours := recorded[day]
		near := func(figure int64) bool { return max(figure-balance, balance-figure) <= tolerance }
		switch {
		case slices.ContainsFunc(figures, near):
			agree++
		case ours && differs == "":
			differs = fmt.Sprintf("account %s on %s has %d, the file says %d", day.account, day.date, balance, figures)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(im.out, "reconciled %d of %d account-days within one crown\n", agree, len(recorded))
	if float64(agree) < mustReconcile*float64(len(recorded)) {
		return fmt.Errorf("the read model differs from the file on %d account-days, first: %s", len(recorded)-agree, differs)
	}
	return nil
}
