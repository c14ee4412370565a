package replicate

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/space"
)

// A replica runs while there is something to do for its database: while a peer
// that speaks no inventory has it open, an exchange or a transfer runs, its
// blocks are requested, or somebody holds the replica. Otherwise it rests: it is
// an item of the index, and its database may be let go (package orbit).

const (
	restAfter      = 5 * time.Second // without anything to do
	lingerFor      = time.Minute     // after the last subscriber of the topic left
	askFor         = 2 * time.Minute // peers for what is not here
	restEvery      = time.Second     // looks for replicas that can rest
	maxIdle        = 512             // replicas with nothing to do that run all the same
	restedRemember = 4096            // statuses of replicas that rest
)

// acquire returns the replica of a database that is replicated, which it starts
// if it rests, and holds it until release is called. It returns nil for any
// other database, and when the Replicator is closed.
func (r *Replicator) acquire(address string) (rp *replica, release func()) {
	k, ok := keyOf(address)
	if !ok || !r.index.has(k) {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.index.has(k) || r.tasks.Context().Err() != nil {
		return nil, nil
	}
	if rp = r.replicas[address]; rp == nil {
		if rp = r.start(address); rp == nil {
			return nil, nil
		}
	}
	rp.held++
	return rp, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		rp.held--
		rp.busy = time.Now()
	}
}

// start starts the replica of an address. The caller holds r.mu.
func (r *Replicator) start(address string) *replica {
	rp := newReplica(r, address)
	rp.after = r.ending[address]
	if before, ok := r.rested.Get(address); ok {
		r.rested.Remove(address)
		rp.restore(before)
	}
	if !r.tasks.Go(rp.run) {
		return nil
	}
	r.replicas[address] = rp
	r.rest.Set()
	return rp
}

// stop cancels a running replica. The next one of its address waits until it
// has ended. The caller holds r.mu.
func (r *Replicator) stop(rp *replica) {
	delete(r.replicas, rp.address)
	r.ending[rp.address] = rp.done
	rp.cancel()
	r.tasks.Go(func() {
		<-rp.done
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.ending[rp.address] == rp.done {
			delete(r.ending, rp.address)
		}
	})
}

// acquireHere is acquire for a database that may be here although the index
// does not have it yet, and waits until it is open, if it is here.
func (r *Replicator) acquireHere(ctx context.Context, address string) (rp *replica, release func(), err error) {
	if rp, release = r.acquire(address); rp == nil {
		if _, err := r.cfg.Orbit.Resolve(ctx, address); err != nil {
			return nil, nil, err
		}
		if r.isPaused(address) {
			return nil, nil, nil
		}
		r.replicates(address)
		if rp, release = r.acquire(address); rp == nil {
			return nil, nil, ErrClosed
		}
	}
	select {
	case <-rp.tried:
		return rp, release, nil
	case <-rp.ctx.Done():
		err = rp.end()
	case <-ctx.Done():
		err = ctx.Err()
	}
	release()
	return nil, nil, err
}

// restAlways stops replicas with nothing to do, until the Replicator is closed.
func (r *Replicator) restAlways() {
	if r.seesFollowed() {
		return
	}
	ctx := r.tasks.Context()
	for {
		select {
		case <-r.rest:
		case <-ctx.Done():
			return
		}
		for r.restIdle(time.Now()) > 0 {
			select {
			case <-time.After(r.random.around(restEvery)):
			case <-ctx.Done():
				return
			}
		}
	}
}

// restIdle stops the replicas that have nothing to do since restAfter before
// now, and those beyond maxIdle that have nothing to do for longest. It returns
// the number of replicas that run.
func (r *Replicator) restIdle(now time.Time) (running int) {
	idle, running := r.unheld()
	idle = slices.DeleteFunc(idle, func(rp *replica) bool { return !rp.canRest(now) })
	last := make(map[*replica]resting, len(idle))
	for _, rp := range idle {
		s, _ := rp.fullStatus(rp.ctx)
		last[rp] = resting{s, rp.fullness()}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(idle, func(a, b *replica) int { return a.busy.Compare(b.busy) })
	for i, rp := range idle {
		// A replica that was held since then may have something to do.
		if rp.held > 0 || rp.busy.After(now) || r.replicas[rp.address] != rp || now.Sub(rp.busy) < restAfter && len(idle)-i <= maxIdle {
			continue
		}
		if s := last[rp]; s.remarkable() {
			r.rested.Add(rp.address, s)
		}
		r.stop(rp)
		running--
	}
	return running
}

// unheld returns the replicas that nobody holds, and the number of all that run.
func (r *Replicator) unheld() (idle []*replica, running int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, rp := range r.replicas {
		if rp.held == 0 {
			idle = append(idle, rp)
		}
	}
	return idle, len(r.replicas)
}

// resting is what is remembered of a replica that rests.
type resting struct {
	last Status
	full fullness
}

// status returns the last status, with what excludes entries now.
func (s resting) status(disk *space.Disk) Status {
	s.last.Full = cmp.Or(disk.CheckIncoming(), s.full.now())
	return s.last
}

// remarkable reports whether there is more to say than of a replica that just
// started.
func (s resting) remarkable() bool {
	return s.last.Err != nil || s.full.now() != nil || len(s.last.Missing)+len(s.last.Refused)+len(s.last.Peers) > 0
}

// canRest reports whether there is nothing to do. The replica is not held.
func (rp *replica) canRest(now time.Time) bool {
	if rp.peers.active(now) || rp.slot.isTaken() || rp.wants.length() > 0 {
		return false
	}
	db := rp.database()
	if now.Sub(rp.begun) > askFor {
		return true
	}
	if db == nil {
		return false
	}
	stats, err := oplog.Of(db).Stats(rp.ctx)
	return err != nil || stats.Pending == 0 || len(rp.openAt()) == 0
}

// open opens the database if it is here, and reports whether it is.
func (rp *replica) open() bool {
	if rp.r.isWanted(rp.address) {
		return false
	}
	db, err := rp.r.cfg.Orbit.Open(rp.ctx, rp.address, orbit.OpenOptions{})
	if err == nil {
		rp.setDatabase(db)
	} else if rp.ctx.Err() == nil && !errors.Is(err, orbit.ErrDropped) {
		rp.setError(err)
	}
	return err == nil
}

// restore takes over what a replica of the same database knew when it was
// stopped.
func (rp *replica) restore(before resting) {
	rp.refusals.restore(before.last.Refused)
	rp.peers.restore(before.last.Peers)
	rp.full = before.full
}

// isOther reports whether the log of a database is another one than that of the
// replica's database.
func (rp *replica) isOther(db *orbit.Database) bool {
	mine := rp.database()
	return mine != nil && oplog.Of(mine) != oplog.Of(db)
}

// setDatabase sets the database, unless the replica has it.
func (rp *replica) setDatabase(db *orbit.Database) {
	// Readers of the log get the same error.
	stats, _ := oplog.Of(db).Stats(rp.ctx)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if rp.db == db {
		return
	}
	first := rp.db == nil
	rp.db, rp.err = db, nil
	if first {
		rp.first = stats.Last
		close(rp.ready)
	}
	rp.changes.Announce()
}
