package eventstore

import (
	"context"
	"encoding/binary"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidemark-es/tidemark/internal/plainjson"
)

var metadataDecoder = plainjson.For(reflect.TypeFor[Metadata]())

// columns are the columns that a scanner reads, in its order.
const columns = `position, stream, version, id, type, schema, recorded_at, metadata, data`

// query runs a statement that selects the columns and returns all its events, so that no
// connection is held when it returns.
func (s *Store) query(ctx context.Context, sql string, args ...any) ([]Raw, error) {
	return s.queryUpTo(ctx, math.MaxInt, s.config.PageSize, sql, args...)
}

// queryUpTo is query that ends with the event that makes the payloads and metadata larger than a number of bytes. A
// large page gets room for so many events. The other rows can be gigabytes, so the connection is cut. In a caller's
// transaction they are received, and dropped.
func (s *Store) queryUpTo(ctx context.Context, most, room int, sql string, args ...any) ([]Raw, error) {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	if s.inTx {
		cut = func() {}
	}
	return collect(rows, most, room, cut)
}

// collect returns the events of rows, see [Store.queryUpTo], and closes the rows.
func collect(rows pgx.Rows, most, room int, cut func()) ([]Raw, error) {
	defer rows.Close()
	var events []Raw
	scan := newScanner(rows.FieldDescriptions())
	bytes := 0
	for bytes <= most && rows.Next() {
		event, err := scan.event(rows)
		if err != nil {
			return nil, err
		}
		if len(events) == firstPage {
			events = slices.Grow(events, room)
		}
		events = append(events, event)
		bytes += len(event.Data) + event.Metadata.size()
	}
	if bytes > most {
		cut()
		for rows.Next() { // shows that the connection is alive; Close would not
		}
		return events, nil
	}
	rows.Close()
	return events, rows.Err()
}

// scanner turns rows into events. This is nearly all the work of reading the log. So the scanner takes values in the
// binary format of the wire where it can, and makes each repeated string only once.
type scanner struct {
	binary  bool
	streams map[string]StreamID
	types   map[string]string
	chunk   []byte // memory that payloads share: thousands of small allocations cost more than the rest
}

const (
	// firstPage is the number of events at which a page is taken for a large one, and gets room for all events that it can have.
	firstPage = 64
	// chunkBytes bounds a chunk, except for a larger payload. An event that a caller keeps holds its whole chunk in
	// memory.
	chunkBytes = 16 << 10
)

func newScanner(fields []pgconn.FieldDescription) *scanner {
	s := &scanner{streams: make(map[string]StreamID), types: make(map[string]string)}
	isText := func(f pgconn.FieldDescription) bool { return f.Format == pgx.TextFormatCode }
	// Texts and JSON are the same bytes in both formats. Some modes of pgx ask for the text format.
	s.binary = len(fields) == 9 && !slices.ContainsFunc([]pgconn.FieldDescription{fields[0], fields[2], fields[3], fields[5], fields[6]}, isText)
	return s
}

// microsecondsTo2000 is the start of the year 2000 in Unix time: Postgres counts from it.
const microsecondsTo2000 = 946_684_800_000_000

func (s *scanner) event(rows pgx.Rows) (Raw, error) {
	var (
		event        Raw
		stream, name string
		meta         []byte
	)
	if s.binary {
		values := rows.RawValues()
		event.Position = Position(binary.BigEndian.Uint64(values[0]))
		event.Stream = s.stream(values[1])
		event.Version = Version(binary.BigEndian.Uint64(values[2]))
		event.ID = [16]byte(values[3])
		event.Type = s.typeName(values[4])
		event.Schema = int(binary.BigEndian.Uint16(values[5]))
		event.RecordedAt = time.UnixMicro(int64(binary.BigEndian.Uint64(values[6])) + microsecondsTo2000).UTC()
		event.Data = s.keep(values[8])
		meta = values[7]
	} else {
		if err := rows.Scan((*int64)(&event.Position), &stream, (*int64)(&event.Version), (*[16]byte)(&event.ID), &name, &event.Schema,
			&event.RecordedAt, &meta, (*[]byte)(&event.Data)); err != nil {
			return Raw{}, err
		}
		event.Stream, event.Type = parseStored(stream), name
		event.RecordedAt = event.RecordedAt.UTC()
	}
	// No stored event may stop a reader: metadata that another client wrote is decoded as far as it fits.
	if meta != nil {
		_ = metadataDecoder.Unmarshal(meta, &event.Metadata, false)
	}
	return event, nil
}

// keep copies a value out of the buffer of the connection.
func (s *scanner) keep(value []byte) []byte {
	if len(s.chunk)+len(value) > cap(s.chunk) {
		size := min(max(2*cap(s.chunk), len(value), 256), max(chunkBytes, len(value)))
		s.chunk = make([]byte, 0, size)
	}
	start := len(s.chunk)
	s.chunk = append(s.chunk, value...)
	return s.chunk[start:len(s.chunk):len(s.chunk)]
}

func (s *scanner) stream(text []byte) StreamID {
	id, ok := s.streams[string(text)]
	if !ok {
		name := string(text)
		id = parseStored(name)
		s.streams[name] = id
	}
	return id
}

func (s *scanner) typeName(text []byte) string {
	name, ok := s.types[string(text)]
	if !ok {
		name = string(text)
		s.types[name] = name
	}
	return name
}

// parseStored reads the text form of a stream id from the log, without checking it.
func parseStored(text string) (id StreamID) {
	id.Category, id.Key, _ = strings.Cut(text, "-")
	return id
}
