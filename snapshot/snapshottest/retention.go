package snapshottest

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/snapshot"
)

// saveAt saves one snapshot per time, at the versions from 1, and returns them.
func saveAt(t *testing.T, store snapshot.Store, key string, of snapshot.Kind, times ...time.Time) (saved []snapshot.Snapshot) {
	t.Helper()
	for i, when := range times {
		s := at(made(key, eventstore.Version(i+1), of), when)
		mustSave(t, store, s)
		saved = append(saved, s)
	}
	return saved
}

func testRetentionLatest(t *testing.T, newStore NewStore) {
	for want, n := range map[int]int{1: 0, 2: 2, 3: 3, 5: 5, 6: math.MaxInt} {
		store, key := newStore(t, snapshot.Retention{Latest: n}), fmt.Sprintf("a%d", want)
		var saved []snapshot.Snapshot
		for version := range eventstore.Version(6) {
			s := made(key, (version+1)*10, kind)
			mustSave(t, store, s)
			saved = append(saved, s)
			check(t, store, key, saved[max(0, len(saved)-want):]...)
		}
		mustSave(t, store, made(key+"b", 1, kind)) // another stream is not touched
		check(t, store, key, saved[max(0, len(saved)-want):]...)
	}
}

// testRetentionPeriod: the last of each period is kept. Periods are counted from 1970 in UTC.
func testRetentionPeriod(t *testing.T, newStore NewStore) {
	midnight := time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC)
	const day, µ = 24 * time.Hour, time.Microsecond
	for name, test := range map[string]struct {
		period time.Duration
		times  []time.Time
		kept   []int
	}{
		"several in each":  {day, []time.Time{midnight, midnight.Add(1), midnight.Add(day / 2), midnight.Add(day), midnight.Add(day + µ), midnight.Add(5 * day)}, []int{2, 4, 5}},
		"boundary":         {day, []time.Time{midnight.Add(-2 * µ), midnight.Add(-µ), midnight, midnight.Add(µ), midnight.Add(day)}, []int{1, 3, 4}},
		"all in one":       {day, []time.Time{midnight, midnight.Add(time.Hour), midnight.Add(day - µ)}, []int{2}},
		"each in its own":  {time.Hour, []time.Time{midnight, midnight.Add(time.Hour), midnight.Add(2 * time.Hour)}, []int{0, 1, 2}},
		"around 1970":      {time.Hour, []time.Time{time.Unix(-3601, 0), time.Unix(-3600, 0), time.Unix(-1, 0), time.Unix(0, 0), time.Unix(3599, 0), time.Unix(3600, 0)}, []int{0, 2, 4, 5}},
		"a µs before 1970": {time.Hour, []time.Time{time.UnixMicro(-2), time.UnixMicro(-1), time.UnixMicro(0), time.UnixMicro(1)}, []int{1, 3}},
		"long before 1970": {day, []time.Time{time.Unix(-86400*1000-1, 0), time.Unix(-86400*1000, 0), time.Unix(-86400*999-1, 0), time.Unix(-86400*999, 0)}, []int{0, 2, 3}},
		"not in UTC":       {day, []time.Time{midnight.Add(-µ), midnight.In(time.FixedZone("west", -3600)), midnight.Add(time.Hour)}, []int{0, 2}},
		"back in time":     {day, []time.Time{midnight, midnight.Add(-time.Hour), midnight.Add(time.Hour), midnight.Add(2 * time.Hour)}, []int{0, 1, 3}},
		"a year":           {365 * day, []time.Time{time.Unix(365*86400*54-1, 999_999_000), time.Unix(365*86400*54, 0), time.Unix(365*86400*54, 1000)}, []int{0, 2}},
		"of a second":      {time.Second, []time.Time{midnight.Add(-µ), midnight, midnight.Add(time.Second - µ), midnight.Add(time.Second)}, []int{0, 2, 3}},
		"not of seconds":   {1500 * time.Millisecond, []time.Time{time.UnixMilli(1499), time.UnixMilli(1500), time.UnixMilli(2999), time.UnixMilli(3000)}, []int{0, 2, 3}},
		"of centuries":     {math.MaxInt64, []time.Time{midnight, midnight.Add(1000 * day)}, []int{1}},
	} {
		store := newStore(t, snapshot.Retention{Period: test.period})
		t.Run(name, func(t *testing.T) {
			saved := saveAt(t, store, name, kind, test.times...)
			var want []snapshot.Snapshot
			for _, i := range test.kept {
				s := saved[i]
				s.RecordedAt = time.UnixMicro(s.RecordedAt.UnixMicro())
				want = append(want, s)
			}
			check(t, store, name, want...)
		})
	}
}

// testRetentionPeriodAndLatest: the latest are kept, and of the older ones the last of each period.
func testRetentionPeriodAndLatest(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{Latest: 3, Period: time.Hour})
	minutes := func(all ...int) (times []time.Time) {
		for _, n := range all {
			times = append(times, noon.Add(time.Duration(n)*time.Minute))
		}
		return times
	}
	a := saveAt(t, store, "a", kind, minutes(0, 30, 61, 62, 63, 125, 126, 127, 128)...)
	check(t, store, "a", a[1], a[4], a[6], a[7], a[8])
	b := saveAt(t, store, "b", kind, minutes(0, 30, 40, 65)...)
	check(t, store, "b", b[1:]...) // the last of the first hour is one of the latest
	c := saveAt(t, store, "c", kind, minutes(0, 30)...)
	check(t, store, "c", c...)
}

// testRetentionAfterDelete: a deleted snapshot does not count.
func testRetentionAfterDelete(t *testing.T, newStore NewStore) {
	store := newStore(t, snapshot.Retention{Latest: 2})
	mustSave(t, store, made("a", 1, kind))
	mustSave(t, store, made("a", 2, kind))
	if err := store.Delete(t.Context(), stream("a"), 2); err != nil {
		t.Fatal(err)
	}
	mustSave(t, store, made("a", 3, kind))
	check(t, store, "a", made("a", 1, kind), made("a", 3, kind))
	mustSave(t, store, made("a", 4, kind))
	check(t, store, "a", made("a", 3, kind), made("a", 4, kind))
}

// testRetentionOfKinds: a snapshot of another type is deleted at once, whatever its version. A snapshot of another
// shape or schema is deleted when it is older than the second-latest snapshot of the saved kind: a release that still
// runs would have saved a later one.
func testRetentionOfKinds(t *testing.T, newStore NewStore) {
	for i, retention := range []snapshot.Retention{{}, {Latest: 3}, {Period: time.Second}} {
		store, key := newStore(t, retention), fmt.Sprint(i)
		mustSave(t, store, made(key+"type", 30, another))
		mustSave(t, store, made(key+"type", 10, kind))
		check(t, store, key+"type", made(key+"type", 10, kind))

		for name, other := range map[string]snapshot.Kind{"older": older, "newer": newer, "shape": reshaped} {
			key := key + name
			mustSave(t, store, made(key, 10, other), made(key+"b", 10, other))
			mustSave(t, store, made(key, 20, kind))
			check(t, store, key, made(key, 10, other), made(key, 20, kind))
			mustSave(t, store, made(key, 25, other)) // both releases run
			mustSave(t, store, made(key, 30, kind))
			want := []snapshot.Snapshot{made(key, 10, other), made(key, 20, kind), made(key, 25, other), made(key, 30, kind)}
			if retention == (snapshot.Retention{}) {
				want = []snapshot.Snapshot{want[2], want[3]}
			} else {
				want = want[1:]
			}
			check(t, store, key, want...)
			mustSave(t, store, made(key, 40, kind)) // now only one of them runs
			want = []snapshot.Snapshot{made(key, 20, kind), made(key, 30, kind), made(key, 40, kind)}
			if retention == (snapshot.Retention{}) {
				want = want[2:]
			}
			check(t, store, key, want...)
			check(t, store, key+"b", made(key+"b", 10, other))
		}

		// A snapshot of another type is deleted even if its version is later.
		mustSave(t, store, made(key+"late", 10, another), made(key+"late2", 10, another))
		mustSave(t, store, made(key+"late", 20, kind))
		mustSave(t, store, made(key+"late", 5, another)) // deletes version 20, which is of another type
		check(t, store, key+"late", made(key+"late", 5, another))
		check(t, store, key+"late2", made(key+"late2", 10, another))
	}
}
