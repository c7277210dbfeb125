package projection

import "testing"

// TestReasonOf: error texts that differ only in numbers, ids, times, addresses or quoted values have the same reason.
func TestReasonOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		texts  []string
		reason string
	}{
		{[]string{"number -1 is too low\nreally", "number 17.5 is too low"}, "number … is too low"},
		{[]string{`unable to encode (*int)(0xc000123456) into text`, `unable to encode (*int)(0xc0001) into text`}, "unable to encode (*int)(…) into text"},
		{[]string{`ERROR: duplicate key value violates unique constraint "book_v1_pkey" (SQLSTATE 23505)`},
			`ERROR: duplicate key value violates unique constraint "book_v1_pkey" (SQLSTATE 23505)`},
		{[]string{`ERROR: invalid input syntax for type integer: "abc" (SQLSTATE 22P02)`, `ERROR: invalid input syntax for type integer: "x y\"z" (SQLSTATE 22P02)`},
			`ERROR: invalid input syntax for type integer: … (SQLSTATE 22P02)`},
		{[]string{`table "a_v1": field N (int64) cannot be written to column "n": 5 is greater than maximum value for int4 (row "ada")`},
			`table "a_v1": field N (int64) cannot be written to column "n": … is greater than maximum value for int4 (row …)`},
		{[]string{"no order 6ba7b810-9dad-11d1-80b4-00c04fd430c8 at 2024-02-29T12:00:00Z", "no order 7 at 2025-03-01T12:00:01Z"},
			"no order … at …"},
		{[]string{"order o-17 of stream order-ada: gone", "order o-18 of stream order-bob: gone"}, "order … of stream …: gone"},
		{[]string{"ann@example.com has no key", "bob.b@example.org has no key"}, "… has no key"},
		{[]string{"panic: runtime error: index out of range [5] with length 3", "panic: runtime error: index out of range [7] with length 0"},
			"panic: runtime error: index out of range […] with length …"},
	} {
		for _, text := range c.texts {
			if got := reasonOf(text); got != c.reason {
				t.Errorf("%q has the reason %q, want %q", text, got, c.reason)
			}
		}
	}
}
