// Package aggregatetest tests the decisions of an aggregate without a store. A test says which events are given, which
// decision is made, and which events or which error must follow.
//
//	aggregatetest.New(t, account.Definition).
//		Given(account.Opened{Owner: "Ada"}).
//		When(func(a *account.Account) ([]account.Event, error) { return a.Deposit(100) }).
//		Then(account.Deposited{Amount: 100})
//
// # Guarantees
//
//   - Given and decided events go through the codec and back, so that an event that is not
//     registered, or loses a field in storage, fails the test.
//   - A decision that changes the state it was given fails the test.
//   - [CheckApply] fails when Apply ignores an event type of the codec that the test does not name.
//   - [CheckSnapshot] fails when a snapshot of the aggregate, at any point of its history, loses a part of the state.
package aggregatetest
