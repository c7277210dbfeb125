package order

// firstCurrency is what the shop sold in before orders had a currency.
const firstCurrency = "EUR"

// placedV1 is Placed as the first release wrote it, when all prices were in euros. It stays for as
// long as there is such an event in a log; testdata/release1.json has some.
type placedV1 struct {
	Customer string `json:"customer"`
	Lines    []Line `json:"lines"`
	Date     Date   `json:"date"`
}

func (e placedV1) upcast() Placed {
	return Placed{Customer: e.Customer, Currency: firstCurrency, Lines: e.Lines, Date: e.Date}
}
