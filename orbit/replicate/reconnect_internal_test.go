package replicate

import (
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/test/loopback"
)

// A peer that reconnects subscribes again before it is noticed that it had
// disconnected.
func TestSubscriptionsOfPeerThatReconnectedStay(t *testing.T) {
	a, b := loopback.Host(t), loopback.Host(t)
	r := bare(Config{Host: a})
	identified := make(chan peer.ID, 16)
	var err error
	if r.identification, err = newIdentification(a, func(p peer.ID) { identified <- p }, r.interest.disconnected); err != nil {
		t.Fatal(err)
	}
	close(r.loaded)
	r.tasks.Go(func() { r.identification.follow(r.tasks.Context()) })
	defer r.tasks.Wait()
	defer r.tasks.Stop()
	loopback.Connect(t, a, b)
	<-identified

	var k inventory.Key
	r.interest.subscription(b.ID(), addressOf(k), true)
	r.interest.disconnected(b.ID())
	if !slices.Contains(r.interest.subscribers(k), b.ID()) {
		t.Error("the subscription of a connected peer is forgotten")
	}
	gone, err := a.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged))
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if err := a.Network().ClosePeer(b.ID()); err != nil {
		t.Fatal(err)
	}
	<-gone.Out()
	r.interest.disconnected(b.ID())
	if len(r.interest.subscribers(k)) > 0 {
		t.Error("the subscription of a peer that disconnected stays")
	}
}
