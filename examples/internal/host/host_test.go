package host_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/examples/internal/host"
)

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
		t.Errorf("%v, want the error that do has returned", err)
	}
	t.Setenv("DATABASE_URL", "postgres://localhost/x")
	err = host.WithPostgres(t.Context(), t.TempDir(), func(context.Context, string, bool) error {
		t.Error("do was called, although -data and DATABASE_URL are both set")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "DATABASE_URL") {
		t.Errorf("%v, want it to name DATABASE_URL", err)
	}
}

// TestProgress: nothing is shown unless the writer is a terminal.
func TestProgress(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := host.NewProgress(&out, "orders", 3)
	if err := p.Add(3); err != nil || strings.TrimSpace(out.String()) != "" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
