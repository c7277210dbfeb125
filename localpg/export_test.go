//go:build linux || darwin || freebsd

package localpg

import (
	"context"
	"log/slog"
)

// ErrAbsent is what a source that is not there reports.
var ErrAbsent = errAbsent

// Absence is an error of a source that is not there.
func Absence(reason error) error { return absence{reason} }

// Choose lets tests see which source is taken, with sources of their own.
func Choose(config *Config, try func(Source) (*Server, error)) (*Server, error) {
	return config.choose(try)
}

// Ensure downloads release 1.2.3 into a cache folder.
func Ensure(ctx context.Context, cache, repository string) error {
	runAs, err := serverUser()
	if err != nil {
		return err
	}
	d := download{release: "1.2.3", repository: repository, cache: cache, runAs: runAs, logger: slog.New(slog.DiscardHandler)}
	return d.ensure(ctx)
}
