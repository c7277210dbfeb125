package projection

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// awayFor is how long a process leaves a projection that it cannot run to others.
	awayFor = 10 * time.Minute
	// leaveAtLeast is how long it leaves the projection to others at the least, and half of it at random, so that of two
	// processes that both cannot run it one goes on trying.
	leaveAtLeast = 2 * time.Second
)

// unfit returns why this process may not run a projection as the database has it, nil if it may.
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

// leftToOthers returns why this process cannot run the projection, as long as others run it.
func (v *deployment) leftToOthers(p plan) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	if early := now.Before(v.until.Add(leaveAtLeast - awayFor)); !early && (now.After(v.until) || !p.HasOthers(v.engine.db.owner)) {
		v.unable = nil
	}
	return v.unable
}

// giveAway leaves the projection to other processes, if there are any, because of an error that this process alone may
// have: another search_path or another role hide objects from it. It reports whether it has.
func (v *deployment) giveAway(why error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.others {
		return false
	}
	v.unable = fmt.Errorf("left to other processes: this one cannot run it, maybe because its search_path or its role is another one: %w", why)
	v.until = time.Now().Add(awayFor + rand.N(leaveAtLeast/2))
	return true
}

// stepBack notes why this process does not run the projection, nil if it does, and logs when that changes.
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

// Missing leaves the version alone, whose row is not there any more.
func (v *deployment) Missing() {
	if v.refused != nil {
		v.stepBack(v.refused)
		return
	}
	if v.notRunHere.Load() && v.stepped() == nil {
		return // it was not there when the runner began
	}
	v.stepBack(errors.New("its row in the table projections was deleted, or it was dropped: restart the process to make it anew"))
}

// stepped returns why this process does not run the projection.
func (v *deployment) stepped() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.away
}

// wrong returns why this process is not fit to run the projection, so that it is not healthy.
func (v *deployment) wrong() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.refused != nil {
		return v.refused
	}
	return v.unable
}
