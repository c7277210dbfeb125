package projection

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

// maxLag is how far [ProjectionStatus.Lag] counts.
const maxLag = 100_000

// Phase is what a version of a projection is to its readers.
type Phase string

// The phases.
const (
	PhaseLive     Phase = catalog.Live     // readers see it
	PhaseBuilding Phase = catalog.Building // it is on the way to take the place of the live version
	PhaseRetired  Phase = catalog.Retired  // another version has taken its place; it is kept for the way back
)

// State is whether a version of a projection is to run.
type State string

// The states.
const (
	StateRunning State = catalog.Running
	StatePaused  State = catalog.Paused  // by an operator
	StateStopped State = catalog.Stopped // by an operator or by itself, since something is wrong
)

// Status is how projections are doing, whichever processes run them.
type Status struct {
	// Tidemark is how far readers may read, LogEnd the position of the last event. When they differ
	// for long, an open transaction holds the readers back: Held names it.
	Tidemark, LogEnd eventstore.Position
	Held             *eventstore.Holder
	HeldFor          time.Duration      // how long the first event behind the tidemark has been stored; 0 if there is none
	Projections      []ProjectionStatus // in the order of names and versions
}

// ProjectionStatus is how one version of a projection is doing.
type ProjectionStatus struct {
	Name    string
	Version int
	Phase   Phase
	State   State
	Reason  string // why it is paused or stopped
	// Checkpoint is the position up to which all events are in the read model, except those parked.
	Checkpoint eventstore.Position
	// Lag is how many events of the log, of whatever types, are between the checkpoint and the
	// tidemark, counted up to 100,000; LagTime is the age of the first of them.
	Lag     int64
	LagTime time.Duration
	Rate    float64 // events handled per second, on average over about the last ten seconds of work
	Handled int64   // events in all; one with several keys counts once
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
	Owner      string // the runner that has the lease, as host:pid:number@place; "" if none has
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
	Done, Total int64         // events; Total is an estimate for a long log, and has events that concern no row, which Done has not
	ETA         time.Duration // until it has caught up, at the present rate; 0 if there is none
}

// monitor reads how projections are doing.
type monitor struct {
	db     *database
	config Config

	mu       sync.Mutex
	observed map[catalog.ID]observation
}

func newMonitor(db *database, config Config) *monitor {
	return &monitor{db: db, config: config, observed: make(map[catalog.ID]observation)}
}

// Status returns how the projections of this runner are doing, in all their versions and processes. It asks the
// database.
func (r *Runner) Status(ctx context.Context) (Status, error) {
	return r.monitor.status(ctx, append([]string{}, slices.Collect(maps.Keys(r.names))...))
}

// status returns how the projections of some names are doing, or all of the schema with nil.
func (m *monitor) status(ctx context.Context, names []string) (Status, error) {
	s, err := m.read(ctx, names)
	if err != nil {
		return Status{}, fmt.Errorf("projection: read the status: %w", err)
	}
	return s, nil
}

func (m *monitor) read(ctx context.Context, names []string) (s Status, err error) {
	log, err := m.db.log.status(ctx)
	if err != nil {
		return s, err
	}
	s.Tidemark, s.LogEnd, s.Held, s.HeldFor = log.Tidemark, log.End, log.Holder, log.HeldFor
	var versions []catalog.VersionStatus
	var partitions []catalog.PartitionStatus
	// In one snapshot, so that no version is told of without its partitions.
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, m.db.pool, snapshot, func(tx pgx.Tx) (err error) {
		if partitions, err = m.db.catalog.PartitionStatuses(ctx, tx, names); err != nil {
			return err
		}
		versions, err = m.db.catalog.VersionStatuses(ctx, tx, names)
		return err
	})
	if err != nil {
		return s, err
	}
	byVersion := partitionsOf(partitions)
	s.Projections = make([]ProjectionStatus, len(versions))
	backlogs := make(map[eventstore.Position]backlog)
	for n, v := range versions {
		ahead, ok := backlogs[v.Checkpoint]
		if !ok {
			if ahead, err = m.backlog(ctx, v.Checkpoint, s.Tidemark); err != nil {
				return s, err
			}
			backlogs[v.Checkpoint] = ahead
		}
		if v.Phase == catalog.Building {
			if ahead.since, _, err = m.db.log.count(ctx, v.TotalAt, s.Tidemark, filterOf(v.Types), math.MaxInt64); err != nil {
				return s, err
			}
		}
		s.Projections[n] = m.projectionStatus(v, byVersion[v.ID], ahead)
	}
	return s, nil
}

// backlog is what is between a checkpoint and the tidemark.
type backlog struct {
	events int64     // counted up to maxLag
	first  time.Time // when the first of them was recorded; zero if there is none
	since  int64     // events of the version's types since it was made, if it is being built
}

func (m *monitor) backlog(ctx context.Context, checkpoint, tidemark eventstore.Position) (b backlog, err error) {
	b.events, b.first, err = m.db.log.count(ctx, checkpoint, tidemark, eventstore.Filter{}, maxLag)
	return b, err
}

func partitionsOf(rows []catalog.PartitionStatus) map[catalog.ID][]PartitionStatus {
	partitions := make(map[catalog.ID][]PartitionStatus)
	for _, p := range rows {
		own := PartitionStatus{
			Number: p.Number, Checkpoint: p.Checkpoint, Owner: p.Owner, Rate: p.Rate, Handled: p.Handled, Parked: p.Parked,
			Error: p.Error, ErrorAt: p.ErrorAt, AdvancedAt: p.AdvancedAt,
		}
		if p.FailingSince != nil {
			own.FailingSince = *p.FailingSince
		}
		partitions[p.ID] = append(partitions[p.ID], own)
	}
	return partitions
}

func (m *monitor) projectionStatus(v catalog.VersionStatus, partitions []PartitionStatus, ahead backlog) ProjectionStatus {
	s := ProjectionStatus{
		Name: v.ID.Name, Version: v.ID.Version, Phase: Phase(v.Phase), State: State(v.State), Reason: v.Reason, Added: v.Added,
		Checkpoint: v.Checkpoint, Handled: v.Handled, Lag: ahead.events, Partitions: partitions,
	}
	var advanced time.Time // of the partition that is farthest behind
	for _, p := range partitions {
		s.Parked += p.Parked
		if v.Now.Sub(p.AdvancedAt) < 2*rateWindow {
			s.Rate += p.Rate
		}
		if p.Checkpoint == s.Checkpoint {
			advanced = p.AdvancedAt
		}
	}
	unmoved := m.unmoved(v.ID, s.Checkpoint, !ahead.first.IsZero())
	if !ahead.first.IsZero() {
		// A clock that was put back tells too little: this process has seen it stand for so long.
		s.LagTime = max(v.Now.Sub(ahead.first), unmoved)
		s.Stalled = s.State == StateRunning && s.Lag > m.config.StallLag &&
			s.LagTime > m.config.StallAfter && max(v.Now.Sub(advanced), unmoved) > m.config.StallAfter
	}
	if s.Phase == PhaseBuilding {
		s.Progress = &Progress{Done: s.Handled, Total: max(v.Total+ahead.since, s.Handled)}
		if s.Rate > 0 {
			s.Progress.ETA = time.Duration(float64(s.Progress.Total-s.Progress.Done) / s.Rate * float64(time.Second))
		}
	}
	return s
}

// Problem says what is wrong with the projection, for people; "" if nothing is. Lag alone is not,
// nor being paused, nor dead letters.
func (s ProjectionStatus) Problem() string {
	if s.State == StateStopped {
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
func (m *monitor) unmoved(id catalog.ID, checkpoint eventstore.Position, due bool) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.observed[id]
	if !ok || o.checkpoint != checkpoint || !due {
		o = observation{checkpoint, time.Now()}
		m.observed[id] = o
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

// Health returns an error when one of this runner's projections has a problem, see [ProjectionStatus.Problem], a
// transaction has held the tidemark back for ten seconds, a projection of this runner is not stored any more, or more than
// [Config.Parked] dead letters, [Runner.Run] has returned one, or the database cannot be asked: for readiness probes. It
// looks at the versions that readers see, whoever runs them, and at those that this runner builds.
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
		stored := slices.ContainsFunc(s.Projections, func(p ProjectionStatus) bool { return p.Name == id.Name })
		if away := v.stepped(); away != nil && (!stored || v.wrong() != nil) {
			problems = append(problems, fmt.Sprintf("projection %s, version %d: %s", id.Name, id.Version, away))
		}
	}
	for _, p := range s.Projections {
		_, mine := r.versions[catalog.ID{Name: p.Name, Version: p.Version}]
		seen := r.names[p.Name] != nil && p.Phase == PhaseLive
		if !seen && !(mine && p.Phase == PhaseBuilding) {
			continue
		}
		if problem := p.Problem(); problem != "" {
			problems = append(problems, fmt.Sprintf("projection %s, version %d: %s", p.Name, p.Version, problem))
		}
		if p.Parked > r.engine.config.Parked {
			problems = append(problems, fmt.Sprintf("projection %s, version %d: %d events are parked, and Config.Parked allows %d: see Operator.DeadLetterGroups",
				p.Name, p.Version, p.Parked, r.engine.config.Parked))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("unhealthy: %s", strings.Join(problems, "; "))
	}
	return nil
}
