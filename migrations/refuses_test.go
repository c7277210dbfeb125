package migrations_test

import (
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/migrations"
)

func TestRefusesNilPool(t *testing.T) {
	t.Parallel()
	_, pending := migrations.Pending(t.Context(), nil, nil)
	for what, err := range map[string]error{
		"up": migrations.Up(t.Context(), nil, nil), "down": migrations.Down(t.Context(), nil, nil), "pending": pending,
		"validate": migrations.Validate(t.Context(), nil, nil), "roles": migrations.CreateRoles(t.Context(), nil, nil, migrations.Roles{}),
	} {
		if err == nil || !strings.Contains(err.Error(), "the pool is nil") {
			t.Errorf("%s: %v, want an error about the pool", what, err)
		}
	}
}
