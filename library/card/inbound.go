package card

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/time/rate"

	"github.com/newpieceplease/npp/internal/admission"
)

const (
	// maxPeerStreams is the number of inbound streams that one peer may have
	// open, and maxStreams the number that all peers together may.
	maxPeerStreams = 4
	maxStreams     = 1024

	// A peer may open one stream per peerInterval, and peerBurst in a burst.
	peerInterval = time.Second
	peerBurst    = 16

	// ratedPeers is the number of peers whose rate is remembered.
	ratedPeers = 4096
)

// inbound bounds the streams that peers open: how many at a time, and how
// often.
type inbound struct {
	streams *admission.Quota
	rates   *admission.Rates
}

func newInbound() inbound {
	return inbound{
		streams: admission.NewQuota(maxStreams, maxPeerStreams),
		rates:   admission.NewRates(rate.Every(peerInterval), peerBurst, ratedPeers, ratedPeers),
	}
}

// admit reports whether a peer may open another stream now. A refused stream
// does not count towards the rate. The caller calls release at the end of an
// admitted stream.
func (in inbound) admit(p peer.ID) bool {
	if !in.streams.TryAcquire(p, 1) {
		return false
	}
	if in.rates.Take(p, time.Now()) > 0 {
		in.release(p)
		return false
	}
	return true
}

func (in inbound) release(p peer.ID) { in.streams.Release(p, 1) }
