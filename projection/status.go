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

// maxLag is the highest number that [ProjectionStatus.Lag] counts to.
const maxLag = 100_000

// Phase is the phase of a version of a projection: whether readers see it.
type Phase string

// The phases.
const (
	PhaseLive     Phase = catalog.Live     // readers see it
	PhaseBuilding Phase = catalog.Building // the version is being built, to become the live version
	PhaseRetired  Phase = catalog.Retired  // another version has replaced it; it is kept so that an operator can switch back
)

// State says whether a version of a projection should run.
type State string

// The states.
const (
	StateRunning State = catalog.Running
	StatePaused  State = catalog.Paused  // by an operator
	StateStopped State = catalog.Stopped // by an operator, or by itself after an error
)

// Status is the state of projections in all processes.
type Status struct {
	// Tidemark is the position up to which readers may read. LogEnd is the position of the last event. When they differ
	// for a long time, an open transaction holds the readers back. Held names that transaction.
	Tidemark, LogEnd eventstore.Position
	Held             *eventstore.Holder
	HeldFor          time.Duration      // for how long the first event after the tidemark has been stored; 0 if there is none
	Projections      []ProjectionStatus // in the order of names and versions
}

// ProjectionStatus is the state of one version of a projection.
type ProjectionStatus struct {
	Name    string
	Version int
	Phase   Phase
	State   State
	Reason  string // why the version is paused or stopped
	// Checkpoint is the position up to which all events are in the read model, except parked events.
	Checkpoint eventstore.Position
	// Lag is how many events of the log, of all types, are between the checkpoint and the tidemark, counted up to
	// 100,000. LagTime is the age of the first of them.
	Lag     int64
	LagTime time.Duration
	Rate    float64 // events handled per second, on average over about the last ten seconds of work
	Handled int64   // events in all; an event with several keys counts once
	Parked  int     // dead letters, and events that wait behind them
	// Stalled means that the version is running, is more than [Config.StallLag] events behind, and has made no progress
	// for [Config.StallAfter].
	Stalled bool
	// Added are the event types that were added after the version had begun. The value is the position up to which the
	// events of the type are missing from the read model.
	Added      map[string]eventstore.Position
	Partitions []PartitionStatus
	Progress   *Progress // nil unless the version is being built
}

// PartitionStatus is the state of one partition.
type PartitionStatus struct {
	Number     int
	Checkpoint eventstore.Position
	Owner      string // the runner that has the lease, as host:pid:number@place; "" if there is none
	Rate       float64
	Handled    int64
	Parked     int
	// Error is why the last batch failed; "" if it did not. ErrorAt is the position of the event that failed, if it is
	// known. FailingSince is when batches began to fail.
	Error        string
	ErrorAt      eventstore.Position
	FailingSince time.Time
	AdvancedAt   time.Time
}

// Progress is how much of a version has been built.
type Progress struct {
	Done, Total int64         // events; Total is an estimate for a long log, and includes events that concern no row, which Done does not
	ETA         time.Duration // until the version has caught up, at the present rate; 0 if there is no rate
}

// monitor reads the status of projections.
type monitor struct {
	db     *database
	config Config

	mu       sync.Mutex
	observed map[catalog.ID]observation
}

func newMonitor(db *database, config Config) *monitor {
	return &monitor{db: db, config: config, observed: make(map[catalog.ID]observation)}
}

// Status reads the status of this runner's projections from the database, in all their versions and processes.
func (r *Runner) Status(ctx context.Context) (Status, error) {
	return r.monitor.status(ctx, append([]string{}, slices.Collect(maps.Keys(r.names))...))
}

// status returns the status of the projections with the given names, or of all of the schema if names is nil.
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
	// Read both in one snapshot, so that each version is returned with its partitions.
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

// backlog describes the events between a checkpoint and the tidemark.
type backlog struct {
	events int64     // counted up to maxLag
	first  time.Time // when the first of these events was recorded; zero if there is none
	since  int64     // for a version that is being built: events of its types since it was created
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
		// If the server's clock was set back, its difference is too small. The time for which this process has seen no
		// progress is then larger.
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

// Problem describes what is wrong with the projection, for operators; "" if nothing is. Lag alone is no problem.
// Neither is a pause, or a dead letter.
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

// observation is the checkpoint at which a status found a version, and when it was first found there.
type observation struct {
	checkpoint eventstore.Position
	since      time.Time
}

// unmoved returns for how long all statuses have found a version at the same checkpoint although there were events to
// handle. It measures with the clock of this process, which does not jump.
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

// heldLimit is how long events may wait for the tidemark before that is a problem.
const heldLimit = 10 * time.Second

// problem describes what is wrong with the log for projections; "" if nothing is.
func (s Status) problem() string {
	if s.HeldFor < heldLimit {
		return ""
	}
	text := fmt.Sprintf("the tidemark is held back at %d, before the end %d of the log, for %s", s.Tidemark, s.LogEnd, s.HeldFor.Round(time.Second))
	if s.Held != nil {
		text += fmt.Sprintf(", by process %d of Postgres (%s)", s.Held.PID, s.Held.ApplicationName)
	}
	return text + ": end that transaction"
}

// Health is for readiness probes. It returns an error in these cases:
//
//   - One of this runner's projections has a problem, see [ProjectionStatus.Problem].
//   - A transaction has held the tidemark back for ten seconds.
//   - A projection of this runner is not stored any more, or this process cannot run it.
//   - A projection has more than [Config.Parked] parked events.
//   - [Runner.Run] has returned an error.
//   - The database cannot be asked.
//
// Health checks the versions that readers see, whichever processes run them, and the versions that this runner builds.
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
