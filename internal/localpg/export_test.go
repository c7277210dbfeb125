package localpg

// ErrAbsent is what a source that is not there reports.
var ErrAbsent = errAbsent

// Choose lets tests see which source is taken, with sources of their own.
func Choose(config *Config, try func(Source) (*Server, error)) (*Server, error) {
	return config.choose(try)
}
