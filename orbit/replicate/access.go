package replicate

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
)

// followAccess acts on changes of the access database: it offers entries
// pending authorization to the log again, and restores changes of other admins
// that were overwritten. When the access database is in sync with that of a
// peer, it compares the replica of the peer again.
func (rp *replica) followAccess(inner *orbit.Database) {
	if access, release := rp.r.acquire(inner.Address()); access != nil {
		defer release()
		defer access.guard(rp)()
	}
	l := oplog.Of(inner)
	last := uint64(0)
	var repair <-chan time.Time
	for {
		changed := l.Changed()
		if s, err := l.Stats(rp.ctx); err == nil && s.Last != last {
			last = s.Last
			rp.offerUnauthorized()
			repair = time.After(rp.r.random.around(repairAfter))
		}
		if ours, err := oplog.Of(rp.database()).Heads(rp.ctx); err == nil {
			rp.settle(ours)
		}
		select {
		case <-changed:
		case <-rp.accessInSync:
		case <-repair:
			repair = nil
			if _, err := rp.database().Access().Repair(rp.ctx); err != nil {
				rp.storeError(err)
			}
		case <-rp.ctx.Done():
			return
		}
	}
}

// guard signals to a replica when a peer is in sync with this one, its access
// database, until stop is called.
func (rp *replica) guard(guarded *replica) (stop func()) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	rp.guarded[guarded] = true
	return func() {
		rp.mu.Lock()
		defer rp.mu.Unlock()
		delete(rp.guarded, guarded)
	}
}

// offerUnauthorized offers entries pending authorization to the log. Those that
// were fetched are still missing, so they are requested again.
func (rp *replica) offerUnauthorized() {
	rp.wants.wake.Set()
	if rp.refusals.holds() && rp.accepts() {
		rp.join(rp.ctx, nil, rp.refusals.take()) // logs its error
	}
}

// refreshAccess exchanges the heads of the access database with peers that may
// have a newer list, maxRefreshed of them at once, and waits for their entries.
func (rp *replica) refreshAccess(ctx context.Context, from []peer.ID) {
	access, release := rp.r.acquire(rp.database().Access().Address())
	if access == nil {
		return
	}
	defer release()
	select {
	case <-access.tried:
	case <-ctx.Done():
	}
	if access.database() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshWithin)
	defer cancel()
	var group sync.WaitGroup
	for _, p := range from[:min(len(from), maxRefreshed)] {
		group.Go(func() { access.refresh(ctx, p) })
	}
	group.Wait()
}

// refresh exchanges heads with a peer, unless that was tried a moment ago, and
// waits until no entry is pending.
func (rp *replica) refresh(ctx context.Context, p peer.ID) {
	begins, runs := rp.peers.refresh(p)
	if !runs {
		return
	}
	if begins {
		rp.exchange(ctx, p)
	}
	l := oplog.Of(rp.database())
	for {
		changed, status := l.Changed(), rp.changes.Next()
		if s, err := l.Stats(ctx); err != nil || s.Pending == 0 && !rp.peers.runs(p) {
			return
		}
		select {
		case <-changed:
		case <-status:
		case <-ctx.Done():
			return
		}
	}
}
