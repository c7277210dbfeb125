package projection

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// awayFor is how long a process leaves a projection that it cannot run to other processes.
	awayFor = 10 * time.Minute
	// leaveAtLeast is the least time for which it leaves the projection to others. Up to half of this time is added at
	// random. If two processes both cannot run the projection, one of them therefore tries again while the other still
	// waits.
	leaveAtLeast = 2 * time.Second
)

// unfit returns why this process must not run a projection in the state that the database has, or nil if it may.
func (v *deployment) unfit(p plan) error {
	if unable := v.leftToOthers(p); unable != nil {
		return unable
	}
	switch {
	case v.refused != nil:
		return v.refused
	case p.Detail.Partitions != v.projection.options.Partitions:
		return fmt.Errorf("left to other processes: it has %d partitions in the database and %d in this process", p.Detail.Partitions, v.projection.options.Partitions)
	case !v.covers(p.Detail.Types):
		return fmt.Errorf("left to other processes: a newer release handles more event types than this one: %s", p.Detail.Types)
	}
	return nil
}

// leftToOthers returns why this process cannot run the projection, while other processes run it.
func (v *deployment) leftToOthers(p plan) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	if early := now.Before(v.until.Add(leaveAtLeast - awayFor)); !early && (now.After(v.until) || !p.HasOthers(v.engine.db.owner)) {
		v.unable = nil
	}
	return v.unable
}

// giveAway leaves the projection to other processes, if there are any, because of an error that may concern this
// process alone: its search_path or its role may hide objects. It reports whether there are other processes.
func (v *deployment) giveAway(why error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.others {
		return false
	}
	v.unable = fmt.Errorf("left to other processes: this process cannot run it, maybe because its search_path or its role differs from theirs: %w", why)
	v.until = time.Now().Add(awayFor + rand.N(leaveAtLeast/2))
	return true
}

// stepBack notes why this process does not run the projection, or nil if it does. It logs a new reason.
func (v *deployment) stepBack(reason error) {
	v.notRunHere.Store(reason != nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	if reason != nil && (v.away == nil || v.away.Error() != reason.Error()) {
		v.engine.logger.Warn("projection is not run by this process",
			"projection", v.projection.name, "version", v.projection.options.Version, "reason", reason)
	}
	v.away = reason
}

// Missing stops running the version, because its row is not stored any more.
func (v *deployment) Missing() {
	if v.refused != nil {
		v.stepBack(v.refused)
		return
	}
	if v.notRunHere.Load() && v.stepped() == nil {
		return // the row was already missing when the runner began
	}
	v.stepBack(errors.New("its row in the table projections was deleted, or the version was dropped: restart the process to create it again"))
}

// stepped returns why this process does not run the projection, or nil if it does.
func (v *deployment) stepped() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.away
}

// wrong returns why this process is not able to run the projection. The process is then not healthy.
func (v *deployment) wrong() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.refused != nil {
		return v.refused
	}
	return v.unable
}
