package eventstoretest_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	t.Parallel()
	eventstoretest.Run(t, func(*testing.T) eventstoretest.Store { return eventstoretest.NewMemory() })
}
