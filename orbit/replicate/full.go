package replicate

import (
	"errors"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
)

// sender returns the peer to whose quotas entries are charged, as text: the
// only one that may have sent them, or "".
func sender(from []peer.ID) string {
	if len(from) != 1 {
		return ""
	}
	return from[0].String()
}

// noteFull notes whether a quota excluded entries that were offered just now.
func (rp *replica) noteFull(joined []orbit.JoinResult) {
	i := slices.IndexFunc(joined, func(j orbit.JoinResult) bool { return errors.Is(j.Err, orbit.ErrQuotaFull) })
	accepted := slices.ContainsFunc(joined, func(j orbit.JoinResult) bool {
		return j.Outcome == orbit.Joined || j.Outcome == orbit.Pending
	})
	switch {
	case i >= 0:
		rp.setFull(joined[i].Err)
	case accepted:
		rp.setFull(nil)
	}
}

func (rp *replica) setFull(err error) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if (rp.full == nil) != (err == nil) {
		rp.changes.Announce()
	}
	rp.full = err
}

// isFull returns why a quota excludes entries of peers, or nil. While the
// database is full, nothing is requested, but heads are exchanged as usual:
// once one of them is accepted, the database is not full any more.
func (rp *replica) isFull() error {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	return rp.full
}

// awaitQuota waits while the database is full. It reports whether the replica
// goes on.
func (rp *replica) awaitQuota() bool {
	for {
		freed, changed := rp.r.cfg.Orbit.Freed(), rp.changes.Next()
		if rp.isFull() == nil {
			return rp.ctx.Err() == nil
		}
		select {
		case <-freed:
			rp.setFull(nil)
			rp.ask()
		case <-changed:
		case <-rp.ctx.Done():
			return false
		}
	}
}
