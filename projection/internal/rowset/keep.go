package rowset

import (
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidemark-es/tidemark/internal/panics"
)

// keep says how a value of a column is turned into the value that the database would return for it. A fold then sees
// the same value in a row that was kept in memory and in one that was loaded.
type keep struct {
	how      keepHow
	isText   bool
	isEnum   bool
	iso      bool   // dates are written as YYYY-MM-DD
	base     uint32 // type of the column, below any domain
	modifier int32  // of the type, such as a scale; -1 for none
}

type keepHow int

const (
	keepAsIs    keepHow = iota // the database returns the value unchanged
	keepEncoded                // the database returns the value as pgx sends it, after the type's modifier is applied
	keepReload                 // only the database knows the value that it returns
)

// exact lists, for each column type, the Go kinds for which the database returns every stored value unchanged.
var exact = map[uint32][]reflect.Kind{
	pgtype.BoolOID:   {reflect.Bool},
	pgtype.Int8OID:   {reflect.Int64, reflect.Int, reflect.Int32, reflect.Int16, reflect.Int8, reflect.Uint32, reflect.Uint16, reflect.Uint8},
	pgtype.Int4OID:   {reflect.Int64, reflect.Int, reflect.Int32, reflect.Int16, reflect.Int8, reflect.Uint16, reflect.Uint8},
	pgtype.Int2OID:   {reflect.Int64, reflect.Int, reflect.Int32, reflect.Int16, reflect.Int8, reflect.Uint8},
	pgtype.Float8OID: {reflect.Float64, reflect.Float32},
	pgtype.Float4OID: {reflect.Float32},
}

// encodable lists the column types whose values pgx sends and reads without loss, unless the type has a modifier.
var encodable = map[uint32]bool{
	pgtype.BoolOID: true, pgtype.Int2OID: true, pgtype.Int4OID: true, pgtype.Int8OID: true,
	pgtype.Float4OID: true, pgtype.Float8OID: true, pgtype.TextOID: true, pgtype.VarcharOID: true, pgtype.ByteaOID: true,
	pgtype.UUIDOID: true, pgtype.DateOID: true, pgtype.TimestampOID: true, pgtype.TimestamptzOID: true,
	pgtype.JSONOID: true, pgtype.JSONBOID: true,
	pgtype.BoolArrayOID: true, pgtype.Int2ArrayOID: true, pgtype.Int4ArrayOID: true, pgtype.Int8ArrayOID: true,
	pgtype.Float4ArrayOID: true, pgtype.Float8ArrayOID: true, pgtype.TextArrayOID: true, pgtype.VarcharArrayOID: true,
	pgtype.ByteaArrayOID: true, pgtype.UUIDArrayOID: true, pgtype.DateArrayOID: true, pgtype.TimestampArrayOID: true,
	pgtype.TimestamptzArrayOID: true,
}

// keepOf decides how the values of a field are kept for a column.
func keepOf(field reflect.Type, isText bool, a attribute, iso bool) keep {
	k := keep{how: keepReload, isText: isText, isEnum: a.IsEnum && !a.IsArray, iso: iso, base: a.Base, modifier: a.Modifier}
	own := custom(field)
	switch {
	case isText && own:
	case isText && field.Kind() == reflect.String && k.modifier < 0 && (k.isEnum || k.base == pgtype.TextOID || k.base == pgtype.VarcharOID):
		k.how = keepAsIs
	case isText: // a pointer is copied, because it may point into an event
		k.how = keepEncoded
	case !own && slices.Contains(exact[k.base], field.Kind()):
		k.how = keepAsIs
	case k.base == pgtype.NumericOID && !own && isNumber(field):
		k.how = keepEncoded
	case encodable[k.base] && (k.modifier < 0 || isTimestamp(k.base)):
		k.how = keepEncoded
	}
	return k
}

// isNumber reports whether a type is one of Go's own numbers, or a pointer to one.
func isNumber(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() >= reflect.Int && t.Kind() <= reflect.Float64
}

func isTimestamp(oid uint32) bool { return oid == pgtype.TimestampOID || oid == pgtype.TimestamptzOID }

// custom reports whether a type, or the type that it points to, has methods that determine how it is stored.
func custom(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[driver.Valuer]()) || p.Implements(reflect.TypeFor[sql.Scanner]()) ||
		p.Implements(reflect.TypeFor[pgtype.TextValuer]()) || p.Implements(reflect.TypeFor[pgtype.TextScanner]()) ||
		p.Implements(reflect.TypeFor[pgtype.Int64Valuer]()) || p.Implements(reflect.TypeFor[pgtype.Int64Scanner]()) ||
		p.Implements(reflect.TypeFor[pgtype.Float64Valuer]()) || p.Implements(reflect.TypeFor[pgtype.Float64Scanner]())
}

// whole reports whether all fields of a row type are columns.
func (t *tableOf[Row]) whole() bool { return countFields(reflect.TypeFor[Row]()) == len(t.columns) }

func countFields(t reflect.Type) (n int) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			n += countFields(f.Type)
			continue
		}
		n++
	}
	return n
}

// keeper keeps the values of one column. Only one goroutine may use it.
type keeper struct {
	keep
	column int
	oid    uint32
	format int16
	types  *pgtype.Map
	encode pgtype.EncodePlan
	scan   pgtype.ScanPlan
	buffer []byte
}

// keepers returns the keepers of the columns, for one goroutine.
func (d *tableShape) keepers() []*keeper {
	types := d.typeMap()
	var all []*keeper
	for n, k := range d.keeps {
		one := newKeeper(d, types, n)
		if k.how == keepEncoded && !k.isText {
			one.oid, one.format = k.base, types.FormatCodeForOID(k.base)
		}
		if k.base == pgtype.NumericOID {
			one.format = pgtype.TextFormatCode
		}
		all = append(all, one)
	}
	return all
}

func newKeeper(d *tableShape, types *pgtype.Map, n int) *keeper {
	// The buffer is empty and not nil: nil would mean NULL.
	return &keeper{keep: d.keeps[n], column: n, types: types, oid: d.oids[n], format: d.format(types, n), buffer: make([]byte, 0, 64)}
}

// senders returns keepers that encode values in the form in which they are sent.
func (d *tableShape) senders() []*keeper {
	types := d.typeMap()
	var all []*keeper
	for n := range d.keeps {
		all = append(all, newKeeper(d, types, n))
	}
	return all
}

// sends returns why a value cannot be sent, or nil.
func (k *keeper) sends(from reflect.Value) (err error) {
	defer panics.Recover(&err)
	if from.Kind() == reflect.Pointer && from.IsNil() {
		return nil
	}
	_, err = k.encoded(from)
	return err
}

// encoded returns a value as pgx sends it.
func (k *keeper) encoded(from reflect.Value) ([]byte, error) {
	if from.Kind() != reflect.Pointer {
		from = from.Addr()
	}
	if k.encode == nil {
		if k.encode = k.types.PlanEncode(k.oid, k.format, from.Interface()); k.encode == nil {
			return nil, fmt.Errorf("there is no way to store %v", from.Type().Elem())
		}
	}
	data, err := k.encode.Encode(from.Interface(), k.buffer[:0])
	if err == nil && data != nil {
		k.buffer = data
	}
	return data, err
}

// take sets to to the value that the database would return for from. It reports whether that value is certain.
func (k *keeper) take(from, to reflect.Value) (sure bool, err error) {
	switch {
	case k.how == keepAsIs:
		to.Set(from)
		return true, nil
	case k.isText:
		return k.takeText(from, to), nil
	}
	if from.Kind() == reflect.Pointer && from.IsNil() {
		return true, nil
	}
	data, err := k.encoded(from)
	if err != nil {
		return false, err
	}
	if k.how == keepReload {
		to.Set(from)
		return false, nil
	}
	data, sure = k.modified(data)
	if !sure {
		to.Set(from)
		return false, nil
	}
	target := to.Addr().Interface()
	if k.scan == nil {
		k.scan = k.types.PlanScan(k.oid, k.format, target)
	}
	if err := k.scan.Scan(data, target); err != nil {
		return false, err
	}
	inUTC(to)
	return true, nil
}

// modified returns the stored form of a value that pgx sends as data. It reports whether that form is certain.
func (k *keeper) modified(data []byte) ([]byte, bool) {
	switch {
	case data == nil:
		return nil, true
	case k.base == pgtype.NumericOID:
		text, ok := numericText(string(data), k.modifier)
		return []byte(text), ok
	case k.base == pgtype.JSONBOID:
		text, ok := jsonbText(data)
		return text, ok
	case isTimestamp(k.base) && k.format == pgtype.BinaryFormatCode:
		return roundTime(data, k.modifier), true
	case isTimestamp(k.base):
		return data, k.modifier < 0
	}
	return data, true
}

// takeText is take for a string, or a pointer to one.
func (k *keeper) takeText(from, to reflect.Value) (sure bool) {
	if from.Kind() == reflect.Pointer {
		if from.IsNil() {
			return true
		}
		to.Set(reflect.New(from.Type().Elem()))
		from, to = from.Elem(), to.Elem()
	}
	text := from.String()
	if k.how != keepReload {
		text, sure = k.text(text)
	}
	to.SetString(text)
	return sure
}

// text returns the text of the value that the database would make from a text. It reports whether the result is
// certain.
func (k *keeper) text(text string) (string, bool) {
	if k.isEnum {
		return text, true
	}
	length := int(k.modifier) - 4
	switch k.base {
	case pgtype.TextOID, pgtype.JSONOID:
		return text, true
	case pgtype.VarcharOID:
		return text, k.modifier < 0 || utf8.RuneCountInString(text) <= length
	case pgtype.BPCharOID:
		return text, !strings.HasSuffix(text, " ") && (k.modifier < 0 || utf8.RuneCountInString(text) <= length)
	case pgtype.BoolOID:
		return text, text == "true" || text == "false"
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID:
		n, err := strconv.ParseInt(text, 10, 64)
		return text, err == nil && strconv.FormatInt(n, 10) == text
	case pgtype.UUIDOID:
		id, err := uuid.Parse(text)
		return text, err == nil && id.String() == text
	case pgtype.DateOID:
		day, err := time.Parse(time.DateOnly, text)
		return text, err == nil && k.iso && day.Year() > 0
	case pgtype.NumericOID:
		return numericText(text, k.modifier)
	case pgtype.JSONBOID:
		data, ok := jsonbText([]byte(text))
		return string(data), ok
	}
	return text, false
}

// inUTC converts the times of a field to UTC, because the time zone of a process must make no difference.
func inUTC(field reflect.Value) {
	switch at := field.Addr().Interface().(type) {
	case *time.Time:
		*at = at.UTC()
	case **time.Time:
		if *at != nil {
			**at = (*at).UTC()
		}
	case *[]time.Time:
		for n := range *at {
			(*at)[n] = (*at)[n].UTC()
		}
	case *[]*time.Time:
		for _, one := range *at {
			if one != nil {
				*one = one.UTC()
			}
		}
	case *pgtype.Timestamptz:
		at.Time = at.Time.UTC()
	}
}

// roundTime rounds a timestamp to a number of digits of a second. A timestamp of Postgres is a number of microseconds
// since 2000.
func roundTime(data []byte, digits int32) []byte {
	if digits < 0 || digits >= 6 || len(data) != 8 {
		return data
	}
	at := int64(binary.BigEndian.Uint64(data))
	const infinity, minusInfinity = 1<<63 - 1, -1 << 63
	if at == infinity || at == minusInfinity {
		return data
	}
	scale := int64(1)
	for range 6 - digits {
		scale *= 10
	}
	if at >= 0 {
		at = (at + scale/2) / scale * scale
	} else {
		at = -((-at + scale/2) / scale * scale)
	}
	return binary.BigEndian.AppendUint64(nil, uint64(at))
}

// plainNumber reports whether a text is a number without a plus sign, an exponent or superfluous leading zeros.
func plainNumber(text string) bool {
	whole, fraction, point := strings.Cut(strings.TrimPrefix(text, "-"), ".")
	return digits(whole) && (whole == "0" || whole[0] != '0') && (!point || digits(fraction))
}

func digits(text string) bool {
	for n := range len(text) {
		if text[n] < '0' || text[n] > '9' {
			return false
		}
	}
	return text != ""
}

// numericText returns the text of a numeric with a modifier after a text was stored in it. It reports whether that text
// is certain. Postgres rounds halves away from zero.
func numericText(text string, modifier int32) (string, bool) {
	if len(text) > 1000 || !plainNumber(text) {
		return text, false
	}
	whole, fraction, _ := strings.Cut(strings.TrimPrefix(text, "-"), ".")
	scale := len(fraction)
	if modifier >= 4 {
		scale = int((modifier-4)&0x7ff^1024) - 1024
	}
	if scale < 0 {
		return text, false
	}
	if scale == len(fraction) && text[0] != '-' {
		return text, true
	}
	n, _ := new(big.Int).SetString(whole+fraction, 10)
	if missing := scale - len(fraction); missing >= 0 {
		n.Mul(n, power(missing))
	} else {
		by := power(-missing)
		n.Add(n, new(big.Int).Quo(by, big.NewInt(2)))
		n.Quo(n, by)
	}
	if n.Sign() != 0 && strings.HasPrefix(text, "-") {
		n.Neg(n)
	}
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
	}
	all := new(big.Int).Abs(n).String()
	if missing := scale + 1 - len(all); missing > 0 {
		all = strings.Repeat("0", missing) + all
	}
	if scale == 0 {
		return sign + all, true
	}
	return sign + all[:len(all)-scale] + "." + all[len(all)-scale:], true
}

func power(of10 int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(of10)), nil) }
