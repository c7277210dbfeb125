package order

// firstCurrency is the currency of all orders that were placed before orders had a currency.
const firstCurrency = "EUR"

// placedV1 is Placed as the first release stored it, when all prices were in euros. It must stay while
// any log has such an event; testdata/release1.json has some.
type placedV1 struct {
	Customer string `json:"customer"`
	Lines    []Line `json:"lines"`
	Date     Date   `json:"date"`
}

func (e placedV1) upcast() Placed {
	return Placed{Customer: e.Customer, Currency: firstCurrency, Lines: e.Lines, Date: e.Date}
}
