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

// identification follows which peers connect, and whether they identify
// themselves. It has the set of connected peers whose identification failed on
// the latest connection: the peerstore still has their protocols of an earlier
// connection, but a pubsub router uses those of the latest.
type identification struct {
	events       event.Subscription
	identified   func(peer.ID) // is called when the protocols of a peer are known, have changed, or stay unknown
	disconnected func(peer.ID) // is called when a peer disconnects

	mu     sync.Mutex
	failed map[peer.ID]bool
}

func newIdentification(h host.Host, identified, disconnected func(peer.ID)) (*identification, error) {
	events, err := h.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerIdentificationFailed), new(event.EvtPeerProtocolsUpdated), new(event.EvtPeerConnectednessChanged),
	}, eventbus.BufSize(256), eventbus.Name("npp/replicate"))
	return &identification{events: events, identified: identified, disconnected: disconnected, failed: make(map[peer.ID]bool)}, err
}

// follow handles the events of the host until the context is done.
func (i *identification) follow(ctx context.Context) {
	defer i.events.Close()
	for {
		select {
		case e := <-i.events.Out():
			i.take(e)
			switch e := e.(type) {
			case event.EvtPeerIdentificationCompleted:
				i.identified(e.Peer)
			case event.EvtPeerIdentificationFailed:
				i.identified(e.Peer)
			case event.EvtPeerProtocolsUpdated:
				i.identified(e.Peer)
			case event.EvtPeerConnectednessChanged:
				if e.Connectedness == network.NotConnected {
					i.disconnected(e.Peer)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

func (i *identification) take(e any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch e := e.(type) {
	case event.EvtPeerIdentificationFailed:
		i.failed[e.Peer] = true
	case event.EvtPeerIdentificationCompleted:
		delete(i.failed, e.Peer)
	case event.EvtPeerConnectednessChanged:
		if e.Connectedness == network.NotConnected {
			delete(i.failed, e.Peer)
		}
	}
}

// hasFailed reports whether the identification of a connected peer failed.
func (i *identification) hasFailed(p peer.ID) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.failed[p]
}
