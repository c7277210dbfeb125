package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/examples/bank/account"
	"github.com/tidemark-es/tidemark/examples/bank/berka"
)

const (
	importers       = 16 // accounts imported at a time
	importCurrency  = "CZK"
	importOverdraft = 1_000_000_00     // the file's bank allowed some, without saying how much
	tolerance       = 100              // one crown: the file's interest is rounded
	mustReconcile   = 39_900 / 39_960. // of the account-days; the rest is the file's own doing
)

// runImport imports a file, waits for the read models and compares them with the file. It can be
// interrupted and repeated: each line is a command with an idempotency key of its own.
func runImport(ctx context.Context, b *bank, path string, out io.Writer) error {
	transactions, err := readFile(path)
	if err != nil {
		return err
	}
	byAccount := make(map[string][]berka.Transaction)
	for _, t := range transactions {
		byAccount[t.Account] = append(byAccount[t.Account], t)
	}
	begun := time.Now()
	bar := newProgress(out, len(transactions))
	var events atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(importers)
	for id, lines := range byAccount {
		group.Go(func() error { return importAccount(groupCtx, b.bus, id, lines, &events, bar) })
	}
	err = group.Wait()
	bar.finish()
	if err != nil {
		return fmt.Errorf("%s: %w: nothing is lost, run the import again to go on", path, err)
	}
	took := time.Since(begun)

	end, err := b.store.Tidemark(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d accounts, %d events in %.1f s: %.0f events/s\n",
		len(byAccount), events.Load(), took.Seconds(), float64(events.Load())/took.Seconds())
	if err := b.runner.Wait(ctx, end); err != nil {
		return err
	}
	fmt.Fprintf(out, "read models complete after %.1f s\n", time.Since(begun).Seconds())
	return reconcile(ctx, b, byAccount, out)
}

func readFile(path string) ([]berka.Transaction, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	transactions, err := berka.Parse(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: nothing was imported", path, err)
	}
	return transactions, nil
}

// importAccount sends the commands for one account, in the order of the file.
func importAccount(ctx context.Context, bus *command.Bus, id string, lines []berka.Transaction, events *atomic.Int64, bar *progress) error {
	opened := account.Opened{
		Owner: "Account holder " + id, Currency: importCurrency,
		Overdraft: importOverdraft, Date: account.Date(lines[0].Date),
	}
	ctx = eventstore.WithMetadata(ctx, eventstore.Metadata{Actor: "import"})
	if _, err := bus.Dispatch(eventstore.WithKey(ctx, "import/account/"+id, nil), OpenAccount{id, opened}); err != nil {
		return fmt.Errorf("open account %s: %w", id, err)
	}
	events.Add(1)
	for _, t := range lines {
		keyed := eventstore.WithKey(ctx, "import/transaction/"+t.ID, fmt.Append(nil, t.Account, t.Date, t.Amount, t.Credit))
		if _, err := bus.Dispatch(keyed, commandFor(t)); err != nil {
			return fmt.Errorf("line %d: account %s: %w", t.Line, id, err)
		}
		events.Add(1)
		bar.add(1)
	}
	return nil
}

func commandFor(t berka.Transaction) any {
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

// reconcile compares the read model's balance at the end of each day with the file's. Within a
// day the file's order is not the bank's, so any balance recorded that day will do.
func reconcile(ctx context.Context, b *bank, byAccount map[string][]berka.Transaction, out io.Writer) error {
	type accountDay struct{ account, date string }
	recorded := make(map[accountDay][]int64)
	for id, lines := range byAccount {
		for _, t := range lines {
			recorded[accountDay{id, t.Date}] = append(recorded[accountDay{id, t.Date}], t.Balance)
		}
	}
	rows, err := b.pool.Query(ctx, `
		select distinct on (account, booked_on) account, booked_on::text, balance
		  from bank.statement
		 order by account, booked_on, version desc`)
	if err != nil {
		return err
	}
	agree := 0
	var day accountDay
	var balance int64
	_, err = pgx.ForEachRow(rows, []any{&day.account, &day.date, &balance}, func() error {
		for _, figure := range recorded[day] {
			if max(figure-balance, balance-figure) <= tolerance {
				agree++
				break
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "reconciled %d of %d account-days within one crown\n", agree, len(recorded))
	if float64(agree) < mustReconcile*float64(len(recorded)) {
		return fmt.Errorf("the read model differs from the file on %d account-days", len(recorded)-agree)
	}
	return nil
}
