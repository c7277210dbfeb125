package codec_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

// AccountEvent is the domain type: only the events of an account implement it.
type AccountEvent interface{ accountEvent() }

type Opened struct {
	Owner    string `json:"owner"`
	Currency string `json:"currency"`
}

type Deposited struct {
	Amount int64 `json:"amount"`
}

// openedV1 is what "account.opened" looked like before accounts had currencies.
type openedV1 struct {
	Owner string `json:"owner"`
}

func (Opened) accountEvent()    {}
func (Deposited) accountEvent() {}

// accounts is the codec of the domain. The order of its types does not matter.
var accounts = codec.New(
	codec.Of("account.opened", func(e openedV1) AccountEvent { return Opened{Owner: e.Owner, Currency: "CZK"} }),
	codec.Of("account.opened", func(e Opened) AccountEvent { return e }).WithSchema(2),
	codec.Of("account.deposited", func(e Deposited) AccountEvent { return e }),
)

// The payload of a type changes its shape. Events of the old shape are upcast when they are read. New events are
// written in the new shape.
func ExampleOf() {
	old := eventstore.Raw{Type: "account.opened", Schema: 1, Data: json.RawMessage(`{"owner":"Ada"}`)}
	events, err := accounts.Decode(old)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", events[0].Data)

	draft, err := accounts.Encode(events[0].Data)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(draft.Type, draft.Schema, string(draft.Data))
	// Output:
	// {Owner:Ada Currency:CZK}
	// account.opened 2 {"owner":"Ada","currency":"CZK"}
}

// older shapes of account.opened
type (
	openedFirst  struct{ Name string }
	openedSecond struct{ Owner string }
)

// Upcasters lead from each shape to the next. A new shape needs one more upcaster.
func ExampleUpcast() {
	c := codec.New(
		codec.Upcast[AccountEvent]("account.opened", 1, func(e openedFirst) openedSecond { return openedSecond{Owner: e.Name} }),
		codec.Upcast[AccountEvent]("account.opened", 2, func(e openedSecond) Opened { return Opened{e.Owner, "CZK"} }),
		codec.Of("account.opened", func(e Opened) AccountEvent { return e }).WithSchema(3),
	)
	printMeaning(c, "account.opened", 1, `{"Name":"Ada"}`)
	printMeaning(c, "account.opened", 2, `{"Owner":"Ada"}`)
	printMeaning(c, "account.opened", 3, `{"owner":"Ada","currency":"EUR"}`)
	// Output:
	// codec_test.Opened{Owner:"Ada", Currency:"CZK"}
	// codec_test.Opened{Owner:"Ada", Currency:"CZK"}
	// codec_test.Opened{Owner:"Ada", Currency:"EUR"}
}

func printMeaning(c *codec.Codec[AccountEvent], name string, schema int, data string) {
	events, err := c.Decode(eventstore.Raw{Type: name, Schema: schema, Data: json.RawMessage(data)})
	if err != nil {
		fmt.Println(err)
		return
	}
	if len(events) == 0 {
		fmt.Println("nothing")
	}
	for _, event := range events {
		fmt.Printf("%#v\n", event.Data)
	}
}

// An upcaster over the payload itself needs no Go type for the older shape.
func ExampleUpcastJSON() {
	c := codec.New(
		codec.UpcastJSON[AccountEvent]("account.deposited", 1, func(data json.RawMessage) (json.RawMessage, error) {
			var old struct{ Crowns int64 }
			if err := json.Unmarshal(data, &old); err != nil {
				return nil, err
			}
			return json.Marshal(map[string]int64{"amount": old.Crowns * 100})
		}),
		codec.Of("account.deposited", func(e Deposited) AccountEvent { return e }).WithSchema(2),
	)
	printMeaning(c, "account.deposited", 1, `{"crowns":5}`)
	// Output: codec_test.Deposited{Amount:500}
}

// One stored event can mean several events today, or none.
func ExampleSplit() {
	type openedWithMoney struct {
		Owner  string
		Amount int64
	}
	c := codec.New(
		codec.Split("account.opened_with_money", func(e openedWithMoney) []AccountEvent {
			return []AccountEvent{Opened{e.Owner, "CZK"}, Deposited{e.Amount}}
		}),
	)
	printMeaning(c, "account.opened_with_money", 1, `{"Owner":"Ada","Amount":7}`)
	// Output:
	// codec_test.Opened{Owner:"Ada", Currency:"CZK"}
	// codec_test.Deposited{Amount:7}
}

// One type got another name, and one means nothing any more.
func ExampleRenamed() {
	c := codec.New(
		codec.Of("account.deposited", func(e Deposited) AccountEvent { return e }),
		codec.Renamed[AccountEvent]("account.paid_in", "account.deposited"),
		codec.Retired[AccountEvent]("account.newsletter_ordered"),
	)
	printMeaning(c, "account.paid_in", 1, `{"amount":5}`)
	printMeaning(c, "account.newsletter_ordered", 1, `{}`)
	// Output:
	// codec_test.Deposited{Amount:5}
	// nothing
}

// By default a codec returns an error for an unknown type, and ignores an unknown field. A strict codec refuses both,
// and a tolerant codec accepts both.
func ExampleCodec_Strict() {
	for _, c := range []*codec.Codec[AccountEvent]{accounts, accounts.Strict(), accounts.Tolerant()} {
		_, field := c.Decode(eventstore.Raw{Type: "account.deposited", Schema: 1, Data: json.RawMessage(`{"amount":5,"note":"rent"}`)})
		_, unknown := c.Decode(eventstore.Raw{Type: "account.renamed", Schema: 1, Data: json.RawMessage(`{}`)})
		fmt.Println(errors.Is(field, codec.ErrDecode), errors.Is(unknown, codec.ErrUnknownType))
	}
	// Output:
	// false true
	// true true
	// false false
}

// Most JSON libraries have the functions of encoding/json, which stands here for another one. Run [codectest.Golden] before
// you choose one: it shows whether the library reads the payloads of all releases as before.
func ExampleCodec_WithJSON() {
	c := accounts.WithJSON(codec.JSON{
		Marshal:   json.Marshal,
		Unmarshal: json.Unmarshal,
		UnmarshalStrict: func(data []byte, value any) error {
			decoder := json.NewDecoder(bytes.NewReader(data))
			decoder.DisallowUnknownFields()
			return decoder.Decode(value)
		},
	})
	printMeaning(c.Strict(), "account.deposited", 1, `{"amount":5}`)
	printMeaning(c.Strict(), "account.deposited", 1, `{"amount":5,"note":"rent"}`)
	// Output:
	// codec_test.Deposited{Amount:5}
	// event at position 0 of stream -: payload of type "account.deposited" at schema 1: json: unknown field "note"
}
