package projection_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection"
)

// TestFoldKeys: an event is folded once into each of its rows, and an event without keys into no row. An event that
// fails for one row is a dead letter of that row only. The partition and the event's other rows continue.
func TestFoldKeys(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprint(partitions), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			b := f.book("book")
			b.broken.Store(true)
			keys := func(e eventstore.Event[change]) []string {
				if e.Data.Op == "no such key" {
					return []string{"a", ""}
				}
				return e.Data.Keys
			}
			fold := func(row *entry, e eventstore.Event[change]) projection.Op {
				if e.Data.Op == "fail for b" && row.Name == "b" && b.broken.Load() {
					return projection.Fail(errors.New("it is broken"))
				}
				row.History = append(row.History, e.Data.N)
				return projection.Put
			}
			r, _ := f.start(quiet, f.store, projection.NewTable("book", &projection.Options{Partitions: partitions, DDL: fmt.Sprintf(bookDDL, "book")},
				projection.FoldKeys(b.codecs[0], keys, fold), projection.FoldKeys(b.codecs[1], keys, fold)))
			histories := func() string {
				var all []string
				for _, row := range b.rows() {
					all = append(all, fmt.Sprint(row.Name, row.History))
				}
				return strings.Join(all, " ")
			}
			f.wait(r, b.append(1, change{N: 1, Keys: []string{"b", "a", "b"}}, change{N: 2, Keys: []string{}}, change{N: 3, Keys: []string{"c"}}))
			f.equal("rows", "a[1] b[1] c[3]", histories())

			f.wait(r, b.append(1, change{N: 4, Op: "fail for b", Keys: []string{"a", "b", "c"}}, change{N: 5, Keys: []string{"b", "c"}}))
			f.equal("rows", "a[1 4] b[1] c[3 4 5]", histories())
			f.equal("dead letters", []string{"b 4: 1 tries, 1 wait, it is broken"}, f.letters(r, "book", "", 0, 10))
			f.equal("events handled, each once", int64(3), f.status(r, "book").Handled) // the event at 5 counts with its first key, which is parked
			b.broken.Store(false)
			f.retry(r, 2, "book")
			f.equal("events handled, each once", int64(4), f.status(r, "book").Handled)
			f.equal("rows", "a[1 4] b[1 4 5] c[3 4 5]", histories())

			f.wait(r, b.append(7, change{N: 6, Op: "no such key"}, change{N: 7, Keys: []string{"a"}}))
			f.equal("rows", "a[1 4 7] b[1 4 5] c[3 4 5]", histories())
			if letters := f.letters(r, "book", "book-7", 0, 10); len(letters) != 1 || !strings.Contains(letters[0], "returned no key") {
				t.Errorf("dead letters %q, want one under the stream, whose error says that there is no key", letters)
			}
		})
	}
}
