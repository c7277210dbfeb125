package snapshot_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
