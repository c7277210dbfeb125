package projection_test

import (
	"context"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/projection"
)

// TestWaitTogether: whoever waits for a projection has a deadline of their own, also while another one is asking the
// database, which does not answer.
func TestWaitTogether(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.start(quiet, f.store, record("a", nil))
	r, err := projection.NewRunner(f.pool, f.store, quiet, record("a", nil)) // has to ask for what the other one does
	if err != nil {
		t.Fatal(err)
	}
	last := f.append(codec, 1)
	f.wait(r, last)
	stuck, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stuck.Exec(t.Context(), `lock table tidemark.projections`); err != nil {
		t.Fatal(err)
	}
	patient := make(chan error, 1)
	go func() { patient <- r.Wait(t.Context(), last+1) }()
	f.eventually(20*time.Second, "the first one is asking", func() bool {
		return f.rollNumber(`
			select count(*)
			  from pg_stat_activity
			 where datname = current_database()
			   and wait_event_type = 'Lock'
			   and query like '%having count%'`) > 0
	})
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	unlock := time.AfterFunc(5*time.Second, func() { _ = stuck.Rollback(context.Background()) })
	if err := r.Wait(ctx, last+1); err == nil || time.Since(start) > 2*time.Second {
		t.Errorf("it waited %s with a deadline of 50ms: %v", time.Since(start), err)
	}
	if unlock.Stop() {
		_ = stuck.Rollback(t.Context())
	}
	f.append(codec, 1)
	if err := <-patient; err != nil {
		t.Error(err)
	}
}
