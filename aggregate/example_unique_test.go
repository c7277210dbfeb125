package aggregate_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/tidemark-es/tidemark/aggregate"
	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/eventstore/eventstoretest"
)

// registered is the event of a user, reserved and released are those of an address.
type (
	registered struct{ Email string }
	reserved   struct{ User string }
	released   struct{}
)

type addressEvent interface{ isAddressEvent() }

func (reserved) isAddressEvent() {}
func (released) isAddressEvent() {}

type user struct{ Email string }

func (u *user) Apply(e registered) { u.Email = e.Email }

// address is the state of an e-mail address: the user that it belongs to.
type address struct{ User string }

func (a *address) Apply(e addressEvent) {
	switch e := e.(type) {
	case reserved:
		a.User = e.User
	case released:
		a.User = ""
	}
}

var errAddressTaken = errors.New("the address belongs to another user")

// reserve decides whether a user may have the address.
func (a *address) reserve(user string) ([]addressEvent, error) {
	if a.User != "" && a.User != user {
		return nil, errAddressTaken
	}
	return []addressEvent{reserved{user}}, nil
}

var (
	users     = aggregate.Define[user]("user", codec.New(codec.Of("user.registered", func(e registered) registered { return e })))
	addresses = aggregate.Define[address]("address", codec.New(
		codec.Of("address.reserved", func(e reserved) addressEvent { return e }),
		codec.Of("address.released", func(e released) addressEvent { return e })))
)

// addressKey returns the key of an address. It is the same for all ways of writing the address, and keeps personal data
// out of the name of the stream.
func addressKey(email string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.TrimSpace(email))))
	return hex.EncodeToString(sum[:])
}

// Each e-mail address belongs to at most one user. The address is an aggregate of its own, and the commit that
// registers a user also reserves the address. If two users register at once, one of them meets a version conflict,
// decides again, and is refused.
func ExampleCommit_unique() {
	ctx := context.Background()
	store := eventstoretest.NewMemory()
	allUsers := made(aggregate.NewRepository(store, users, nil))
	allAddresses := made(aggregate.NewRepository(store, addresses, nil))

	register := func(name, email string) error {
		_, err := aggregate.Commit(ctx, store, nil, func(ctx context.Context) ([]eventstore.Change, error) {
			person, err := allUsers.Load(ctx, name)
			if err != nil {
				return nil, err
			}
			place, err := allAddresses.Load(ctx, addressKey(email))
			if err != nil {
				return nil, err
			}
			reservation, err := place.Change(place.State.reserve(name))
			if err != nil {
				return nil, err
			}
			registration, err := person.Change([]registered{{email}}, nil)
			return []eventstore.Change{registration, reservation}, err
		})
		return err
	}
	fmt.Println(register("ada", "ada@example.com"))
	fmt.Println(register("mallory", "Ada@example.com "))
	// Output:
	// <nil>
	// the address belongs to another user
}
