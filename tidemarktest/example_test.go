package tidemarktest_test

import (
	"testing"

	"github.com/tidemark-es/tidemark/tidemarktest"
)

// A test with a database of its own, in which a projection runs until the test's end.
func ExampleNew() {
	_ = func(t *testing.T) { // func TestDeposit(t *testing.T)
		t.Parallel()
		env := tidemarktest.New(t, nil)
		runner := env.Run(balances())
		position := deposit(t, env, 100)
		if err := runner.Wait(t.Context(), position); err != nil {
			t.Fatal(err)
		}
		var amount int
		if err := env.Pool.QueryRow(t.Context(), `select amount from balances`).Scan(&amount); err != nil || amount != 100 {
			t.Errorf("the balance is %d, %v; want 100", amount, err)
		}
	}
}
