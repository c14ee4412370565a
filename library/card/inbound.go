package card

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

const (
	// maxPeerStreams is the number of inbound streams that one peer may have
	// open, and maxStreams the number that all peers together may.
	maxPeerStreams = 4
	maxStreams     = 1024

	// A peer may open one stream per peerInterval, and peerBurst in a burst.
	peerInterval = time.Second
	peerBurst    = 16

	// maxTrackedPeers is the number of peers whose rate is tracked.
	maxTrackedPeers = 4096
)

// inboundPeer is the use that one peer makes of the limits.
type inboundPeer struct {
	streams int
	rate    *rate.Limiter
}

// inboundLimiter bounds the streams that peers open, per peer and in total.
type inboundLimiter struct {
	mu      sync.Mutex
	streams int
	byPeer  map[peer.ID]*inboundPeer
}

// admit admits another stream of a peer, or returns nil. A refused stream does
// not count towards the rate. The caller releases what admit returns.
func (l *inboundLimiter) admit(id peer.ID) *inboundPeer {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.byPeer[id]
	if l.streams == maxStreams || p != nil && p.streams == maxPeerStreams {
		return nil
	}
	if p == nil {
		if !l.makeRoom() {
			return nil
		}
		p = &inboundPeer{rate: rate.NewLimiter(rate.Every(peerInterval), peerBurst)}
		l.byPeer[id] = p
	}
	if !p.rate.Allow() {
		return nil
	}
	p.streams++
	l.streams++
	return p
}

// makeRoom reports whether one more peer can be tracked. If the table is full,
// it first removes the peers whose limits are unused. The caller holds the
// lock.
func (l *inboundLimiter) makeRoom() bool {
	if len(l.byPeer) < maxTrackedPeers {
		return true
	}
	for id, p := range l.byPeer {
		if p.streams == 0 && p.rate.Tokens() >= peerBurst {
			delete(l.byPeer, id)
		}
	}
	return len(l.byPeer) < maxTrackedPeers
}

func (l *inboundLimiter) release(p *inboundPeer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.streams--
	l.streams--
}
