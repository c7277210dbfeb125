package host_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/examples/internal/host"
)

// TestAlongside: what runs in the background outlives ctx, ends with do, and takes do with it when
// it fails.
func TestAlongside(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	ended := false
	err := host.Alongside(ctx,
		func(background context.Context) error {
			<-background.Done()
			ended = true
			return nil
		},
		func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			if ended {
				t.Error("the background ended with ctx")
			}
			return ctx.Err()
		})
	if !errors.Is(err, context.Canceled) || !ended {
		t.Errorf("%v, background ended: %v", err, ended)
	}

	broken := errors.New("broken")
	err = host.Alongside(t.Context(),
		func(context.Context) error { return broken },
		func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
	if !errors.Is(err, broken) {
		t.Errorf("%v, want why the background failed", err)
	}
}

// TestWithPostgres is not parallel: it sets the environment.
func TestWithPostgres(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	done := errors.New("done")
	err := host.WithPostgres(t.Context(), "", func(_ context.Context, url string, kept bool) error {
		if url == "" || kept {
			t.Errorf("url %q, kept %v", url, kept)
		}
		return done
	})
	if !errors.Is(err, done) {
		t.Errorf("%v, want what do has returned", err)
	}
	t.Setenv("DATABASE_URL", "postgres://localhost/x")
	err = host.WithPostgres(t.Context(), t.TempDir(), func(context.Context, string, bool) error {
		t.Error("two databases, and it chose one")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "DATABASE_URL") {
		t.Errorf("%v, want it to name DATABASE_URL", err)
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := host.NewProgress(&out, "orders", 3)
	p.Add(1)
	p.Add(2)
	p.Finish()
	if got := out.String(); !strings.HasPrefix(got, "3 of 3 orders, ") || strings.Count(got, "\n") != 1 {
		t.Errorf("%q", got)
	}
}
