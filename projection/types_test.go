package projection_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestAddedUpTo: events of an added type are missing up to the highest checkpoint of the partitions. The checkpoint of
// a batch that is committed during the registration counts too.
func TestAddedUpTo(t *testing.T) {
	t.Parallel()
	f := setup(t)
	version := func(sources ...*codec.Codec[counted]) *projection.Projection {
		var all []projection.HandlerSource
		for _, c := range sources {
			all = append(all, projection.On(c, rollWrite(nil)))
		}
		return projection.New("tally", rollOptions(projection.Options{Partitions: 2}), all...)
	}
	r, stop := f.rollProcess(quiet, version(counting))
	f.append(other, 1)
	last := f.rollHistory(10, 1)
	f.wait(r, last)
	stop()
	f.exec(`update tidemark.projection_partitions set checkpoint = 0`)
	batch, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	move := `update tidemark.projection_partitions set checkpoint = $1 where partition = 1`
	if _, err := batch.Exec(t.Context(), move, last); err != nil {
		t.Fatal(err)
	}
	r, _ = f.rollProcess(quiet, version(counting, other))
	f.until("the registration waits for the batch", func() bool {
		return f.isBlocked(`true`)
	})
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(r, f.append(other, 1))
	want := map[string]eventstore.Position{"other": last}
	if got := f.rollStatus(r, 1).Added; !maps.Equal(got, want) {
		t.Errorf("added types: %v, want %v", got, want)
	}
}

// TestAddedWithoutEvents: when no event of an added type is stored, no event is missing, and no warning is logged.
func TestAddedWithoutEvents(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, handling(nothing, counting))
	f.wait(r, f.append(counting, 2))
	stop()
	config, said := talking()
	r, _ = f.start(config, f.store, handling(nothing, counting, other))
	f.wait(r, f.append(other, 1))
	if added := f.statusOf(r, "a").Added; len(added) > 0 || said.has("level=WARN") {
		t.Errorf("added types %v, and a warning was logged: %t; want neither", added, said.has("level=WARN"))
	}
}

// TestAddedUnknown: when the search for stored events of an added type takes too long, the runner starts anyway. The
// status lists the type, because there may be events.
func TestAddedUnknown(t *testing.T) {
	t.Parallel()
	f := setup(t)
	r, stop := f.start(quiet, f.store, handling(nothing, counting))
	last := f.append(counting, 2)
	f.wait(r, last)
	stop()
	tx, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `lock table tidemark.events in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	r, _ = f.start(quiet, f.store, handling(nothing, counting, other))
	f.until("the type is stored", func() bool {
		return f.rollNumber(`select count(*) from tidemark.projections where 'other' = any (types)`) > 0
	})
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.equal("added", map[string]eventstore.Position{"other": last}, f.statusOf(r, "a").Added)
}

// TestEveryType: a new release gives a subscription all types. Only that release runs the subscription. The old release
// does not pass over events, not even after the new release has called AcceptTypes.
func TestEveryType(t *testing.T) {
	t.Parallel()
	f := setup(t)
	h := newHeard()
	few := func() *projection.Projection {
		return projection.NewSubscription("mails", nil, projection.Effect(counting, h.effect))
	}
	every := func() *projection.Projection {
		return projection.NewSubscription("mails", nil, projection.EffectAll(
			func(_ context.Context, e eventstore.Raw) error {
				h.add(e.Position)
				return nil
			}))
	}
	config, said := talking()
	old, _ := f.start(config, f.store, few())
	f.wait(old, f.append(counting, 3))
	r, stop := f.start(quiet, f.store, every())
	f.until("the old release leaves the subscription", func() bool { return said.has("is not run by this process") })
	f.waitWithin(10*time.Second, r, f.append(other, 2))
	if err := r.Operator().AcceptTypes(t.Context(), projection.Ref{Name: "mails", Version: 1}); err != nil {
		t.Fatal(err)
	}
	f.waitWithin(10*time.Second, r, f.append(other, 2))
	if added := f.status(r, "mails").Added; len(added) != 0 {
		t.Errorf("added types after AcceptTypes: %v, want none", added)
	}
	stop()
	last := f.append(other, 2) // while only the old release runs
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := old.Wait(ctx, last); err == nil {
		t.Error("the old release has passed over events")
	}
	// An operator accepts the few types of the old release.
	if err := old.Operator().AcceptTypes(t.Context(), projection.Ref{Name: "mails", Version: 1}); err != nil {
		t.Fatal(err)
	}
	f.wait(old, f.append(counting, 1))
	want := append(f.log("counted")[:3:3], f.log("other")[:4]...)
	want = append(want, f.log("counted")[3:]...)
	if diff := cmp.Diff(want, h.all()); diff != "" {
		t.Errorf("effects (-log +heard):\n%s", diff)
	}
}

// family is an event with a key. At schema 2 the key has another name, see renamedField.
type family struct {
	Name string
	N    int
}

type renamedField struct {
	Title string
	N     int
}

// TestOldReleaseAndNewSchema: a release that does not know a schema leaves the projection to a release that knows it.
// The old release could not find the key of such an event, and would handle it in the wrong partition.
func TestOldReleaseAndNewSchema(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := codec.New(codec.Of("named", func(e family) family { return e }))
	second := codec.New(
		codec.Of("named", func(e family) family { return e }),
		codec.Of("named", func(e renamedField) family { return family{e.Title, e.N} }).WithSchema(2))
	table := func(counting *codec.Codec[family]) *projection.Projection {
		type row struct {
			Name string `db:"name,key"`
			N    int
		}
		return projection.NewTable("sums", &projection.Options{
			Partitions: 16,
			DDL:        `create table {sums} (name text primary key, n int not null)`,
		}, projection.Fold(counting, func(e eventstore.Event[family]) string { return e.Data.Name },
			func(row *row, e eventstore.Event[family]) projection.Op {
				row.N += e.Data.N
				return projection.Put
			}))
	}
	put := func(n, schema int, data string) eventstore.Position {
		draft := eventstore.Draft{Type: "named", Schema: schema, Data: []byte(data)}
		return f.putDrafts(fmt.Sprint("stream", n), draft)
	}
	old, stopOld := f.start(quiet, f.store, table(first))
	for n := range 20 {
		f.wait(old, put(n, 1, fmt.Sprintf(`{"Name": "name%d", "N": 1}`, n)))
	}
	newer, stopNewer := f.start(quiet, f.store, table(second))
	f.until("the schema known", func() bool { return f.rollNumber(`select cardinality(types) from tidemark.projections`) == 2 })
	var last eventstore.Position
	for n := range 20 {
		last = put(n, 2, fmt.Sprintf(`{"Title": "name%d", "N": 10}`, n))
	}
	f.wait(newer, last)
	f.equal("sums", int64(20), f.rollNumber(`select count(*) from sums where n = 11`))
	s := f.statusOf(newer, "sums")
	if s.Parked > 0 || len(s.Added) > 0 {
		t.Errorf("%d events are parked, and these types are added: %v; want none", s.Parked, s.Added)
	}
	stopOld()
	stopNewer()

	// The new release is taken back. An operator must call AcceptTypes.
	r, _ := f.start(quiet, f.store, table(first))
	last = put(0, 1, `{"Name": "name0", "N": 100}`)
	if err := r.Operator().AcceptTypes(t.Context(), projection.Ref{Name: "sums", Version: projection.Live}); err != nil {
		t.Fatal(err)
	}
	f.wait(r, last)
	f.equal("sums", int64(1), f.rollNumber(`select count(*) from sums where n = 111`))
}
