package eventstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// middle is the first event behind the middle of the remaining range of a binary search.
const middle = `
     cross join lateral (
           select position, recorded_at
             from SCHEMA.events
            where position > (s.low + s.high) / 2
            order by position
            limit 1) probe
     where s.high - s.low > 500`

// Two binary searches over positions find the events that were recorded in a span of time. They need no index on the
// time, because positions and times have nearly the same order. Each search ends when at most 500 positions are left.
const eventSQL = `
with recursive early (low, high) as (
    select 0::bigint, coalesce(max(position), 0)
      from SCHEMA.events
    union all
    select case when probe.recorded_at < $2 then probe.position else s.low end,
           case when probe.recorded_at < $2 then s.high else (s.low + s.high) / 2 end
      from early s` + middle + `
), late (low, high) as (
    select 0::bigint, coalesce(max(position), 0)
      from SCHEMA.events
    union all
    select case when probe.recorded_at <= $3 then probe.position else s.low end,
           case when probe.recorded_at <= $3 then s.high else (s.low + s.high) / 2 end
      from late s` + middle + `
)
select ` + columns + `
  from SCHEMA.events
 where position > (select max(low) from early)
   and position <= (select min(high) from late)
   and id = $1::text::uuid
   and (select SCHEMA.proven())
 order by position
 limit 1`

// spans are the times around the time in an event's id in which the event is searched for, one after the other. The
// clock of a client made the id, maybe some time before the event was stored.
var spans = []struct{ before, after time.Duration }{
	{100 * time.Millisecond, 500 * time.Millisecond}, {2 * time.Second, 10 * time.Second}, {5 * time.Minute, 5 * time.Minute}, {time.Hour, time.Hour},
}

// Event returns the event with an id. There is no index by id. The id must be a UUIDv7, as the store makes them,
// because the time in it tells where in the log to look. An event is found if it was recorded within an hour of that
// time. Event returns an [InvalidError] for an id of another kind, and an error that is [ErrNotFound] if no event is
// found. Of several events with one id it returns the first.
func (s *Store) Event(ctx context.Context, id uuid.UUID) (Raw, error) {
	if id.Version() != 7 {
		return Raw{}, wrap(invalid("id %s is not a UUIDv7, so it does not say when the event was stored: read the event's stream", id), "find an event")
	}
	made := time.Unix(id.Time().UnixTime())
	for _, span := range spans {
		events, err := s.query(ctx, s.sql.event, id.String(), made.Add(-span.before), made.Add(span.after))
		if err != nil {
			return Raw{}, translateRead(err, "find event %s", id)
		}
		if len(events) > 0 {
			return events[0], nil
		}
	}
	return Raw{}, fmt.Errorf("eventstore: event %s, recorded at about %s: %w", id, made.UTC().Format(time.RFC3339), ErrNotFound)
}

// Causation is an event with its causes and its effects.
type Causation struct {
	Event   Raw
	Causes  []Raw       // the events that led to Event, the first cause first; nil in Effects
	Effects []Causation // the events that Event led to, in the order of positions, each with its own effects
	// Cut says that more than 10,000 events have the correlation id, of which only 10,000 were read.
	Cut bool
}

// maxCorrelated bounds the events of a correlation that Why reads.
const maxCorrelated = 10_000

// Why returns the event with an id, the events that led to it, and the events that it led to. It finds only events
// that have the same correlation id, see [WithCause]. The causes end at a cause that is no event, such as a command.
// Why returns the errors of [Store.Event].
func (s *Store) Why(ctx context.Context, id uuid.UUID) (Causation, error) {
	event, err := s.Event(ctx, id)
	if err != nil {
		return Causation{}, err
	}
	correlation := event.Metadata.CorrelationID
	if correlation == "" {
		correlation = event.ID.String() // the event may have begun a correlation
	}
	related := []Raw{event}
	cut := false
	for e, err := range s.Correlated(ctx, correlation) {
		if err != nil {
			return Causation{}, err
		}
		if len(related) > maxCorrelated {
			cut = true
			break
		}
		related = append(related, e)
	}
	if first, err := uuid.Parse(correlation); err == nil && first != event.ID { // the event that began the correlation has no correlation id
		switch e, err := s.Event(ctx, first); {
		case err == nil:
			related = append(related, e)
		case !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInvalid):
			return Causation{}, err
		}
	}
	why := causationOf(event, related)
	why.Cut = cut
	return why, nil
}

// causationOf finds the causes and effects of an event among related events. An event may be more than once among
// them.
func causationOf(event Raw, related []Raw) Causation {
	byID := make(map[string]Raw)
	effects := make(map[string][]Raw)
	seen := make(map[Position]bool)
	for _, e := range related {
		if seen[e.Position] {
			continue
		}
		seen[e.Position] = true
		if first, ok := byID[e.ID.String()]; !ok || e.Position < first.Position {
			byID[e.ID.String()] = e
		}
		effects[e.Metadata.CausationID] = append(effects[e.Metadata.CausationID], e)
	}
	why := Causation{Event: event}
	path := map[uuid.UUID]bool{event.ID: true}
	for at := event; ; {
		cause, ok := byID[at.Metadata.CausationID]
		if !ok || path[cause.ID] {
			break
		}
		path[cause.ID] = true
		why.Causes = append(why.Causes, cause)
		at = cause
	}
	slices.Reverse(why.Causes)
	told := map[Position]bool{event.Position: true} // an event that was stored twice under one id leads back to itself
	why.Effects = effectsOf(event, effects, told)
	return why
}

func effectsOf(event Raw, effects map[string][]Raw, told map[Position]bool) (found []Causation) {
	next := effects[event.ID.String()]
	slices.SortFunc(next, func(a, b Raw) int { return cmp.Compare(a.Position, b.Position) })
	for _, e := range next {
		if told[e.Position] {
			continue
		}
		told[e.Position] = true
		found = append(found, Causation{Event: e, Effects: effectsOf(e, effects, told)})
	}
	return found
}
