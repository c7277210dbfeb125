package codectest_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/codec/codectest"
)

// Golden is called from a test of the application, and keeps a sample of every event that the application has ever
// written. Run the test with GOLDEN=update to write missing files.
func ExampleGolden() {
	c := codec.New(codec.Of("account.opened", same[opened]))

	_ = func(t *testing.T) { // func TestGolden(t *testing.T)
		codectest.Golden[event](t, "testdata/events", c, opened{Owner: "Ada", Currency: "CZK"})
	}
}
