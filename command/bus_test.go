package command_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tidemark-es/tidemark/command"
	"github.com/tidemark-es/tidemark/eventstore"
)

type greet struct{ Name string }

var errNobody = errors.New("nobody to greet")

func (g greet) Validate() error {
	if g.Name == "" {
		return errNobody
	}
	return nil
}

func TestBus(t *testing.T) {
	t.Parallel()
	var trace []string
	note := func(name string) command.Middleware {
		return func(next command.Next) command.Next {
			return func(ctx context.Context, c any) (eventstore.Receipt, error) {
				trace = append(trace, name)
				return next(ctx, c)
			}
		}
	}
	bus := command.NewBus(note("outer"), note("inner"))
	command.Register(bus, func(_ context.Context, g greet) (eventstore.Receipt, error) {
		trace = append(trace, g.Name)
		return eventstore.Receipt{Version: 3}, nil
	})

	receipt, err := bus.Dispatch(t.Context(), greet{"Ada"})
	if err != nil || receipt.Version != 3 {
		t.Errorf("dispatch: %+v, %v", receipt, err)
	}
	if _, err := bus.Dispatch(t.Context(), greet{}); err != errNobody {
		t.Errorf("invalid command: %v, want the error of Validate", err)
	}
	if want := []string{"outer", "inner", "Ada", "outer", "inner"}; !slices.Equal(trace, want) {
		t.Errorf("trace %v, want %v", trace, want)
	}
	for _, c := range []any{"text", &greet{"Ada"}, nil} {
		if _, err := bus.Dispatch(t.Context(), c); !errors.Is(err, command.ErrUnknown) {
			t.Errorf("%T: %v, want ErrUnknown", c, err)
		}
	}
}

func TestRegisterTwice(t *testing.T) {
	t.Parallel()
	bus := command.NewBus()
	handler := func(context.Context, greet) (eventstore.Receipt, error) { return eventstore.Receipt{}, nil }
	command.Register(bus, handler)
	defer func() {
		if recover() == nil {
			t.Error("a second handler was accepted")
		}
	}()
	command.Register(bus, handler)
}

func Example() {
	bus := command.NewBus(func(next command.Next) command.Next {
		return func(ctx context.Context, c any) (eventstore.Receipt, error) {
			fmt.Printf("%T\n", c)
			return next(ctx, c)
		}
	})
	command.Register(bus, func(_ context.Context, g greet) (eventstore.Receipt, error) {
		fmt.Println("hello", g.Name)
		return eventstore.Receipt{Version: 1, Position: 1}, nil
	})
	receipt, err := bus.Dispatch(context.Background(), greet{Name: "Ada"})
	fmt.Println(receipt.Version, err)
	// Output:
	// command_test.greet
	// hello Ada
	// 1 <nil>
}
