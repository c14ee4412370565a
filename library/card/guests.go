package card

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"
)

const (
	// peerStreams is how many streams a peer may have open to us, and
	// allStreams how many all peers together.
	peerStreams = 4
	allStreams  = 1024

	// A peer may open a stream in every peerPause, and peerBurst at once.
	peerPause = time.Second
	peerBurst = 16

	// maxGuests is how many peers are remembered for the sake of their rate.
	maxGuests = 4096
)

// guest is a peer that opens streams to us.
type guest struct {
	streams int
	rate    *rate.Limiter
}

// guests keeps the account of the streams that peers open.
type guests struct {
	mu      sync.Mutex
	streams int
	byPeer  map[peer.ID]*guest
}

// enter admits another stream of p, or returns nil. A peer that is refused for
// its rate pays nothing for it.
func (gs *guests) enter(p peer.ID) *guest {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.byPeer[p]
	if gs.streams == allStreams || g != nil && g.streams == peerStreams {
		return nil
	}
	if g == nil {
		if !gs.room() {
			return nil
		}
		g = &guest{rate: rate.NewLimiter(rate.Every(peerPause), peerBurst)}
		gs.byPeer[p] = g
	}
	if !g.rate.Allow() {
		return nil
	}
	g.streams++
	gs.streams++
	return g
}

// room sees to it that one more guest can be remembered, by forgetting those
// with whom nothing would change. The caller holds the lock.
func (gs *guests) room() bool {
	if len(gs.byPeer) < maxGuests {
		return true
	}
	for p, g := range gs.byPeer {
		if g.streams == 0 && g.rate.Tokens() >= peerBurst {
			delete(gs.byPeer, p)
		}
	}
	return len(gs.byPeer) < maxGuests
}

func (gs *guests) leave(g *guest) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g.streams--
	gs.streams--
}
