package replicate

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// IdentityWithin is when an identity that is asked for has come.
const IdentityWithin = identityWithin

// SetIdentifyAfter sets when a connected peer has said what it speaks, and returns
// what puts it back.
func SetIdentifyAfter(d time.Duration) func() {
	old := identifyAfter
	identifyAfter = d
	return func() { identifyAfter = old }
}

// NextExchange returns when the next exchange of heads with a peer begins.
func (r *Replicator) NextExchange(address string, with peer.ID) time.Time {
	rp := r.find(address)
	rp.mu.Lock()
	defer rp.mu.Unlock()
	return rp.peers[with].next
}
