package pgerr_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

// TestKinds has an entry for each class of Postgres's appendix A, and for each code that differs from its class.
func TestKinds(t *testing.T) {
	t.Parallel()
	for kind, list := range map[pgerr.Kind][]string{
		pgerr.Environment: {
			"08000", "08003", "08006", "08001", "08004", "08007", "08P01", // connection
			"0A000",                                     // cached plan must not change result type
			"25000", "25001", "25006", "25P01", "25P03", // read-only, idle for too long
			"26000", "42P05", // a pooler in the wrong mode
			"28000", "28P01", "2B000", "3D000", // authorization, database
			"40000", "40001", "40002", "40003", "40P01", // rollback
			"53000", "53100", "53200", "53300", "53400", // disk, memory, connections
			"55000", "55006", "55P02", "55P03", "55P04", // replica identity, in use, locks
			"57000", "57014", "57P01", "57P02", "57P03", "57P04", "57P05", // operator, timeouts
			"58000", "58030", "58P01", "58P02", "72000", "F0000", "F0001", "HV000", "HV00N", "XX000", "XX001", "XX002",
			"TM005", "TM008", "TM010", "TM011", "TM012",
		},
		pgerr.Data: {
			"21000",
			"22000", "22001", "22003", "22007", "22008", "2200G", "22012", "22021", "22P02", "22P03", "22P05", "2203G",
			"23000", "23001", "23502", "23503", "23505", "23514", "23P01",
			"27000", "44000",
		},
		pgerr.Objects: {"3F000", "42501", "42703", "42P01", "42P10"},
		pgerr.Unclear: {
			"00000", "01000", "02000", "03000", "0B000", "0F000", "0L000", "0P000", "0Z000", "09000", "20000", "24000",
			"25P02", "2D000", "2F000", "34000", "38000", "39000", "3B000",
			"42000", "42601", "42804", "42883", "42P02", "42P18",
			"54000", "54001", "P0000", "P0001", "P0002", "P0003", "P0004",
			"TM001", "TM003", "TM007", "TM009", "ZZ999", "", "57",
		},
	} {
		for _, code := range list {
			err := fmt.Errorf("handler: %w", &pgconn.PgError{Code: code})
			if got := pgerr.KindOf(err); got != kind {
				t.Errorf("%q is %d, want %d", code, got, kind)
			}
		}
	}
	for _, err := range []error{nil, errors.New("57014")} {
		if got := pgerr.KindOf(err); got != pgerr.Unclear {
			t.Errorf("%v is %d", err, got)
		}
	}
}
