//go:build !(linux || darwin || freebsd)

package localpg

import (
	"context"
	"fmt"
)

// On other systems there is no watchdog, and without it no promise that nothing
// is left behind: only a server named by its connection string is handed out.

func (c *Config) startLocal(context.Context) (*Server, error) {
	return nil, fmt.Errorf("running Postgres on this system is %w", errAbsent)
}

func (c *Config) startContainer(ctx context.Context) (*Server, error) { return c.startLocal(ctx) }

func (c *Config) startDownload(ctx context.Context) (*Server, error) { return c.startLocal(ctx) }
