package replicate

import (
	"errors"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
)

// offerer returns the peer that entries are taken to be of, as text: the only one
// that may have sent them, or "".
func offerer(from []peer.ID) string {
	if len(from) != 1 {
		return ""
	}
	return from[0].String()
}

// noteFull notes whether a quota keeps entries out that were offered just now.
func (rp *replica) noteFull(joined []orbit.JoinResult) {
	i := slices.IndexFunc(joined, func(j orbit.JoinResult) bool { return errors.Is(j.Err, orbit.ErrFull) })
	taken := slices.ContainsFunc(joined, func(j orbit.JoinResult) bool {
		return j.Outcome == orbit.Joined || j.Outcome == orbit.Pending
	})
	switch {
	case i >= 0:
		rp.setFull(joined[i].Err)
	case taken:
		rp.setFull(nil)
	}
}

func (rp *replica) setFull(err error) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if (rp.full == nil) != (err == nil) {
		rp.notify()
	}
	rp.full = err
}

// isFull returns why nothing is taken from others because of a quota, or nil. While
// that is so, nothing is asked for, but peers are asked for their heads as usual:
// once one of these is taken, all goes on.
func (rp *replica) isFull() error {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	return rp.full
}

// awaitQuota waits while the database is full. It reports whether the replica goes on.
func (rp *replica) awaitQuota() bool {
	for {
		freed := rp.r.cfg.Orbit.Freed()
		rp.mu.Lock()
		full, changed := rp.full, rp.changed
		rp.mu.Unlock()
		if full == nil {
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
