package codec_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tidemark-es/tidemark/codec"
	"github.com/tidemark-es/tidemark/eventstore"
)

type (
	benchDeposit struct {
		Account string `json:"account"`
		Amount  int64  `json:"amount"`
		Text    string `json:"text"`
	}
	benchMoney struct {
		Amount   int64  `json:"amount"`
		Currency string `json:"currency"`
	}
	benchTransfer struct {
		benchMoney
		Date        string `json:"date"`
		Description string `json:"description,omitempty"`
		To          string `json:"to"`
	}
	benchLine struct {
		Item     string `json:"item"`
		Name     string `json:"name"`
		Quantity int64  `json:"quantity"`
		Price    int64  `json:"price"`
	}
	benchOrder struct {
		Customer string      `json:"customer"`
		Lines    []benchLine `json:"lines"`
		Date     string      `json:"date"`
	}
	benchRich struct {
		ID     string            `json:"id"`
		At     time.Time         `json:"at"`
		Price  string            `json:"price"` // a decimal
		Ratio  float64           `json:"ratio"`
		Tags   []string          `json:"tags"`
		Lines  []benchLine       `json:"lines"`
		Extra  map[string]string `json:"extra"`
		Parent *string           `json:"parent"`
	}
)

// BenchmarkDecode compares the default with encoding/json alone, for payloads that are plain, and for one that turns out not
// to be plain at its last member.
func BenchmarkDecode(b *testing.B) {
	const id = "0192d3f0-1111-7222-8333-444455556666"
	parent := "none"
	lines := []benchLine{{"tea", "Earl Grey, 100 g", 2, 650}, {"cup", "Cup, blue", 1, 1200}, {"pot", "Tea pot", 1, 4999}}
	deposit := benchDeposit{"account-000042", 123456, strings.Repeat("x", 148)}
	benchDecode(b, "deposit", deposit, "")
	benchDecode(b, "transfer", benchTransfer{benchMoney{1250, "CZK"}, "2026-03-04", "rent for März, flat 7", id}, "")
	benchDecode(b, "order", benchOrder{id, lines, "2026-03-04"}, "")
	benchDecode(b, "rich", benchRich{id, time.Date(2026, 3, 4, 5, 6, 7, 891000, time.UTC), "1234.50", 0.25, []string{"a", "express"},
		lines, map[string]string{"channel": "web", "campaign": "spring"}, &parent}, "")
	benchDecode(b, "not plain", deposit, `,"Text":"x"`)
}

func benchDecode[T any](b *testing.B, name string, event T, end string) {
	c := codec.New(codec.Of("event", func(e T) T { return e }))
	draft, err := c.Encode(event)
	if err != nil {
		b.Fatal(err)
	}
	data := append(draft.Data[:len(draft.Data)-1:len(draft.Data)-1], end+"}"...)
	raw := eventstore.Raw{Type: draft.Type, Schema: draft.Schema, Data: data}
	for _, by := range []struct {
		name  string
		codec *codec.Codec[T]
	}{{"default", c}, {"standard", c.WithJSON(codec.JSON{Unmarshal: json.Unmarshal})}} {
		b.Run(name+"/"+by.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := by.codec.Decode(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
