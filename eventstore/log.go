package eventstore

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/google/uuid"
)

// matches is the condition of a Filter. An empty array selects every event.
const matches = `
       (cardinality($3::text[]) = 0 or type = any ($3))
   and (cardinality($4::text[]) = 0 or split_part(stream, '-', 1) = any ($4))
   and (cardinality($5::text[]) = 0 or stream = any ($5))`

// The statement that reads also proves that the reader's last event and the end of the log are visible to it, because
// it may run on another server than the statement that returned the end.
const pageSQL = `
select ` + columns + `
  from SCHEMA.events
 where position > $1
   and position <= $2
   and (select SCHEMA.proven($1, $3::text::uuid, $2))
 order by position
 limit $4`

// The inner limit bounds how many events the statement looks at. Unless the page is full, a row without a stream has
// the position and the id of the last event that the statement looked at.
const filteredSQL = `
with page as materialized (
    select ` + columns + `
      from (select *
              from SCHEMA.events
             where position > $1
               and position <= $2
             order by position
             limit $7) e
     where` + matches + `
     order by position
     limit $6
)
select ` + columns + `
  from page
 where (select SCHEMA.proven($1, $8::text::uuid, $2))
union all
select reach.position, '', 0, reach.id, '', 0::smallint, reach.recorded_at, null, null
  from (select *
          from SCHEMA.events
         where position = coalesce((
               select position
                 from SCHEMA.events
                where position > $1
                  and position <= $2
                  and $2::bigint - $1::bigint > $7::bigint
                order by position
               offset $7::bigint - 1
                limit 1), $2)) reach
 where (select count(*) from page) < $6
   and (select SCHEMA.proven($1, $8::text::uuid, $2))`

const pageBackwardsSQL = `
select ` + columns + `
  from SCHEMA.events
 where position > $1
   and position <= $2
   and` + matches + `
   and (select SCHEMA.proven(last => $7))
 order by position desc
 limit $6`

// maxScan is how many events one statement looks at to find the events that a filter selects. So no statement takes
// long, and readers advance over events that do not match.
const maxScan = 50_000

const scanBackwardsSQL = `
select position
  from SCHEMA.events
 where position <= $1
   and (select SCHEMA.proven(last => $3))
 order by position desc
offset $2
 limit 1`

const correlatedSQL = `
select ` + columns + `
  from SCHEMA.events
 where metadata ->> 'correlation_id' = $1
   and position > $2
   and position <= $3
   and (select SCHEMA.proven(last => $3))
 order by position
 limit $4`

// maxFilter bounds how many types, categories and streams each row is compared with.
const maxFilter = 10_000

// Filter selects events of the log. The zero value selects all. An event must meet every condition that is not empty.
// The filter is evaluated in Postgres.
type Filter struct {
	Types      []string   // stored type names; empty means any
	Categories []string   // categories of streams; empty means any
	Streams    []StreamID // empty means any
}

// Match reports whether the filter selects the event.
func (f Filter) Match(event Raw) bool {
	return (len(f.Types) == 0 || slices.Contains(f.Types, event.Type)) &&
		(len(f.Categories) == 0 || slices.Contains(f.Categories, event.Stream.Category)) &&
		(len(f.Streams) == 0 || slices.Contains(f.Streams, event.Stream))
}

// Validate returns an [InvalidError] for a filter of more than 10,000 types, categories and streams, or with a name
// that no type, category or stream can have: such a filter would select nothing.
func (f Filter) Validate() error {
	if n := len(f.Types) + len(f.Categories) + len(f.Streams); n > maxFilter {
		return invalid("filter: %d types, categories and streams, at most %d are allowed: select by category, and the rest in the reader", n, maxFilter)
	}
	for _, name := range f.Types {
		if err := validName("event type", name); err != nil {
			return err
		}
	}
	for _, category := range f.Categories {
		if err := (StreamID{Category: category, Key: "x"}).Validate(); err != nil {
			return err
		}
	}
	for _, stream := range f.Streams {
		if err := stream.Validate(); err != nil {
			return err
		}
	}
	return nil
}

func (f Filter) isZero() bool {
	return len(f.Types) == 0 && len(f.Categories) == 0 && len(f.Streams) == 0
}

// Page is a piece of the log.
type Page struct {
	Events []Raw
	// Through is how far the page reaches. Events has every event that the filter selects after the position asked
	// for and up to Through. Through is the position of a stored event.
	Through Position
	// ID is the id of the event at Through.
	ID uuid.UUID
	// More says that the log already had later events, whether the filter selects them or not.
	More bool
}

// Mark is the place in the log that a reader has reached: behind the event at Position.
type Mark struct {
	Position Position // 0 for the beginning
	// ID is the id of the event at Position, by which a reader notices that the log went back. It is zero if the
	// reader does not know the id.
	ID uuid.UUID
}

// After returns the mark of a position whose event the reader does not know.
func After(position Position) Mark { return Mark{Position: position} }

// Mark returns where the next page begins.
func (p Page) Mark() Mark { return Mark{p.Through, p.ID} }

// At returns the mark of a position on the page, without an id if no event of the page is there.
func (p Page) At(position Position) Mark {
	if position == p.Through {
		return p.Mark()
	}
	n, found := slices.BinarySearchFunc(p.Events, position, func(e Raw, p Position) int { return cmp.Compare(e.Position, p) })
	if !found {
		return After(position)
	}
	return Mark{position, p.Events[n].ID}
}

// id returns the id of the mark as a parameter of the statements, nil if the id is not known.
func (m Mark) id() *string {
	if m.ID == uuid.Nil {
		return nil
	}
	text := m.ID.String()
	return &text
}

// yieldAll yields events and reports whether the loop continues.
func yieldAll(yield func(Raw, error) bool, events []Raw) bool {
	for _, event := range events {
		if !yield(event, nil) {
			return false
		}
	}
	return true
}

// ReadAll iterates over the log after a position, in order of position. It ends at the position that [Store.Tidemark]
// has when the loop begins.
func (s *Store) ReadAll(ctx context.Context, after Position, filter Filter) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		end, err := s.logEnd(ctx, after, filter)
		if err != nil {
			yield(Raw{}, err)
			return
		}
		for page, err := range s.pages(ctx, After(after), end, filter) {
			if err != nil {
				yield(Raw{}, err)
				return
			}
			if !yieldAll(yield, page.Events) {
				return
			}
		}
	}
}

// pages reads after < position <= end page by page. While one page is being handled the next one is fetched, so that
// Postgres and the reader work at the same time. In a transaction pages does not fetch ahead: a transaction is one
// connection, and the loop body may use it.
func (s *Store) pages(ctx context.Context, after Mark, end Position, filter Filter) iter.Seq2[Page, error] {
	type result struct {
		page Page
		err  error
	}
	return func(yield func(Page, error) bool) {
		var ahead chan result
		limit := s.config.PageSize
		if s.adaptive {
			limit = min(limit, firstAdaptive)
		}
		for after.Position < end {
			var r result
			if ahead != nil {
				r = <-ahead
			} else {
				r.page, r.err = s.page(ctx, after, end, filter, limit)
			}
			after = r.page.Mark()
			if s.adaptive {
				limit = limitAfter(r.page, limit)
			}
			if !s.inTx && r.err == nil && after.Position < end {
				ahead = make(chan result, 1) // no goroutine receives from it after a break
				go func(after Mark, limit int, ahead chan<- result) {
					page, err := s.page(ctx, after, end, filter, limit)
					ahead <- result{page, err}
				}(after, limit, ahead)
			}
			if !yield(r.page, r.err) || r.err != nil {
				return
			}
		}
	}
}

const (
	// pageBytes is the size at which a page is large enough: the pauses between pages cost little then.
	pageBytes = 2 << 20
	// eventBytes is about what an event takes beside its payload.
	eventBytes = 200
	// firstAdaptive is how many events the first page has, and maxAdaptive how many another one has at most.
	firstAdaptive = 100
	maxAdaptive   = 5000
	// maxPageBytes is where a page ends although its statement has found more events. They are read again.
	maxPageBytes = 16 << 20
)

// limitAfter returns how many events the page after another one has, if they are about as large.
func limitAfter(page Page, limit int) int {
	if len(page.Events) == 0 {
		return limit
	}
	bytes := eventBytes * len(page.Events)
	for _, event := range page.Events {
		bytes += len(event.Data) + event.Metadata.size()
	}
	return min(max(1, pageBytes/(bytes/len(page.Events))), maxAdaptive)
}

// ReadAllBackwards iterates over the log before a position, the latest event first, down to the first event of the
// log. With 0 it starts at the position that [Store.Tidemark] has when the loop begins.
func (s *Store) ReadAllBackwards(ctx context.Context, before Position, filter Filter) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		last, err := s.logEnd(ctx, before, filter)
		if err != nil {
			yield(Raw{}, err)
			return
		}
		end := last
		if before > 0 {
			end = min(end, before-1)
		}
		for end > 0 {
			events, next, err := s.pageBackwards(ctx, end, last, filter)
			if err != nil {
				yield(Raw{}, err)
				return
			}
			if !yieldAll(yield, events) {
				return
			}
			end = next
		}
	}
}

// Correlated iterates over all events with a correlation id, in any stream: the events that one request led to. They
// come in order of position, up to the position that [Store.Tidemark] has when the loop begins. Correlated reads an
// index that has only events with a correlation id.
func (s *Store) Correlated(ctx context.Context, id string) iter.Seq2[Raw, error] {
	return func(yield func(Raw, error) bool) {
		if err := validCorrelation(id); err != nil {
			yield(Raw{}, wrap(err, "read a correlation"))
			return
		}
		end, err := s.Tidemark(ctx)
		if err != nil {
			yield(Raw{}, err)
			return
		}
		for after, limit := Position(0), s.config.PageSize; ; {
			page, err := s.query(ctx, s.sql.correlated, id, after, end, limit)
			if err != nil {
				yield(Raw{}, translateRead(err, "read correlation %q", id))
				return
			}
			if !yieldAll(yield, page) || len(page) < limit {
				return
			}
			after = page[limit-1].Position
		}
	}
}

// page reads a page of after < position <= end, where end was a tidemark.
func (s *Store) page(ctx context.Context, after Mark, end Position, filter Filter, limit int) (Page, error) {
	sql, args := s.sql.page, []any{after.Position, end, after.id(), limit}
	if !filter.isZero() {
		sql = s.sql.filtered
		args = []any{after.Position, end, filter.types(), filter.categories(), filter.streams(), limit, max(limit, maxScan), after.id()}
	}
	events, err := s.queryUpTo(ctx, maxPageBytes, limit, sql, args...)
	if err != nil {
		return Page{}, translateRead(err, "read the log after position %d", after.Position)
	}
	if len(events) == 0 { // there is at least the event at end
		return Page{}, wrap(&UnprovenError{Reason: ReasonSnapshot}, "read the log after position %d", after.Position)
	}
	last := &events[len(events)-1]
	page := Page{Events: events, Through: last.Position, ID: last.ID, More: last.Position < end}
	if last.Stream == (StreamID{}) {
		page.Events = events[:len(events)-1]
	}
	return page, nil
}

// pageBackwards reads the last events up to end, and returns the end of the page before. last is the tidemark from
// which the loop began.
func (s *Store) pageBackwards(ctx context.Context, end, last Position, filter Filter) ([]Raw, Position, error) {
	var after Position
	if !filter.isZero() && end > maxScan {
		var err error
		if after, err = queryOne[Position](ctx, s.db, s.sql.scanBackwards, end, maxScan-1, last); err != nil {
			return nil, 0, translateRead(err, "read the log before position %d", end)
		}
	}
	limit := s.config.PageSize
	events, err := s.query(ctx, s.sql.pageBackwards, after, end, filter.types(), filter.categories(), filter.streams(), limit, last)
	if err != nil {
		return nil, 0, translateRead(err, "read the log before position %d", end)
	}
	if len(events) == limit {
		after = events[limit-1].Position - 1
	}
	return events, after, nil
}

// logEnd checks the arguments of a reader, and returns the tidemark.
func (s *Store) logEnd(ctx context.Context, after Position, filter Filter) (Position, error) {
	if err := validAfter(after, filter); err != nil {
		return 0, err
	}
	return s.Tidemark(ctx)
}

func validAfter(after Position, filter Filter) error {
	err := filter.Validate()
	if after < 0 {
		err = invalid("position %d is negative", after)
	}
	if err != nil {
		return wrap(err, "read the log")
	}
	return nil
}

// A nil slice would be sent as NULL, and the cardinality of NULL is NULL.
func (f Filter) types() []string      { return append([]string{}, f.Types...) }
func (f Filter) categories() []string { return append([]string{}, f.Categories...) }

func (f Filter) streams() []string {
	names := make([]string, len(f.Streams))
	for i, id := range f.Streams {
		names[i] = id.String()
	}
	return names
}
