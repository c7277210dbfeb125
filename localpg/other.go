//go:build !(linux || darwin || freebsd)

package localpg

import (
	"context"
	"fmt"
)

// On other systems there is no watchdog, and without it something could be left behind. Only a server that is named by
// its connection string is used.

func (c *Config) startLocal(context.Context) (*Server, error) {
	return nil, fmt.Errorf("running Postgres on this system is %w", errAbsent)
}

func (c *Config) startContainer(ctx context.Context) (*Server, error) { return c.startLocal(ctx) }

func (c *Config) startDownload(ctx context.Context) (*Server, error) { return c.startLocal(ctx) }
