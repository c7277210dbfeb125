// Package host has what the examples share and real services do not need: a Postgres of their own, and a
// progress bar.
//
// # Guarantees
//
//   - A function stops everything that it has started, in reverse order, before it returns.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/tidemark-es/tidemark/localpg"
	"github.com/tidemark-es/tidemark/service"
)

// WithPostgres calls do with the connection string of a Postgres. It uses the Postgres that DATABASE_URL names, or
// starts one with its data in the folder dir and stops it at the end. Without dir the data of a Postgres that it
// starts are deleted at the end. kept says whether the data still exist after that.
func WithPostgres(ctx context.Context, dir string, do func(ctx context.Context, url string, kept bool) error) error {
	if dir != "" && os.Getenv("DATABASE_URL") != "" {
		return errors.New("-data is for a Postgres that the program starts, but DATABASE_URL names another one: use only one of the two")
	}
	postgres, err := localpg.Start(ctx, &localpg.Config{Durable: true, Dir: dir})
	if err != nil {
		return err
	}
	kept := dir != "" || postgres.Source() == localpg.URL
	slog.Info("Postgres is ready", "source", postgres.Source(), "kept", kept)
	err = service.Alongside(ctx,
		func(ctx context.Context) error {
			select {
			case <-postgres.Done():
				return errors.New("the program's Postgres has ended")
			case <-ctx.Done():
				return nil
			}
		},
		func(ctx context.Context) error { return do(ctx, postgres.URL(), kept) })
	return errors.Join(err, postgres.Stop())
}

// NewProgress returns a progress bar on w that counts up to total and is labelled with what. It shows nothing unless w
// is a terminal.
func NewProgress(w io.Writer, what string, total int) *progressbar.ProgressBar {
	if file, ok := w.(*os.File); !ok || !term.IsTerminal(int(file.Fd())) {
		return progressbar.DefaultSilent(int64(total))
	}
	return progressbar.NewOptions(total,
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }))
}
