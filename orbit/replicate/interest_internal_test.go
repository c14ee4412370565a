package replicate

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/orbit/internal/inventory"
	"github.com/newpieceplease/npp/test/loopback"
)

// setProtocols sets the protocols of a connected peer, as its identification does.
func (r *rig) setProtocols(p peer.ID, all ...protocol.ID) {
	r.t.Helper()
	check(r.t, r.host.Peerstore().SetProtocols(p, all...))
	r.identified(p)
}

// wantRuns checks whether the replica of a database runs.
func (r *rig) wantRuns(what, address string, want bool) {
	r.t.Helper()
	if runs := r.find(address) != nil; runs != want {
		r.t.Errorf("%s: the replica runs: %v", what, runs)
	}
}

// A peer is taken for one that has databases open once it is known that it does
// not speak the protocol, and no longer than that is known.
func TestSubscriptionsCountOnceThePeerIsKnown(t *testing.T) {
	r := newRig(t)
	address, other := r.create("gigs").Address(), r.create("other").Address()
	k, _ := keyOf(address)
	p := r.reader().ID()
	r.setProtocols(p)
	r.interest.subscription(p, address, true)
	r.interest.subscription(p, other, true)
	r.interest.subscription(p, other, false)
	r.wantRuns("before the peer is identified", address, false)
	r.setProtocols(p, "/meshsub/1.1.0")
	r.wantRuns("afterwards", address, true)
	r.wantRuns("of a topic that was left", other, false)
	if !slices.Contains(r.interest.subscribers(k), p) {
		t.Error("the peer is no subscriber")
	}
	r.setProtocols(p, "/meshsub/1.1.0", inventory.Protocol)
	if len(r.interest.subscribers(k)) > 0 {
		t.Error("a peer that speaks the protocol is a subscriber")
	}
	within(t, "no replica runs for a peer that speaks the protocol", func() bool { return r.restLater(lingerFor) == 0 })
	r.interest.subscription(p, address, true)
	r.wantRuns("a daemon subscribes", address, false)
}

// The protocols of a peer whose identification failed are those of an earlier
// connection.
func TestPeerThatDoesNotIdentifyItselfSpeaksNoInventory(t *testing.T) {
	r := newRig(t)
	address := r.create("gigs").Address()
	p := r.reader().ID()
	r.setProtocols(p, inventory.Protocol)
	r.interest.subscription(p, address, true)
	r.wantRuns("of a daemon", address, false)
	r.identification.mu.Lock()
	r.identification.failed[p] = true
	r.identification.mu.Unlock()
	r.identified(p)
	r.wantRuns("its identification failed", address, true)
}

func TestSubscriptionsBeforeTheIndexIsComplete(t *testing.T) {
	r := newRig(t)
	address := r.create("gigs").Address()
	k, _ := keyOf(address)
	r.index.remove(k)
	r.loaded = make(chan struct{}) // no peer is connected, so nobody reads it now
	p := r.reader().ID()
	r.interest.subscription(p, address, true)
	r.wantRuns("before", address, false)
	r.load()
	r.wantRuns("afterwards", address, true)
}

func TestSubscriptionBeforeTheDatabaseIsHere(t *testing.T) {
	r, elsewhere := newRig(t), newRig(t)
	p := r.reader().ID()
	address := elsewhere.create("gigs").Address()
	r.interest.subscription(p, address, true)
	r.wantRuns("before", address, false)
	r.create("gigs")
	r.wantRuns("afterwards", address, true)
	within(t, "the topic is subscribed to", func() bool { return slices.Contains(r.router.GetTopics(), address) })
}

// A peer that disconnects is forgotten, even if its subscription arrives
// afterwards. One that is connected again is not.
func TestSubscriptionsOfPeersThatComeAndGo(t *testing.T) {
	r := newRig(t)
	address := r.create("gigs").Address()
	k, _ := keyOf(address)
	h := r.reader()
	p := h.ID()
	r.interest.subscription(p, address, true)
	r.disconnected(p) // of an earlier connection
	if !slices.Contains(r.interest.subscribers(k), p) {
		t.Error("the subscriptions of a connected peer are forgotten")
	}
	check(t, r.host.Network().ClosePeer(p))
	within(t, "the peer is forgotten", func() bool { return len(r.interest.subscribers(k)) == 0 })
	r.interest.subscription(p, address, true)
	r.interest.mu.Lock()
	if r.interest.peers[p] != nil {
		t.Error("subscriptions of a peer that is gone are remembered")
	}
	r.interest.mu.Unlock()
	within(t, "no replica runs for a peer that is gone", func() bool { return r.restLater(lingerFor) == 0 })
	loopback.Connect(t, h, r.host)
	r.interest.subscription(p, address, true)
	within(t, "the replica runs again", func() bool { return r.find(address) != nil })
}

func TestRememberedSubscriptionsAreBounded(t *testing.T) {
	r := newRig(t)
	p := r.reader().ID()
	r.interest.subscription(p, "not an address", true)
	if len(r.interest.peers) > 0 {
		t.Error("a topic is remembered that is no address")
	}
	var k inventory.Key
	for n := range uint32(maxSubscriptions + 100) {
		binary.BigEndian.PutUint32(k[:], n)
		r.interest.subscription(p, addressOf(k), true)
	}
	r.interest.mu.Lock()
	defer r.interest.mu.Unlock()
	if n := len(r.interest.peers[p].topics); n != maxSubscriptions {
		t.Errorf("%d subscriptions are remembered", n)
	}
}
