package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// Most tests here run in a synctest bubble. A bubble fails when its goroutines wait for each other, or when a goroutine
// is left at the end. So these tests also show that Take does not block, and that no goroutine outlives the work.

func TestTakeSavesLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		release := store.block()
		snapshots := must(snapshot.NewSnapshotter(store, nil))
		a := newJob(made("a", 1))
		snapshots.Take(t.Context(), a.Job)
		synctest.Wait()
		if got := snapshots.Stats(); got != (snapshot.Stats{}) || a.made.Load() != 1 {
			t.Errorf("while it is saved: %+v, made %d times", got, a.made.Load())
		}
		var flushed atomic.Bool
		go func() { snapshots.Flush(); flushed.Store(true) }()
		synctest.Wait()
		if flushed.Load() {
			t.Error("Flush does not wait")
		}
		release()
		snapshots.Flush()
		store.has(t, a.snapshot)
		if got, want := snapshots.Stats(), (snapshot.Stats{Saved: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		snapshots.Flush() // with nothing to do
	})
}

// TestTakeIgnoresItsContext: a snapshot is saved although the context of the request has ended before.
func TestTakeIgnoresItsContext(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := newFake(t)
			snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Sync: sync}))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			a := newJob(made("a", 1))
			snapshots.Take(ctx, a.Job)
			if !sync {
				snapshots.Flush()
			}
			store.has(t, a.snapshot)
		})
	}
}

// TestSync: the snapshot is there when Take returns, and nothing runs in the background.
func TestSync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Sync: true, Queue: 1, Logger: quiet().Logger}))
		for version := range eventstore.Version(3) {
			a := newJob(made("a", version+1))
			snapshots.Take(t.Context(), a.Job)
			store.has(t, a.snapshot)
		}
		bad := newJob(made("a", 0))
		snapshots.Take(t.Context(), bad.Job)
		if got, want := snapshots.Stats(), (snapshot.Stats{Saved: 3, Failed: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		snapshots.Close()
		late := newJob(made("late", 1))
		snapshots.Take(t.Context(), late.Job)
		if got, want := snapshots.Stats(), (snapshot.Stats{Saved: 3, Failed: 1, Dropped: 1}); got != want || late.made.Load() != 0 {
			t.Errorf("after Close: %+v, made %d times; want %+v", got, late.made.Load(), want)
		}
		store.hasNone(t, "late")
	})
}

// TestSyncWaits: with Config.Sync, Take waits for a slow store.
func TestSyncWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		release := store.block()
		snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Sync: true}))
		var returned atomic.Bool
		go func() { snapshots.Take(t.Context(), newJob(made("a", 1)).Job); returned.Store(true) }()
		synctest.Wait()
		if returned.Load() {
			t.Error("Take returned before the snapshot was saved")
		}
		release()
		synctest.Wait()
		if !returned.Load() {
			t.Error("Take does not return")
		}
	})
}

// TestQueueIsBounded: a job that finds the queue full is dropped at once.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		release := store.block()
		snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Queue: 2}))
		var jobs []*job
		for _, key := range []string{"saving", "first", "second", "dropped", "too"} {
			jobs = append(jobs, newJob(made(key, 1)))
			snapshots.Take(t.Context(), jobs[len(jobs)-1].Job)
			synctest.Wait() // the first one leaves the queue
		}
		if n := snapshots.Stats().Dropped; n != 2 {
			t.Errorf("%d were dropped, want 2", n)
		}
		// A job of a stream that already waits needs no room.
		again := newJob(made("first", 2))
		snapshots.Take(t.Context(), again.Job)
		release()
		snapshots.Flush()
		store.has(t, jobs[0].snapshot)
		store.has(t, again.snapshot)
		store.has(t, jobs[2].snapshot)
		store.hasNone(t, "dropped")
		store.hasNone(t, "too")
		if jobs[3].made.Load()+jobs[4].made.Load() != 0 {
			t.Error("what was dropped was made")
		}
		if got, want := snapshots.Stats(), (snapshot.Stats{Saved: 3, Dropped: 2, Merged: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		// There is room again.
		last := newJob(made("last", 1))
		snapshots.Take(t.Context(), last.Job)
		snapshots.Flush()
		store.has(t, last.snapshot)
	})
}

// TestDefaultQueue: while one snapshot is being saved, 1000 others fit into the queue.
func TestDefaultQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		release := store.block()
		snapshots := must(snapshot.NewSnapshotter(store, nil))
		for i := range 1011 {
			snapshots.Take(t.Context(), newJob(made(fmt.Sprint(i), 1)).Job)
			if i == 0 {
				synctest.Wait()
			}
		}
		release()
		snapshots.Flush()
		if got, want := snapshots.Stats(), (snapshot.Stats{Saved: 1001, Dropped: 10}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		// They are saved in batches of a bounded size.
		if want := []int{1, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 40}; !slices.Equal(store.batches(), want) {
			t.Errorf("saved in batches of %v, want %v", store.batches(), want)
		}
	})
}

// TestPace: the first snapshot is saved at once, and snapshots that come soon after it are saved together. A full batch
// does not wait, and Flush does not wait.
func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		snapshots := must(snapshot.NewSnapshotter(store, nil))
		start := time.Now()
		take := func(n int) {
			for i := range n {
				snapshots.Take(t.Context(), newJob(made(fmt.Sprint(len(store.batches()), "-", i), 1)).Job)
			}
			synctest.Wait()
		}
		saved := func(want ...int) {
			t.Helper()
			if got := store.batches(); !slices.Equal(got, want) {
				t.Errorf("after %s: saved in batches of %v, want %v", time.Since(start), got, want)
			}
		}
		take(1)
		saved(1)
		take(1)
		time.Sleep(20 * time.Millisecond) // of the bubble's time
		take(2)
		saved(1)
		time.Sleep(40 * time.Millisecond)
		synctest.Wait()
		saved(1, 2)
		take(64)
		saved(1, 2, 64)
		take(3)
		before := time.Now()
		snapshots.Flush()
		saved(1, 2, 64, 3)
		if waited := time.Since(before); waited > 0 {
			t.Errorf("Flush waited for %s", waited)
		}
		time.Sleep(time.Hour)
		take(1)
		saved(1, 2, 64, 3, 1)
	})
}

// TestMerge: of several waiting jobs of one stream, only the latest is done.
func TestMerge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		release := store.block()
		snapshots := must(snapshot.NewSnapshotter(store, nil))
		saving := newJob(made("a", 1))
		snapshots.Take(t.Context(), saving.Job)
		synctest.Wait() // it is not in the queue any more
		if got := snapshots.UnderWay(stream("a")); got != 1 {
			t.Errorf("version %d is under way, want 1", got)
		}
		var jobs []*job
		for version := eventstore.Version(2); version <= 5; version++ {
			jobs = append(jobs, newJob(made("a", version)))
			snapshots.Take(t.Context(), jobs[len(jobs)-1].Job)
		}
		late := newJob(made("a", 4)) // by another repository
		snapshots.Take(t.Context(), late.Job)
		if got := snapshots.UnderWay(stream("a")); got != 5 {
			t.Errorf("version %d is under way, want 5", got)
		}
		release()
		snapshots.Flush()
		if got := snapshots.UnderWay(stream("a")); got != 0 {
			t.Errorf("version %d is under way, want none", got)
		}
		store.has(t, jobs[3].snapshot)
		for i, want := range []int64{0, 0, 0, 1} {
			if n := jobs[i].made.Load(); n != want {
				t.Errorf("job %d was made %d times, want %d", i, n, want)
			}
		}
		if got, want := snapshots.Stats(), (snapshot.Stats{Saved: 2, Merged: 4}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// TestFailuresNeverSurface: failures are logged and counted, the log has no state, and no other snapshot is lost.
func TestFailuresNeverSurface(t *testing.T) {
	t.Parallel()
	for _, inTake := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := newFake(t)
			store.refuse("refused")
			var log bytes.Buffer
			snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Sync: inTake, Logger: slog.New(slog.NewTextHandler(&log, nil))}))
			failing, panicking, refused, invalid := newJob(made("failing", 1)), newJob(made("panicking", 1)), newJob(made("refused", 1)), newJob(made("invalid", -1))
			failing.Make = func() (snapshot.Snapshot, error) { return snapshot.Snapshot{}, errors.New("cannot encode") }
			panicking.Make = func() (snapshot.Snapshot, error) { panic("encoder bug") }
			before, after := newJob(made("before", 1)), newJob(made("zafter", 1))
			jobs := []*job{before, failing, panicking, refused, invalid, after, newJob(made("nil make", 1))}
			jobs[len(jobs)-1].Make = nil
			for _, job := range jobs {
				snapshots.Take(t.Context(), job.Job)
			}
			snapshots.Close()
			store.has(t, before.snapshot)
			store.has(t, after.snapshot)
			if got, want := snapshots.Stats(), (snapshot.Stats{Saved: 2, Failed: 5}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			lines := strings.Split(strings.TrimSpace(log.String()), "\n")
			if len(lines) != 5 {
				t.Errorf("%d lines are logged, want 5:\n%s", len(lines), &log)
			}
			for key, reason := range map[string]string{
				"failing": "cannot encode", "panicking": "encoder bug", "refused": "it is refused", "invalid": "version -1", `nil make"`: "nil pointer",
			} {
				if !slices.ContainsFunc(lines, func(line string) bool {
					return strings.Contains(line, "thing-"+key) && strings.Contains(line, reason) && strings.Contains(line, "level=WARN")
				}) {
					t.Errorf("nothing is logged of %s that says %q:\n%s", key, reason, &log)
				}
			}
			if strings.Contains(log.String(), "the state") {
				t.Errorf("a state is logged:\n%s", &log)
			}
		})
	}
}

// TestDeadStore: when a whole batch fails, each of its snapshots is counted once.
func TestDeadStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		store.fail(errors.New("no connection"))
		snapshots := must(snapshot.NewSnapshotter(store, quiet()))
		for _, key := range []string{"a", "b", "c"} {
			snapshots.Take(t.Context(), newJob(made(key, 1)).Job)
		}
		snapshots.Close()
		if got, want := snapshots.Stats(), (snapshot.Stats{Failed: 3}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	})
}

// TestCloseEnds: Close ends after 10 s per batch, even when the store does not answer.
func TestCloseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		store.block()
		snapshots := must(snapshot.NewSnapshotter(store, quiet()))
		var jobs []*job
		for i := range 100 {
			jobs = append(jobs, newJob(made(fmt.Sprint(i), 1)))
			snapshots.Take(t.Context(), jobs[i].Job)
		}
		start := time.Now()
		snapshots.Close()
		if took := time.Since(start); took < 20*time.Second || took > 30*time.Second {
			t.Errorf("it took %s", took)
		}
		if n := snapshots.Stats().Failed; n != 100 {
			t.Errorf("%d failed, want 100", n)
		}
	})
}

// TestClose: Close saves the snapshots in the queue and drops later ones.
func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFake(t)
		release := store.block()
		snapshots := must(snapshot.NewSnapshotter(store, nil))
		var jobs []*job
		for i := range 200 {
			jobs = append(jobs, newJob(made(fmt.Sprint(i), 1)))
			snapshots.Take(t.Context(), jobs[i].Job)
		}
		var closed atomic.Bool
		go func() { snapshots.Close(); closed.Store(true) }()
		synctest.Wait()
		if closed.Load() {
			t.Error("Close does not wait")
		}
		late, merged := newJob(made("late", 1)), newJob(made("199", 2))
		snapshots.Take(t.Context(), late.Job)
		snapshots.Take(t.Context(), merged.Job)
		release()
		snapshots.Close() // a second time does no harm
		for _, job := range jobs {
			store.has(t, job.snapshot)
		}
		store.hasNone(t, "late")
		if got, want := snapshots.Stats(), (snapshot.Stats{Saved: 200, Dropped: 2}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		later := newJob(made("later", 1))
		snapshots.Take(t.Context(), later.Job)
		store.hasNone(t, "later")
	})
}

// TestEveryJobCounts: in any interleaving, each job is made at most once and is counted exactly once.
func TestEveryJobCounts(t *testing.T) {
	t.Parallel()
	store := newFake(t)
	store.refuse("3")
	config := quiet()
	config.Queue = 4
	snapshots := must(snapshot.NewSnapshotter(store, config))
	const goroutines, each = 8, 100
	all := make([][]*job, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for n := range each {
				j := newJob(made(fmt.Sprint(rand.IntN(8)), eventstore.Version(n+1)))
				switch rand.IntN(8) {
				case 0:
					j.Make = func() (snapshot.Snapshot, error) { return snapshot.Snapshot{}, errors.New("failed") }
				case 1:
					j.Make = func() (snapshot.Snapshot, error) { panic("failed") }
				case 2:
					snapshots.Flush()
				}
				all[g] = append(all[g], j)
				snapshots.Take(t.Context(), j.Job)
				if g == 0 && n == each-10 {
					snapshots.Close()
				}
			}
		})
	}
	wg.Wait()
	for _, jobs := range all {
		for _, j := range jobs {
			if j.made.Load() > 1 {
				t.Errorf("made %d times", j.made.Load())
			}
		}
	}
	got := snapshots.Stats()
	if sum := got.Saved + got.Failed + got.Dropped + got.Merged; sum != goroutines*each {
		t.Errorf("%+v are %d, want %d", got, sum, goroutines*each)
	}
}

// TestDue: the policy is asked only if there are new events. The default policy wants 100 of them.
func TestDue(t *testing.T) {
	t.Parallel()
	byDefault := must(snapshot.NewSnapshotter(newFake(t), nil))
	for events, want := range map[int]bool{0: false, 1: false, 99: false, 100: true, 101: true} {
		if got := byDefault.Due(snapshot.Progress{Events: events}); got != want {
			t.Errorf("after %d events: %v, want %v", events, got, want)
		}
	}
	var asked []snapshot.Progress
	custom := must(snapshot.NewSnapshotter(newFake(t), &snapshot.Config{Policy: func(p snapshot.Progress) bool {
		asked = append(asked, p)
		return true
	}}))
	if custom.Due(snapshot.Progress{Version: 7}) || !custom.Due(snapshot.Progress{Version: 8, Events: 1}) {
		t.Error("it is due for no event, or not for one")
	}
	if len(asked) != 1 || asked[0].Version != 8 {
		t.Errorf("asked about %+v", asked)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	of := func(schema int) snapshot.Kind { return snapshot.Kind{Type: kind.Type, Shape: "it", Schema: schema} }
	older, now, newer := of(1), of(2), of(3)
	reshaped, another := now, now
	reshaped.Shape, another.Type = "another", "another"
	one := func(k snapshot.Kind) []snapshot.Snapshot {
		s := made("a", 5)
		s.Kind = k
		return []snapshot.Snapshot{s}
	}
	for name, test := range map[string]struct {
		there []snapshot.Snapshot
		found bool
		stays bool
		want  snapshot.Stats
	}{
		"none":    {nil, false, false, snapshot.Stats{Absent: 1}},
		"found":   {one(now), true, true, snapshot.Stats{Used: 1}},
		"older":   {one(older), false, true, snapshot.Stats{Outdated: 1}},
		"newer":   {one(newer), false, true, snapshot.Stats{Outdated: 1}},
		"shape":   {one(reshaped), false, true, snapshot.Stats{Outdated: 1}},
		"another": {one(another), false, false, snapshot.Stats{Bad: 1}},
	} {
		store := newFake(t)
		mustSave(t, store, test.there...)
		var log bytes.Buffer
		snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}))
		got, found := snapshots.Load(t.Context(), stream("a"), now, 10)
		if found != test.found || found && (got.Version != 5 || string(got.Data) != "the state") || !found && (got.Data != nil || got.Version != 0) {
			t.Errorf("%s: %+v, %v", name, got, found)
		}
		if stats := snapshots.Stats(); stats != test.want {
			t.Errorf("%s: %+v, want %+v", name, stats, test.want)
		}
		if _, stays, err := store.Load(t.Context(), stream("a"), now, 10); stays != test.stays || err != nil {
			t.Errorf("%s: is there afterwards: %v, %v", name, stays, err)
		}
		logged := strings.Contains(log.String(), "stream=thing-a version=5") && strings.Contains(log.String(), "another")
		if logged != (name == "another") || !logged && log.Len() > 0 {
			t.Errorf("%s: logged %q", name, &log)
		}
	}
}

// TestLoadFails: a store that fails is treated like a store without snapshots, because the events are there.
func TestLoadFails(t *testing.T) {
	t.Parallel()
	store := newFake(t)
	mustSave(t, store, made("a", 1))
	store.fail(errors.New("no connection"))
	var log bytes.Buffer
	snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}))
	if got, found := snapshots.Load(t.Context(), stream("a"), kind, 10); found || got.Data != nil {
		t.Errorf("found %+v", got)
	}
	if got, want := snapshots.Stats(), (snapshot.Stats{Failed: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !strings.Contains(log.String(), "thing-a") || !strings.Contains(log.String(), "no connection") {
		t.Errorf("logged %q", &log)
	}
	log.Reset()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, found := snapshots.Load(ctx, stream("a"), kind, 10); found || snapshots.Stats().Failed != 1 || log.Len() > 0 {
		t.Errorf("a caller who gave up: %v, %+v, logged %q", found, snapshots.Stats(), &log)
	}
}

// TestReject: a snapshot that was found and cannot be used is deleted.
func TestReject(t *testing.T) {
	t.Parallel()
	store := newFake(t)
	var log bytes.Buffer
	snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}))
	mustSave(t, store, made("a", 5), made("b", 5))
	bad, found := snapshots.Load(t.Context(), stream("a"), kind, 10)
	if !found {
		t.Fatal("not found")
	}
	snapshots.Reject(t.Context(), bad, errors.New("it does not decode"))
	store.hasNone(t, "a")
	if _, ok, err := store.Load(t.Context(), stream("b"), kind, 10); !ok || err != nil {
		t.Errorf("another stream's: %v, %v", ok, err)
	}
	if got, want := snapshots.Stats(), (snapshot.Stats{Used: 1, Bad: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, part := range []string{"level=WARN", "stream=thing-a", "version=5", "it does not decode"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("logged %q, without %q", &log, part)
		}
	}
	if strings.Contains(log.String(), "the state") {
		t.Errorf("a state is logged: %q", &log)
	}

	store.fail(errors.New("no connection"))
	snapshots.Reject(t.Context(), made("b", 5), errors.New("it does not decode"))
	if got, want := snapshots.Stats(), (snapshot.Stats{Used: 1, Bad: 2, Failed: 1}); got != want {
		t.Errorf("with a store that fails: %+v, want %+v", got, want)
	}
}

func TestNewPanics(t *testing.T) {
	t.Parallel()
	for want, construct := range map[string]func(){
		"NewSnapshotter: invalid argument: the store is nil:":          func() { must(snapshot.NewSnapshotter(nil, nil)) },
		"NewSnapshotter: invalid argument: the store is nil: pass one": func() { must(snapshot.NewSnapshotter((*snapshot.Postgres)(nil), nil)) },
		"NewSnapshotter: invalid argument: Config.Queue is -1":         func() { must(snapshot.NewSnapshotter(newFake(t), &snapshot.Config{Queue: -1})) },
		"Every: n is 0: want 1 or more":                                func() { snapshot.Every(0) },
		"Every: n is -7: want 1 or more":                               func() { snapshot.Every(-7) },
		"OlderThan: age is -1s: want 0":                                func() { snapshot.OlderThan(-time.Second) },
		"LoadedMoreThan: n is -1: want 0":                              func() { snapshot.LoadedMoreThan(-1) },
		"LoadedSlowerThan: limit is -1s: want":                         func() { snapshot.LoadedSlowerThan(-time.Second) },
		"AnyOf: policy 2 of 2 is nil":                                  func() { snapshot.AnyOf(snapshot.Never(), nil) },
		"AllOf: policy 1 of 1 is nil":                                  func() { snapshot.AllOf(nil) },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "snapshot: "+want) {
					t.Errorf("panic %q, want one that says %q", got, want)
				}
			}()
			construct()
		}()
	}
	for want, retention := range map[string]snapshot.Retention{
		"Retention.Latest is -1": {Latest: -1}, "Retention.Period is 1ms": {Period: time.Millisecond}, "Retention.Period is -1h0m0s": {Period: -time.Hour},
	} {
		if _, err := snapshot.NewMemory(retention); !errors.Is(err, snapshot.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want ErrInvalid that says %q", err, want)
		}
	}
	if _, err := snapshot.NewPostgres(nil, nil); !errors.Is(err, snapshot.ErrInvalid) || !strings.Contains(err.Error(), "the pool is nil") {
		t.Errorf("%v, want ErrInvalid", err)
	}
	store := newFake(t)
	if must(snapshot.NewSnapshotter(store, nil)).Store() != store {
		t.Error("another store")
	}
}

// A snapshotter saves in the background. Package aggregate calls it. Close waits for the snapshots in the queue.
func ExampleNewSnapshotter() {
	store, err := snapshot.NewMemory(snapshot.Retention{Latest: 2})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	account := eventstore.StreamID{Category: "account", Key: "42"}
	state := snapshot.Kind{Type: "account/state", Schema: 1}

	snapshots := must(snapshot.NewSnapshotter(store, &snapshot.Config{Policy: snapshot.Every(50)}))
	if snapshots.Due(snapshot.Progress{Stream: account, Version: 50, Events: 50}) {
		snapshots.Take(ctx, snapshot.Job{Stream: account, Make: func() (snapshot.Snapshot, error) {
			return snapshot.Snapshot{
				Stream: account, Version: 50, EventID: uuid.New(), RecordedAt: time.Now(), Kind: state, Data: []byte(`{"balance":120}`),
			}, nil
		}})
	}
	snapshots.Close()

	found, ok := snapshots.Load(ctx, account, state, 73)
	fmt.Printf("%v at version %d: %s\n", ok, found.Version, found.Data)
	fmt.Printf("%+v\n", snapshots.Stats())
	// Output:
	// true at version 50: {"balance":120}
	// {Used:1 Absent:0 Outdated:0 Bad:0 Saved:1 Failed:0 Dropped:0 Merged:0}
}

func quiet() *snapshot.Config { return &snapshot.Config{Logger: slog.New(slog.DiscardHandler)} }

// job counts how often it is made.
type job struct {
	snapshot.Job
	snapshot snapshot.Snapshot
	made     atomic.Int64
}

func newJob(s snapshot.Snapshot) *job {
	j := &job{snapshot: s}
	j.Job = snapshot.Job{
		Stream: s.Stream, Version: s.Version,
		Make: func() (snapshot.Snapshot, error) {
			j.made.Add(1)
			return s, nil
		},
	}
	return j
}

// fake is a store in memory that can fail, refuse and block.
type fake struct {
	*snapshot.Memory

	mu      sync.Mutex
	err     error
	refused string
	gate    chan struct{} // nil for none
	sizes   []int
}

func newFake(t testing.TB) *fake {
	t.Helper()
	store, err := snapshot.NewMemory(snapshot.Retention{})
	if err != nil {
		t.Fatal(err)
	}
	return &fake{Memory: store}
}

// block makes every later Save wait until release is called, or until the context of the Save ends.
func (f *fake) block() (release func()) {
	f.gate = make(chan struct{})
	return func() { close(f.gate) }
}

// fail makes everything fail from now on.
func (f *fake) fail(err error) { f.err = err }

// refuse makes every Save fail that contains a snapshot of this stream.
func (f *fake) refuse(key string) { f.refused = key }

func (f *fake) batches() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sizes
}

func (f *fake) Load(ctx context.Context, stream eventstore.StreamID, kind snapshot.Kind, to eventstore.Version) (snapshot.Snapshot, bool, error) {
	if f.err != nil {
		return snapshot.Snapshot{}, false, f.err
	}
	return f.Memory.Load(ctx, stream, kind, to)
}

func (f *fake) Save(ctx context.Context, snapshots ...snapshot.Snapshot) error {
	f.mu.Lock()
	f.sizes = append(f.sizes, len(snapshots))
	f.mu.Unlock()
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if slices.ContainsFunc(snapshots, func(s snapshot.Snapshot) bool { return s.Stream.Key == f.refused }) {
		return errors.New("it is refused")
	}
	if f.err != nil {
		return f.err
	}
	return f.Memory.Save(ctx, snapshots...)
}

func (f *fake) Delete(ctx context.Context, stream eventstore.StreamID, version eventstore.Version) error {
	if f.err != nil {
		return f.err
	}
	return f.Memory.Delete(ctx, stream, version)
}

// has checks that want is the latest snapshot of its stream in the store.
func (f *fake) has(t *testing.T, want snapshot.Snapshot) {
	t.Helper()
	got, ok, err := f.Memory.Load(context.WithoutCancel(t.Context()), want.Stream, want.Kind, 1<<62)
	if err != nil || !ok || got.Version != want.Version || got.EventID != want.EventID {
		t.Errorf("stored of %s: version %d, %v, %v; want %d", want.Stream, got.Version, ok, err, want.Version)
	}
}

func (f *fake) hasNone(t *testing.T, key string) {
	t.Helper()
	if got, ok, err := f.Memory.Load(t.Context(), stream(key), kind, 1<<62); ok || err != nil {
		t.Errorf("stored of %s: version %d, %v; want none", key, got.Version, err)
	}
}

// must returns the value that a constructor returned, and panics if it returned an error.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
