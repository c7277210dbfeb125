package codectest_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/codec/codectest"
)

// A test of the application that keeps a sample of every event it has ever written. Run it with
// GOLDEN=update to write what is missing.
func ExampleGolden() {
	c := codec.New(codec.Of("account.opened", same[opened]))

	_ = func(t *testing.T) { // func TestGolden(t *testing.T)
		codectest.Golden[event](t, "testdata/events", c, opened{Owner: "Ada", Currency: "CZK"})
	}
}
