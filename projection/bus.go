package projection

import "context"

type bus struct{ *engine }

func newBus(e *engine) *bus { return &bus{e} }

func (b *bus) run(ctx context.Context) { <-ctx.Done() }
