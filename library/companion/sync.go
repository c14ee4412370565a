package companion

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/replicate"
)

// Sync says when a database was in sync with a peer. While the owner has the
// database open, only the owner counts.
type Sync struct {
	With peer.ID   // the last peer
	At   time.Time // when it was in sync with that peer; zero for never

	// Proven is when it was last proven that this replica has all entries of
	// the peer: they were in sync or, if they cannot be compared, they
	// exchanged heads of which nothing is missing. Zero for never.
	Proven time.Time
}

// Sync returns the state of a database, whose owner is a companion. It is zero
// for a database that is not replicated.
func (d *Databases) Sync(ctx context.Context, address string, owner peer.ID) Sync {
	if address == "" || d.cfg.Replicator == nil {
		return Sync{}
	}
	status, _ := d.cfg.Replicator.Status(ctx, address) // zero if it is unknown
	with, at := lastWith(status, owner, func(p replicate.Peer) time.Time { return p.InSync })
	return Sync{with, at, proven(status, owner)}
}

// proven returns Proven of [Sync].
func proven(status replicate.Status, owner peer.ID) time.Time {
	_, last := lastWith(status, owner, func(p replicate.Peer) time.Time {
		if p.By == replicate.NotComparable && p.Exchanged.After(p.InSync) && status.Asking == 0 && len(status.Missing) == 0 {
			return p.Exchanged
		}
		return p.InSync
	})
	return last
}

// lastWith returns the peer with the latest time. While the owner has the
// database open, it returns the owner. A peer other than the owner counts if it
// has a head and its time is not before its last exchange: a peer that is still
// fetching the database has no heads, like a peer with an empty replica.
func lastWith(status replicate.Status, owner peer.ID, timeOf func(replicate.Peer) time.Time) (with peer.ID, last time.Time) {
	for _, p := range status.Peers {
		at := timeOf(p)
		switch {
		case p.ID == owner && p.Open:
			return p.ID, at
		case p.ID != owner && (p.Heads == 0 || at.Before(p.Exchanged)):
		case at.After(last):
			with, last = p.ID, at
		}
	}
	return with, last
}
