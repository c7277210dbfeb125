package pgerr_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/internal/pgerr"
)

func TestAdvice(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		"42501": "migrations.CreateRoles", "25006": "target_session_attrs=read-write",
		"42P05": "default_query_exec_mode=exec", "26000": "default_query_exec_mode=exec", "08P01": "default_query_exec_mode=exec",
		"53300": "pool_max_conns", "22021": "UTF8", "22P05": "UTF8", "57014": "statement_timeout", "3D000": "create the database",
		"23505": "", "40001": "", "": "",
	} {
		got := pgerr.Advice(fmt.Errorf("append: %w", &pgconn.PgError{Code: code}))
		if !strings.Contains(got, want) || (got == "") != (want == "") || strings.HasSuffix(got, ".") {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
	if got := pgerr.Advice(errors.New("no error of Postgres")); got != "" {
		t.Errorf("%q for another error", got)
	}
}
