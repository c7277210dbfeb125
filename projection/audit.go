package projection

import (
	"context"
	"fmt"
	"time"
)

// AuditEntry is a change that was made to a projection.
type AuditEntry struct {
	Projection string
	Version    int    // 0 for all versions
	Action     string // such as pause, retry, skip, or switch
	Actor      string // as the application gives it, see eventstore.Metadata
	Role       string // the role of Postgres that was logged in; a service cannot write another one
	Details    map[string]any
	RecordedAt time.Time
}

// Audit returns the changes that operators made to a projection, and those that it made itself, the latest first.
func (o *Operator) Audit(ctx context.Context, name string, limit int) ([]AuditEntry, error) {
	if limit < 1 || limit > maxList {
		return nil, invalid("limit %d: want from 1 to %d", limit, maxList)
	}
	rows, err := o.db.catalog.AuditList(ctx, o.db.pool, name, limit)
	if err != nil {
		return nil, fmt.Errorf("read the audit of projection %s: %w", name, err)
	}
	entries := make([]AuditEntry, len(rows))
	for n, row := range rows {
		entries[n] = AuditEntry(row)
	}
	return entries, nil
}
