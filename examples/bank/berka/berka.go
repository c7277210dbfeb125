// Package berka reads the transaction file of a Czech bank, known from the PKDD'99 challenge as
// the Berka data set. The file has semicolons, quotes and one header line. It can be compressed with gzip.
package berka

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Transaction is one line of the file. Amounts are in hellers, a hundredth of a crown.
type Transaction struct {
	Line         int // number of the line in the file; the header is line 1
	ID           string
	Account      string
	Date         string // 2006-01-02
	Amount       int64  // more than 0; added to the balance if Credit, and otherwise subtracted
	Credit       bool
	Balance      int64 // the bank's own figure after the transaction
	Description  string
	Counterparty string // bank and account at another bank
}

// Error says which line of the file is wrong, and why.
type Error struct {
	Line int
	Err  error
}

// Error names the line and the reason.
func (e *Error) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

var header = []string{"trans_id", "account_id", "date", "type", "operation", "amount", "balance", "k_symbol", "bank", "account"}

// Parse reads a whole file, compressed or not. If a line is invalid, it returns an [Error] for the first such line and
// no transactions.
func Parse(r io.Reader) ([]Transaction, error) {
	text := bufio.NewReader(r)
	if magic, _ := text.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(text)
		if err != nil {
			return nil, &Error{Line: 1, Err: err}
		}
		text = bufio.NewReader(unzipped)
	}
	lines := csv.NewReader(text)
	lines.Comma = ';'
	lines.FieldsPerRecord = len(header)

	first, err := lines.Read()
	if err == nil && !slices.Equal(first, header) {
		err = fmt.Errorf("the header is %q, want %q", first, header)
	}
	if err != nil {
		return nil, &Error{Line: 1, Err: reason(err)}
	}
	var all []Transaction
	seen := make(map[string]int)
	for line := 2; ; line++ {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		var t Transaction
		var syntax *csv.ParseError
		if err == nil {
			line, _ = lines.FieldPos(0)
			t, err = parse(fields)
		} else if errors.As(err, &syntax) {
			line = syntax.Line
		}
		if other, twice := seen[t.ID]; err == nil && twice {
			err = fmt.Errorf("trans_id %s was on line %d already", t.ID, other)
		}
		if err != nil {
			return nil, &Error{Line: line, Err: reason(err)}
		}
		t.Line, seen[t.ID] = line, line
		all = append(all, t)
	}
}

// reason turns an error of the CSV reader into one that says what is wrong with the file.
func reason(err error) error {
	var syntax *csv.ParseError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the file is cut off here: %w", err)
	case errors.Is(err, io.EOF):
		return errors.New("the file is empty")
	case errors.As(err, &syntax):
		return syntax.Err
	}
	return err
}

func parse(fields []string) (t Transaction, err error) {
	t.ID, t.Account = fields[0], fields[1]
	for name, text := range map[string]string{"trans_id": t.ID, "account_id": t.Account} {
		if n, err := strconv.ParseUint(text, 10, 63); err != nil || strconv.FormatUint(n, 10) != text {
			return t, fmt.Errorf("%s %q is not a number", name, text)
		}
	}
	day, err := time.Parse("20060102", "19"+fields[2]) // the file is of the 1990s
	if err != nil {
		return t, fmt.Errorf("date %q is not of the form YYMMDD", fields[2])
	}
	t.Date = day.Format(time.DateOnly)
	switch fields[3] {
	case "PRIJEM":
		t.Credit = true
	case "VYDAJ", "VYBER":
	default:
		return t, fmt.Errorf("type %q is not PRIJEM, VYDAJ or VYBER", fields[3])
	}
	if t.Amount, err = hellers(fields[5]); err != nil || t.Amount <= 0 {
		return t, fmt.Errorf("amount %q is not a sum of crowns above zero", fields[5])
	}
	if t.Balance, err = hellers(fields[6]); err != nil {
		return t, fmt.Errorf("balance %q is not a sum of crowns", fields[6])
	}
	t.Description = describe(fields[4], strings.TrimSpace(fields[7]), t.Credit)
	t.Counterparty = strings.TrimSpace(fields[8] + " " + fields[9])
	return t, nil
}

// hellers reads crowns with exactly two decimals, without a float.
func hellers(text string) (int64, error) {
	digits, negative := strings.CutPrefix(text, "-")
	crowns, rest, _ := strings.Cut(digits, ".")
	if len(rest) != 2 || crowns == "" || len(crowns) > 12 || strings.Trim(crowns+rest, "0123456789") != "" {
		return 0, errors.New("want crowns with two decimals")
	}
	n, err := strconv.ParseInt(crowns+rest, 10, 64)
	if negative {
		n = -n
	}
	return n, err
}

var operations = map[string]string{
	"VKLAD":          "Cash deposit",
	"VYBER":          "Cash withdrawal",
	"VYBER KARTOU":   "Card withdrawal",
	"PREVOD Z UCTU":  "Transfer from another bank",
	"PREVOD NA UCET": "Transfer to another bank",
}

var symbols = map[string]string{
	"UROK":        "interest",
	"SLUZBY":      "statement fee",
	"SIPO":        "household payment",
	"DUCHOD":      "pension",
	"POJISTNE":    "insurance payment",
	"UVER":        "loan payment",
	"SANKC. UROK": "penalty interest",
}

// describe translates the codes into English. An unknown code stays as it is.
func describe(operation, symbol string, credit bool) string {
	words := func(names map[string]string, code string) string {
		if name, ok := names[code]; ok {
			return name
		}
		return code
	}
	text, detail := words(operations, operation), words(symbols, symbol)
	switch {
	case text == "" && credit:
		text = "Credit"
	case text == "":
		text = "Debit"
	}
	if detail != "" {
		text += ", " + detail
	}
	return text
}
