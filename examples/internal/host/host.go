// Package host is what the examples have in common and services have not: a Postgres of their own to run
// on, and a display of progress.
//
// # Guarantees
//
//   - What was started is stopped, in reverse order, before a function returns.
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

// WithPostgres calls do with the connection string of a Postgres: the one that DATABASE_URL names,
// or one that is started and stopped here, with its data in the folder dir. Without dir the data
// are gone at the end; kept says that they are not.
func WithPostgres(ctx context.Context, dir string, do func(ctx context.Context, url string, kept bool) error) error {
	if dir != "" && os.Getenv("DATABASE_URL") != "" {
		return errors.New("-data keeps a Postgres of the program's own, but DATABASE_URL names another one: choose one of them")
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

// NewProgress shows on w how many of total things, which are called what, are done, if w is a terminal.
func NewProgress(w io.Writer, what string, total int) *progressbar.ProgressBar {
	if file, ok := w.(*os.File); !ok || !term.IsTerminal(int(file.Fd())) {
		return progressbar.DefaultSilent(int64(total))
	}
	return progressbar.NewOptions(total,
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }))
}
