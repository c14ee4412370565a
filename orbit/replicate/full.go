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

// fullness is why a quota excludes entries of peers, if it does, until space is
// freed.
type fullness struct {
	err   error
	freed <-chan struct{} // closed when space was freed since
}

// now returns why a quota excludes entries, or nil.
func (f fullness) now() error {
	select {
	case <-f.freed:
		return nil
	default:
		return f.err
	}
}

// noteFull notes whether a quota excluded entries that were offered just now.
// freed is closed when space was freed since they were offered.
func (rp *replica) noteFull(joined []orbit.JoinResult, freed <-chan struct{}) {
	i := slices.IndexFunc(joined, func(j orbit.JoinResult) bool { return errors.Is(j.Err, orbit.ErrQuotaFull) })
	accepted := slices.ContainsFunc(joined, func(j orbit.JoinResult) bool {
		return j.Outcome == orbit.Joined || j.Outcome == orbit.Pending
	})
	switch {
	case i >= 0:
		rp.setFull(fullness{joined[i].Err, freed})
	case accepted:
		rp.setFull(fullness{})
	}
}

func (rp *replica) setFull(f fullness) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if (rp.full.err == nil) != (f.err == nil) {
		rp.changes.Announce()
	}
	rp.full = f
}

// isFull returns why a quota excludes entries of peers, or nil. While the
// database is full, nothing is requested, but heads are exchanged as usual:
// once one of them is accepted, the database is not full any more.
func (rp *replica) isFull() error { return rp.fullness().now() }

func (rp *replica) fullness() fullness {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	return rp.full
}

// awaitQuota waits while the database is full. It reports whether the replica
// goes on.
func (rp *replica) awaitQuota() bool {
	for {
		changed, full := rp.changes.Next(), rp.fullness()
		if full.err == nil {
			return rp.ctx.Err() == nil
		}
		select {
		case <-full.freed:
			rp.setFull(fullness{})
			rp.ask()
		case <-changed:
		case <-rp.ctx.Done():
			return false
		}
	}
}
