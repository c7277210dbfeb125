package projection

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark-es/tidemark/eventstore"
	"github.com/tidemark-es/tidemark/internal/pause"
	"github.com/tidemark-es/tidemark/internal/pgerr"
	"github.com/tidemark-es/tidemark/projection/internal/catalog"
)

const (
	// switchEvery is how often a process checks whether a version that is being built can become the live version.
	// After a failed attempt it waits twice as long each time, up to maxSwitchPause. Otherwise the live version would
	// be held again before it has handled any events.
	switchEvery    = 200 * time.Millisecond
	maxSwitchPause = 30 * time.Second
	// switchLag is how many positions the version may be behind the live version when an attempt begins. switchTime is
	// how long the live version then waits for it. The time doubles with each attempt, up to maxSwitchTime. Otherwise a
	// slow version would never catch up with a busy live version.
	switchLag     = 2000
	switchTime    = 250 * time.Millisecond
	maxSwitchTime = 4 * time.Second
)

// takeover is how often in a row a version has failed to become the live version, and when it may try again.
type takeover struct {
	failed int
	next   time.Time
}

// patience is how long the live version waits, after so many failed attempts.
func (t *takeover) patience() time.Duration { return min(switchTime<<min(t.failed, 10), maxSwitchTime) }

// recordAttempt counts a failed attempt, and returns how long to wait before the next one. It does not count attempts
// that were refused, or for which the live version was not held because this version was too far behind.
func (t *takeover) recordAttempt(err error) (pause time.Duration) {
	var behind *behindError
	if errors.As(err, &behind) && !behind.tried || errors.Is(err, ErrRefused) {
		return switchEvery
	}
	t.failed++
	return min(switchEvery<<min(t.failed, 10), maxSwitchPause)
}

// switchVersions makes versions that are being built the live ones when they have caught up.
func (r *Runner) switchVersions(ctx context.Context) {
	takeovers := make(map[catalog.ID]*takeover)
	for ctx.Err() == nil {
		for _, id := range r.ids() {
			if !r.versions[id].rising() {
				delete(takeovers, id)
				continue
			}
			if takeovers[id] == nil {
				takeovers[id] = &takeover{}
			}
			r.takeOver(ctx, id, takeovers[id])
		}
		_ = pause.Sleep(ctx, switchEvery)
	}
}

// rising reports whether a version is being built, and this process has the lease of its first partition. Only that
// process tries to make the version live, because one is enough.
func (v *deployment) rising() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, first := v.owned[0]
	return first && v.phase == catalog.Building
}

// takeOver makes a version the live version if it has caught up, unless it is too early to try again.
func (r *Runner) takeOver(ctx context.Context, id catalog.ID, t *takeover) {
	if time.Now().Before(t.next) {
		return
	}
	err := guarded(func() error { return r.engine.db.trySwitch(ctx, id, t.patience(), catalog.Building) })
	if err == nil || ctx.Err() != nil {
		return
	}
	pause := t.recordAttempt(err)
	t.next = time.Now().Add(pause)
	var behind *behindError
	if errors.As(err, &behind) || errors.Is(err, ErrRefused) {
		return
	}
	r.engine.logger.WarnContext(ctx, "projection: cannot switch to a new version and will try again",
		"projection", id.Name, "version", id.Version, "after", pause, "error", err)
	_ = r.engine.catalog.SetReason(ctx, r.engine.pool, id, err.Error())
}

// Switch makes another version of a projection the live version, as soon as it has caught up with the present live
// version. It is the way back when a new version turns out to be wrong: the old version is kept, and continues while
// some process runs it. Readers see either one version or the other, and nothing that they have seen is missing from
// the new live version. Switch waits until the version has caught up or ctx is done. It returns [ErrRefused] for a
// version that is not stored or does not run. Switch holds the live version while it tries, for seconds at most, and
// the live version continues between the attempts.
func (o *Operator) Switch(ctx context.Context, ref Ref) error {
	id, err := numbered("switch", ref)
	if err != nil {
		return err
	}
	for t := (takeover{}); ; {
		err := o.db.trySwitch(ctx, id, t.patience(), catalog.Building, catalog.Retired)
		var behind *behindError
		if err == nil || !errors.As(err, &behind) && !pgerr.Is(err, pgerr.LockNotAvailable) { // readers hold the view: try again
			return err
		}
		if done := pause.Sleep(ctx, t.recordAttempt(err)); done != nil {
			return fmt.Errorf("switch projection %s to version %d: %w: %w", id.Name, id.Version, done, err)
		}
	}
}

// behindError means that a version has not caught up yet.
type behindError struct {
	checkpoints, live []eventstore.Position
	tried             bool // the live version was held for the attempt
}

func (e *behindError) Error() string {
	return fmt.Sprintf("it is at %v, the live version at %v", e.checkpoints, e.live)
}

// trySwitch makes a version the live version. During the attempt the live version is held, so that the other version
// can catch up with it, whichever process runs that version. The live version is held for the time patience at most,
// even if this process dies.
func (d *database) trySwitch(ctx context.Context, id catalog.ID, patience time.Duration, from ...string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("switch projection %s to version %d: %w", id.Name, id.Version, err)
		}
	}()
	if err := d.near(ctx, id); err != nil {
		return err
	}
	live := 0 // the number of the version that is held
	err = d.inTx(ctx, func(tx pgx.Tx) error {
		live, err = d.holdLive(ctx, tx, id, patience, from)
		return err
	})
	if isNothing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d.announce(ctx)
	if err := d.makeLiveWithin(ctx, id, live, patience); err != nil {
		letGo := d.catalog.Hold(context.WithoutCancel(ctx), d.pool, id.Name, 0)
		return errors.Join(err, letGo)
	}
	d.announce(ctx)
	d.logger.InfoContext(ctx, "projection: readers see a new version", "projection", id.Name, "version", id.Version)
	if d.observe != nil {
		d.observe(Ref{Name: id.Name, Version: id.Version})
	}
	return nil
}

// holdLive holds the live version, unless an obstacle to the switch is known already.
func (d *database) holdLive(
	ctx context.Context, tx pgx.Tx, id catalog.ID, patience time.Duration, from []string,
) (held int, err error) {
	next, live, err := d.lockVersions(ctx, tx, id)
	switch {
	case err != nil:
		return 0, err
	case next.Version == live.Version:
		return 0, errNothing
	case live.Version == 0: // without a live version it is not known what readers have seen
		return 0, errors.New("no version is live: was the live version deleted by hand?")
	case !slices.Contains(from, next.Phase) || next.State != catalog.Running:
		return 0, fmt.Errorf("%w: version %d is %s and %s", ErrRefused, id.Version, next.Phase, next.State)
	case len(from) == 1 && next.Version < live.Version: // the switch was not requested by an operator
		return 0, fmt.Errorf("%w: version %d is live", ErrRefused, live.Version)
	}
	liveID := catalog.ID{Name: id.Name, Version: live.Version}
	if err := d.refuseInline(ctx, tx, liveID); err != nil {
		return 0, err
	}
	if err := d.rehearse(ctx, tx, next.Tables, id.Version); err != nil {
		return 0, err
	}
	if err := d.catalog.Hold(ctx, tx, id.Name, patience); err != nil {
		return 0, err
	}
	return live.Version, d.catalog.Fence(ctx, tx, liveID, nil) // so that its batches under way fail too
}

// makeLiveWithin calls makeLive until the version has caught up, or the time patience is over.
func (d *database) makeLiveWithin(ctx context.Context, id catalog.ID, held int, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		err := d.inTx(ctx, func(tx pgx.Tx) error {
			return d.makeLive(ctx, tx, id, held)
		})
		var behind *behindError
		if !errors.As(err, &behind) || time.Now().After(deadline) {
			return err
		}
		_ = pause.Sleep(ctx, 2*time.Millisecond)
	}
}

// makeLive makes a version the live version in one transaction, if it has caught up.
func (d *database) makeLive(ctx context.Context, tx pgx.Tx, id catalog.ID, held int) error {
	next, live, err := d.lockVersions(ctx, tx, id)
	if err == nil && (live.Version != held || next.State != catalog.Running) {
		err = fmt.Errorf("%w: version %d is live, and %d is %s", ErrRefused, live.Version, id.Version, next.State)
	}
	if err != nil {
		return err
	}
	liveID := catalog.ID{Name: id.Name, Version: live.Version}
	if err := d.refuseInline(ctx, tx, liveID); err != nil { // appends may have begun to keep it since it was held
		return err
	}
	if err := d.caughtUp(ctx, tx, id, liveID); err != nil {
		return err
	}
	if err := d.switchTables(ctx, tx, next.Tables, id.Version); err != nil {
		return err
	}
	if err := d.catalog.SetPhase(ctx, tx, liveID, catalog.Retired); err != nil {
		return err
	}
	if err := d.catalog.SetPhase(ctx, tx, id, catalog.Live); err != nil {
		return err
	}
	// Batches under way fail, and both versions do them again in their new phases.
	if err := d.catalog.Fence(ctx, tx, catalog.ID{Name: id.Name}, nil); err != nil {
		return err
	}
	return d.audit(ctx, tx, id, "switch", map[string]any{"from": live.Version})
}

// near returns a behindError if the version is so far behind that an attempt would only delay the live version.
func (d *database) near(ctx context.Context, id catalog.ID) error {
	checkpoints, err := d.catalog.Checkpoints(ctx, d.pool, id)
	if err != nil {
		return err
	}
	live, err := d.catalog.LiveCheckpoint(ctx, d.pool, id.Name)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if len(checkpoints) > 0 && slices.Min(checkpoints) < live-switchLag {
		return &behindError{checkpoints: checkpoints, live: []eventstore.Position{live}}
	}
	return nil
}

// lockVersions locks the versions of a name, and returns the wanted version and the live version.
func (d *database) lockVersions(ctx context.Context, tx pgx.Tx, id catalog.ID) (wanted, live catalog.LockedVersion, err error) {
	versions, err := d.catalog.LockVersions(ctx, tx, id.Name)
	for _, v := range versions {
		if v.Version == id.Version {
			wanted = v
		}
		if v.Phase == catalog.Live {
			live = v
		}
	}
	if err == nil && wanted.Version == 0 {
		err = fmt.Errorf("%w: %w: there is no version %d of %s", ErrRefused, ErrUnknownProjection, id.Version, id.Name)
	}
	return wanted, live, err
}

// caughtUp returns nil when nothing that readers see is missing from the next version. It locks the partitions of the
// live version.
func (d *database) caughtUp(ctx context.Context, tx pgx.Tx, next, live catalog.ID) error {
	seen, err := d.catalog.LockCheckpoints(ctx, tx, live)
	if err != nil {
		return err
	}
	checkpoints, err := d.catalog.Checkpoints(ctx, tx, next)
	if err != nil {
		return err
	}
	if len(checkpoints) == 0 || len(seen) == 0 {
		return fmt.Errorf("version %d has %d partitions stored, and the live version %d has %d: were their rows deleted?",
			next.Version, len(checkpoints), live.Version, len(seen))
	}
	if slices.Min(checkpoints) < slices.Max(seen) {
		return &behindError{checkpoints, seen, true}
	}
	return nil
}
