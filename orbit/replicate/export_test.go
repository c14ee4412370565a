package replicate

import (
	"time"

	"github.com/newpieceplease/npp/internal/task"
	"github.com/newpieceplease/npp/internal/wait"

	"github.com/libp2p/go-libp2p/core/peer"
)

// IdentityWithin bounds the request for an identity.
const IdentityWithin = identityWithin

// SetIdentifyAfter sets the time in which a connected peer identifies itself,
// and returns a function that restores it.
func SetIdentifyAfter(d time.Duration) func() {
	old := identifyAfter
	identifyAfter = d
	return func() { identifyAfter = old }
}

// RestLater lets replicas rest that have nothing to do, as if it was so much
// later, and returns the number of those that run.
func (r *Replicator) RestLater(d time.Duration) int { return r.restIdle(time.Now().Add(d)) }

// LingerFor is how long a topic is followed after its last subscriber left.
const LingerFor = lingerFor

// NextExchange returns when the next exchange of heads with a peer is due.
func (r *Replicator) NextExchange(address string, with peer.ID) time.Time {
	t := r.find(address).peers
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[with].next
}

// bare returns a Replicator without a host, for tests of its parts.
func bare(cfg Config) *Replicator {
	r := &Replicator{cfg: cfg, tasks: task.NewGroup(), index: newIndex(nil), loaded: make(chan struct{}), declined: wait.NewFlag()}
	r.links, r.interest = newLinks(r), newInterest(r)
	return r
}
