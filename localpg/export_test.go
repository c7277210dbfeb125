//go:build linux || darwin || freebsd

package localpg

import (
	"context"
	"log/slog"
)

// ErrAbsent is the error of a source that is not there.
var ErrAbsent = errAbsent

// Absence returns the error of a source that is not there for a reason.
func Absence(reason error) error { return absence{reason} }

// Choose calls choose with sources of a test, so that the test sees which source is taken.
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
