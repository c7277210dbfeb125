package berka_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidemark-es/tidemark/examples/bank/berka"
)

const header = `"trans_id";"account_id";"date";"type";"operation";"amount";"balance";"k_symbol";"bank";"account"` + "\n"

const good = header +
	`1;7;930101;"PRIJEM";"VKLAD";700.00;700.00;"";;` + "\n" +
	`2;7;930102;"VYDAJ";"PREVOD NA UCET";12.30;687.70;"SIPO";"YZ";"62457513"` + "\n" +
	`3;8;991231;"VYBER";"VYBER";0.05;-0.05;" ";;` + "\n"

func zipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

func TestParse(t *testing.T) {
	t.Parallel()
	want := []berka.Transaction{
		{Line: 2, ID: "1", Account: "7", Date: "1993-01-01", Amount: 70000, Credit: true, Balance: 70000, Description: "Cash deposit"},
		{Line: 3, ID: "2", Account: "7", Date: "1993-01-02", Amount: 1230, Balance: 68770, Description: "Transfer to another bank, household payment", Counterparty: "YZ 62457513"},
		{Line: 4, ID: "3", Account: "8", Date: "1999-12-31", Amount: 5, Balance: -5, Description: "Cash withdrawal"},
	}
	for name, text := range map[string]string{"plain": good, "gzip": zipped(good), "CRLF": strings.ReplaceAll(good, "\n", "\r\n"), "no last newline": strings.TrimSpace(good)} {
		got, err := berka.Parse(strings.NewReader(text))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	line := func(text string) string { return good + text + "\n" }
	for name, test := range map[string]struct {
		text string
		line int
	}{
		"empty":             {"", 1},
		"no header":         {strings.TrimPrefix(good, header), 1},
		"other header":      {strings.Replace(good, "trans_id", "id", 1), 1},
		"cut in a line":     {good[:len(good)-10], 4},
		"cut in a quote":    {good + `4;7;930101;"PRIJEM";"VKL`, 5},
		"cut gzip trailer":  {zipped(good)[:len(zipped(good))-4], 5},
		"cut gzip":          {zipped(good)[:60], 1},
		"not gzip":          {"\x1f\x8bnot really", 1},
		"fields missing":    {line(`4;7;930101;"PRIJEM"`), 5},
		"trans_id":          {line(`x;7;930101;"PRIJEM";"VKLAD";7.00;7.00;"";;`), 5},
		"account":           {line(`4;-7;930101;"PRIJEM";"VKLAD";7.00;7.00;"";;`), 5},
		"date":              {line(`4;7;931301;"PRIJEM";"VKLAD";7.00;7.00;"";;`), 5},
		"no leap year":      {line(`4;7;930229;"PRIJEM";"VKLAD";7.00;7.00;"";;`), 5},
		"after blank lines": {line("\n\n4;7;930101"), 7},
		"type":              {line(`4;7;930101;"X";"VKLAD";7.00;7.00;"";;`), 5},
		"amount float":      {line(`4;7;930101;"PRIJEM";"VKLAD";7.0;7.00;"";;`), 5},
		"amount zero":       {line(`4;7;930101;"PRIJEM";"VKLAD";0.00;7.00;"";;`), 5},
		"amount negative":   {line(`4;7;930101;"PRIJEM";"VKLAD";-7.00;7.00;"";;`), 5},
		"amount overflows":  {line(`4;7;930101;"PRIJEM";"VKLAD";99999999999999999999.00;7.00;"";;`), 5},
		"amount exponent":   {line(`4;7;930101;"PRIJEM";"VKLAD";1e3.00;7.00;"";;`), 5},
		"balance":           {line(`4;7;930101;"PRIJEM";"VKLAD";7.00;;"";;`), 5},
		"transaction twice": {line(`1;7;930101;"PRIJEM";"VKLAD";7.00;7.00;"";;`), 5},
	} {
		got, err := berka.Parse(strings.NewReader(test.text))
		var bad *berka.Error
		if !errors.As(err, &bad) || bad.Line != test.line || got != nil {
			t.Errorf("%s: %d transactions, %v; want none and an error on line %d", name, len(got), err, test.line)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(zipped(good)))
	f.Add([]byte(header + "1;1;000101;\"VYBER\";;0.01;-0.01;;;"))
	f.Fuzz(func(t *testing.T, data []byte) {
		transactions, err := berka.Parse(bytes.NewReader(data))
		if err != nil {
			var bad *berka.Error
			if !errors.As(err, &bad) || bad.Line < 1 || transactions != nil {
				t.Fatalf("%d transactions, %v", len(transactions), err)
			}
			return
		}
		for _, tx := range transactions {
			if tx.Amount <= 0 || tx.ID == "" || tx.Account == "" || len(tx.Date) != 10 || !strings.HasPrefix(tx.Date, "19") {
				t.Fatalf("accepted %+v", tx)
			}
		}
	})
}
