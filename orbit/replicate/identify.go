package replicate

import (
	"context"
	"sync"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
)

// unidentified is the set of connected peers whose identification failed on the
// latest connection. The peerstore still has their protocols of an earlier
// connection, but a pubsub router uses those of the latest.
type unidentified struct {
	events       event.Subscription
	disconnected func(peer.ID) // is called when a peer disconnects

	mu    sync.Mutex
	peers map[peer.ID]bool
}

func newUnidentified(h host.Host, disconnected func(peer.ID)) (*unidentified, error) {
	events, err := h.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerIdentificationFailed), new(event.EvtPeerConnectednessChanged),
	}, eventbus.BufSize(256), eventbus.Name("npp/replicate"))
	return &unidentified{events: events, disconnected: disconnected, peers: make(map[peer.ID]bool)}, err
}

// follow handles the events of the host until the context is done.
func (u *unidentified) follow(ctx context.Context) {
	defer u.events.Close()
	for {
		select {
		case e := <-u.events.Out():
			u.take(e)
			if e, ok := e.(event.EvtPeerConnectednessChanged); ok && e.Connectedness == network.NotConnected {
				u.disconnected(e.Peer)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (u *unidentified) take(e any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch e := e.(type) {
	case event.EvtPeerIdentificationFailed:
		u.peers[e.Peer] = true
	case event.EvtPeerIdentificationCompleted:
		delete(u.peers, e.Peer)
	case event.EvtPeerConnectednessChanged:
		if e.Connectedness == network.NotConnected {
			delete(u.peers, e.Peer)
		}
	}
}

func (u *unidentified) has(p peer.ID) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.peers[p]
}
