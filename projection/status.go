package projection

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
)

// maxLag is how far [ProjectionStatus.Lag] counts.
const maxLag = 100_000

const tidemarkSQL = `
select SCHEMA.tidemark(), (select coalesce(max(position), 0) from SCHEMA.events)`

// heldForSQL is how long the first event behind the tidemark has been stored.
const heldForSQL = `
select greatest(clock_timestamp() - recorded_at, interval '0')
  from SCHEMA.events
 where position > $1
 order by position
 limit 1`

const holderSQL = `
select pid, application_name, greatest(clock_timestamp() - since, '0'), coalesce(gid, ''), coalesce(owner, '')
  from SCHEMA.tidemark_holders()
 limit 1`

const statusSQL = `
select v.name, v.version, v.phase, v.state, coalesce(v.reason, ''), v.added, v.total, v.total_at,
       at.checkpoint, at.handled, lag.events, next.recorded_at, clock_timestamp(),
       case when v.phase = 'building'
            then (select count(*)
                    from SCHEMA.events e
                   where e.position > v.total_at
                     and e.position <= $2
                     and e.type = any (v.types))
            else 0
       end
  from SCHEMA.projections v
  join lateral (
       select coalesce(min(p.checkpoint), 0) as checkpoint, coalesce(sum(p.handled), 0)::bigint as handled
         from SCHEMA.projection_partitions p
        where (p.projection, p.version) = (v.name, v.version)) at on true
  join lateral (
       select count(*) as events
         from (select
                 from SCHEMA.events e
                where e.position > at.checkpoint
                  and e.position <= $2
                limit $3) e) lag on true
  left join lateral (
       select e.recorded_at
         from SCHEMA.events e
        where e.position > at.checkpoint
          and e.position <= $2
        order by e.position
        limit 1) next on true
 where v.name = any ($1)
 order by v.name, v.version`

const partitionsSQL = `
select projection, version, partition, checkpoint, coalesce(lease_owner, ''),
       ` + leased + ` is not true, handled, rate, parked,
       coalesce(error, ''), coalesce(error_at, 0), failing_since, advanced_at
  from SCHEMA.projection_partitions p
 where projection = any ($1)
 order by projection, version, partition`

// Status is how projections are doing, whichever processes run them.
type Status struct {
	// Tidemark is how far readers may read, LogEnd the position of the last event. When they differ
	// for long, an open transaction holds the readers back: Held names it.
	Tidemark, LogEnd eventstore.Position
	Held             *Holder
	HeldFor          time.Duration      // how long the first event behind the tidemark has been stored; 0 if there is none
	Projections      []ProjectionStatus // in the order of names and versions
}

// Holder is a transaction that holds the tidemark back.
type Holder struct {
	PID             int32 // of the Postgres backend; 0 for a prepared transaction
	ApplicationName string
	Age             time.Duration // of the transaction; 0 if this role may not know
	// GID names a prepared transaction, which no session has any more: it ends when a person with the rights of
	// Owner executes "rollback prepared 'gid'" or "commit prepared 'gid'". Empty for others.
	GID   string
	Owner string
}

// ProjectionStatus is how one version of a projection is doing.
type ProjectionStatus struct {
	Name    string
	Version int
	Phase   string // live, building, or retired
	State   string // running, paused, or stopped
	Reason  string // why it is paused or stopped
	// Checkpoint is the position up to which all events are in the read model, but for those parked.
	Checkpoint eventstore.Position
	// Lag is how many events of the log, of whatever types, are between the checkpoint and the
	// tidemark, counted up to 100,000; LagTime is the age of the first of them.
	Lag     int64
	LagTime time.Duration
	Rate    float64 // events handled per second, on average over about the last ten seconds of work
	Handled int64   // events, in all
	Parked  int     // events that are dead letters, or wait behind one
	// Stalled means that it is running, more than [Config.StallLag] events behind, and has made no
	// progress for [Config.StallAfter].
	Stalled bool
	// Added are the event types that were added after the projection had begun, each with the
	// position up to which its events are missing from the read model.
	Added      map[string]eventstore.Position
	Partitions []PartitionStatus
	Progress   *Progress // while it is being built
}

// PartitionStatus is how one partition is doing.
type PartitionStatus struct {
	Number     int
	Checkpoint eventstore.Position
	Owner      string // the runner that has the lease, as host:pid:number@place; "" if nobody has
	Rate       float64
	Handled    int64
	Parked     int
	// Error is why the last batch failed, at the event of that position if it is known, and since
	// when batches fail; "" if the last one did not.
	Error        string
	ErrorAt      eventstore.Position
	FailingSince time.Time
	AdvancedAt   time.Time
}

// Progress is how far a version is that is being built.
type Progress struct {
	Done, Total int64         // events; the total is about right for a long log
	ETA         time.Duration // until it has caught up, at the present rate; 0 if there is none
}

// Status returns how the projections of this runner are doing, in all their versions and processes. It asks the
// database.
func (r *Runner) Status(ctx context.Context) (Status, error) {
	s, err := r.status(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("projection: read the status: %w", err)
	}
	return s, nil
}

func (r *Runner) status(ctx context.Context) (s Status, err error) {
	if err := r.engine.pool.QueryRow(ctx, r.engine.sql(tidemarkSQL)).Scan(&s.Tidemark, &s.LogEnd); err != nil {
		return s, err
	}
	if s.Tidemark < s.LogEnd {
		if s.Held, err = r.holder(ctx); err != nil {
			return s, err
		}
		err = r.engine.pool.QueryRow(ctx, r.engine.sql(heldForSQL), s.Tidemark).Scan(&s.HeldFor)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return s, err
		}
	}
	// In one snapshot, so that no version is told of without its partitions.
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, r.engine.pool, snapshot, func(tx pgx.Tx) error {
		s.Projections, err = r.projectionsStatus(ctx, tx, s.Tidemark)
		return err
	})
	return s, err
}

func (r *Runner) projectionsStatus(ctx context.Context, tx pgx.Tx, tidemark eventstore.Position) ([]ProjectionStatus, error) {
	names := slices.Collect(maps.Keys(r.names))
	partitions := make(map[versionID][]PartitionStatus)
	found, _ := tx.Query(ctx, r.engine.sql(partitionsSQL), names)
	var id versionID
	var p PartitionStatus
	var expired bool
	var failing *time.Time
	_, err := pgx.ForEachRow(found, []any{&id.name, &id.version, &p.Number, &p.Checkpoint, &p.Owner, &expired,
		&p.Handled, &p.Rate, &p.Parked, &p.Error, &p.ErrorAt, &failing, &p.AdvancedAt}, func() error {
		own := p
		if expired {
			own.Owner = ""
		}
		if failing != nil {
			own.FailingSince = *failing
		}
		partitions[id] = append(partitions[id], own)
		return nil
	})
	if err != nil {
		return nil, err
	}
	found, _ = tx.Query(ctx, r.engine.sql(statusSQL), names, tidemark, maxLag)
	return pgx.CollectRows(found, func(row pgx.CollectableRow) (ProjectionStatus, error) {
		return r.projectionStatus(row, partitions)
	})
}

func (r *Runner) projectionStatus(row pgx.CollectableRow, partitions map[versionID][]PartitionStatus) (ProjectionStatus, error) {
	var s ProjectionStatus
	var added []byte
	var total, totalAt, since int64
	var next *time.Time
	var now time.Time
	err := row.Scan(&s.Name, &s.Version, &s.Phase, &s.State, &s.Reason, &added, &total, &totalAt,
		&s.Checkpoint, &s.Handled, &s.Lag, &next, &now, &since)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(added, &s.Added); err != nil {
		return s, err
	}
	s.Partitions = partitions[versionID{s.Name, s.Version}]
	var advanced time.Time // of the partition that is farthest behind
	for _, p := range s.Partitions {
		s.Parked += p.Parked
		if now.Sub(p.AdvancedAt) < 2*rateWindow {
			s.Rate += p.Rate
		}
		if p.Checkpoint == s.Checkpoint {
			advanced = p.AdvancedAt
		}
	}
	unmoved := r.unmoved(versionID{s.Name, s.Version}, s.Checkpoint, next != nil)
	if next != nil {
		// A clock that was put back tells too little: this process has seen it stand for so long.
		s.LagTime = max(now.Sub(*next), unmoved)
		s.Stalled = s.State == "running" && s.Lag > r.engine.config.StallLag &&
			s.LagTime > r.engine.config.StallAfter && max(now.Sub(advanced), unmoved) > r.engine.config.StallAfter
	}
	if s.Phase == phaseBuilding {
		s.Progress = &Progress{Done: s.Handled, Total: max(total+since, s.Handled)}
		if s.Rate > 0 {
			s.Progress.ETA = time.Duration(float64(s.Progress.Total-s.Progress.Done) / s.Rate * float64(time.Second))
		}
	}
	return s, nil
}

func (r *Runner) holder(ctx context.Context) (*Holder, error) {
	var pid *int32
	var age *time.Duration
	h := &Holder{}
	err := r.engine.pool.QueryRow(ctx, r.engine.sql(holderSQL)).Scan(&pid, &h.ApplicationName, &age, &h.GID, &h.Owner)
	if err == pgx.ErrNoRows { // it has just ended
		return nil, nil
	}
	if pid != nil {
		h.PID = *pid
	}
	if age != nil {
		h.Age = *age
	}
	return h, err
}

// Problem says what is wrong with the projection, for people; "" if nothing is. Lag alone is not,
// nor being paused, nor dead letters.
func (s ProjectionStatus) Problem() string {
	if s.State == "stopped" {
		return "stopped: " + s.Reason
	}
	var problems []string
	for _, p := range s.Partitions {
		if p.Error != "" {
			problems = append(problems, fmt.Sprintf("partition %d is failing since %s: %s", p.Number, p.FailingSince.Format(time.RFC3339), p.Error))
		}
	}
	if s.Stalled {
		problems = append(problems, fmt.Sprintf("stalled: %d events behind, the first of them %s old", s.Lag, s.LagTime.Round(time.Second)))
	}
	return strings.Join(problems, "; ")
}

// observation is where a status found a version, and since when.
type observation struct {
	checkpoint eventstore.Position
	since      time.Time
}

// unmoved returns for how long, by the clock of this process, which does not jump, each status has found a version at
// a checkpoint although there was something to do.
func (r *Runner) unmoved(id versionID, checkpoint eventstore.Position, due bool) time.Duration {
	r.observing.Lock()
	defer r.observing.Unlock()
	o, ok := r.observed[id]
	if !ok || o.checkpoint != checkpoint || !due {
		o = observation{checkpoint, time.Now()}
		r.observed[id] = o
	}
	return time.Since(o.since)
}

// heldLimit is how long events may be behind the tidemark until that is a problem.
const heldLimit = 10 * time.Second

// problem says what is wrong with the log for projections, "" if nothing is.
func (s Status) problem() string {
	if s.HeldFor < heldLimit {
		return ""
	}
	text := fmt.Sprintf("the tidemark is held back at %d, before the end %d of the log, since %s", s.Tidemark, s.LogEnd, s.HeldFor.Round(time.Second))
	if s.Held != nil {
		text += fmt.Sprintf(", by process %d of Postgres (%s)", s.Held.PID, s.Held.ApplicationName)
	}
	return text + ": end that transaction"
}

// Health returns an error when one of this runner's projections has a problem, see
// [ProjectionStatus.Problem], a transaction has held the tidemark back for ten seconds, a projection of this runner is
// not stored any more, or more than [Config.Parked] dead letters, [Runner.Run] has returned one, or the database cannot be asked: for readiness
// probes. It looks at the versions that readers see, whoever runs them, and at those that this runner builds.
func (r *Runner) Health(ctx context.Context) error {
	if err := r.failure.Load(); err != nil {
		return fmt.Errorf("unhealthy: the runner has ended: %w", *err)
	}
	s, err := r.Status(ctx)
	if err != nil {
		return err
	}
	var problems []string
	if problem := s.problem(); problem != "" {
		problems = append(problems, problem)
	}
	for id, v := range r.versions {
		stored := slices.ContainsFunc(s.Projections, func(p ProjectionStatus) bool { return p.Name == id.name })
		if away := v.stepped(); away != nil && (!stored || v.wrong() != nil) {
			problems = append(problems, fmt.Sprintf("projection %s, version %d: %s", id.name, id.version, away))
		}
	}
	for _, p := range s.Projections {
		_, mine := r.versions[versionID{p.Name, p.Version}]
		seen := r.names[p.Name] != nil && p.Phase == phaseLive
		if !seen && !(mine && p.Phase == phaseBuilding) {
			continue
		}
		if problem := p.Problem(); problem != "" {
			problems = append(problems, fmt.Sprintf("projection %s, version %d: %s", p.Name, p.Version, problem))
		}
		if p.Parked > r.engine.config.Parked {
			problems = append(problems, fmt.Sprintf("projection %s, version %d: %d events are parked, and Config.Parked allows %d: see Runner.DeadLetterGroups",
				p.Name, p.Version, p.Parked, r.engine.config.Parked))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("unhealthy: %s", strings.Join(problems, "; "))
	}
	return nil
}
