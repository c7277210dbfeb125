//go:build unix

package projection_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/internal/pgtest"
	"github.com/tidemark-es/tidemark/projection"
)

// TestInherit: the only process is killed with kill -9. The next process takes its partitions at once, even though the
// leases have not expired.
func TestInherit(t *testing.T) {
	t.Parallel()
	f := setupProcesses(t, pgtest.URL(t))
	p := startProcess(t, f.url, "", 1)
	f.appendKeys(10)
	f.check()
	p.kill()
	f.exec(`update tidemark.projection_partitions set lease_expires = clock_timestamp() + interval '10 min', lease_length = '10 min'`)
	f.exec(`update tidemark.projection_members set expires = clock_timestamp() + interval '10 min', length = '10 min'`)
	last := startProcess(t, f.url, "", 1)
	f.appendKeys(10)
	f.check()
	if got := last.end(); got != "exit status 0" {
		t.Errorf("the second process ended with %q", got)
	}
}

// TestWaitSaysWhoIsSilent: when Wait gives up, its error says that no process runs the projection, or that the process
// that runs it was not heard of.
func TestWaitSaysWhoIsSilent(t *testing.T) {
	t.Parallel()
	f := setup(t)
	idle, err := projection.NewRunner(f.pool, f.store, quiet, record("a", nil))
	if err != nil {
		t.Fatal(err)
	}
	says := func(text string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := idle.Wait(ctx, 1<<40); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q in it", err, text)
		}
	}
	says("no process has run it yet")
	r, stop := f.start(quiet, f.store, record("a", nil))
	f.wait(r, f.put("a", 1))
	stop()
	says("no process runs it")
	f.exec(`update tidemark.projection_partitions set lease_owner = 'far:1:away', lease_expires = clock_timestamp() + interval '3 s', lease_length = '10 s'`)
	says("process far:1:away runs it, and has not renewed its lease for 7")
}
