package command_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
)

func TestRefuses(t *testing.T) {
	t.Parallel()
	handler := func(context.Context, greet) (eventstore.Receipt, error) { return eventstore.Receipt{}, nil }
	same := func(next command.Next) command.Next { return next }
	for want, define := range map[string]func(){
		"NewBus: middleware 2 of 2 is nil":                   func() { command.NewBus(same, nil) },
		"NewBus: middleware 1 of 1 returns nil":              func() { command.NewBus(func(command.Next) command.Next { return nil }) },
		"Register: command_test.greet: the bus is nil":       func() { command.Register(nil, handler) },
		"Register: command_test.greet: the handler is nil":   func() { command.Register[greet](command.NewBus(), nil) },
		"Register: command_test.greet has a handler already": func() { b := command.NewBus(); command.Register(b, handler); command.Register(b, handler) },
		"Register: interface {} is an interface, and no command": func() {
			command.Register(command.NewBus(), func(context.Context, any) (eventstore.Receipt, error) { return eventstore.Receipt{}, nil })
		},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "command: "+want) {
					t.Errorf("panic %q, want one that says %q", got, want)
				}
			}()
			define()
		}()
	}
}
