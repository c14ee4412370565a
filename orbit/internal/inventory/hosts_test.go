package inventory

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	hostevent "github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/newpieceplease/npp/internal/negotiate"
	"github.com/newpieceplease/npp/test/loopback"
)

// overHosts runs a session between two hosts, the first of which opens the
// stream.
func overHosts(t testing.TB, a, b *memory) (x, y *node, from, to host.Host) {
	t.Helper()
	from, to = loopback.Host(t), loopback.Host(t)
	x, y = &node{memory: a, heard: newHeard(t)}, &node{memory: b, heard: newHeard(t)}
	accepted := make(chan *Session, 1)
	to.SetStreamHandler(Protocol, func(s network.Stream) {
		accepted <- Accept(s, Config{b, y.heard, NewPasses(), nil})
	})
	connectSpeaking(t, from, to)
	var err error
	x.Session, err = Open(t.Context(), from, to.ID(), Config{a, x.heard, NewPasses(), nil})
	must(t, err)
	x.run(t)
	y.Session = <-accepted
	y.run(t)
	return x, y, from, to
}

// connectSpeaking connects two hosts, and waits until the first knows that the
// other speaks the protocol. Identify may be older than the handler.
func connectSpeaking(t testing.TB, from, to host.Host) {
	t.Helper()
	sub, err := from.EventBus().Subscribe([]any{new(hostevent.EvtPeerIdentificationCompleted), new(hostevent.EvtPeerProtocolsUpdated)})
	must(t, err)
	defer sub.Close()
	loopback.Connect(t, from, to)
	for !negotiate.Speaks(from, to.ID(), Protocol) {
		<-sub.Out()
	}
}

func TestHostsFindWhatBothHave(t *testing.T) {
	a, b := newMemory(keys(0, 500)), newMemory(keys(400, 3000))
	b.set(key(450), state(7))
	x, y, _, _ := overHosts(t, a, b)
	for _, n := range []*node{x, y} {
		n.until(t.Context(), t, "what both have", func(common map[Key]State) bool { return len(common) == 100 })
	}
	agree(t, x, y)
	y.tell(key(401), state(9))
	x.until(t.Context(), t, "the change", func(common map[Key]State) bool { return common[key(401)] == state(9) })
	x.add(key(600), state(1))
	for _, n := range []*node{x, y} {
		n.until(t.Context(), t, "what was added", func(common map[Key]State) bool { return len(common) == 101 })
	}
	y.drop(key(600))
	x.until(t.Context(), t, "what was removed", func(common map[Key]State) bool { return len(common) == 100 })
	agree(t, x, y)
}

func TestAPeerThatDoesNotSpeakTheProtocolIsRecognized(t *testing.T) {
	a, b := loopback.Host(t), loopback.Host(t)
	loopback.Connect(t, a, b)
	if _, err := Open(t.Context(), a, b.ID(), Config{}); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	// With an outdated peerstore, the refusal comes with the first read.
	must(t, a.Peerstore().AddProtocols(b.ID(), Protocol))
	s, err := Open(t.Context(), a, b.ID(), Config{newMemory(), newHeard(t), NewPasses(), nil})
	if err == nil {
		err = s.Run(t.Context())
	}
	if !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

func TestOpenDoesNotDial(t *testing.T) {
	a, b := loopback.Host(t), loopback.Host(t)
	a.Peerstore().AddAddrs(b.ID(), b.Addrs(), time.Hour)
	if _, err := Open(t.Context(), a, b.ID(), Config{}); err == nil || len(a.Network().Conns()) > 0 {
		t.Errorf("%v, %d connections", err, len(a.Network().Conns()))
	}
}

func TestASessionEndsWithItsStream(t *testing.T) {
	x, y, from, to := overHosts(t, newMemory(keys(0, 1)), newMemory(keys(0, 1)))
	x.until(t.Context(), t, "common", func(common map[Key]State) bool { return len(common) == 1 })
	must(t, from.Network().ClosePeer(to.ID()))
	for _, n := range []*node{x, y} {
		<-n.ended
		if errors.Is(n.err, context.Canceled) {
			t.Errorf("it ends with %v", n.err)
		}
	}
}

func TestDeadlinesOfStreamsMeanSilence(t *testing.T) {
	x, y, _, _ := overHosts(t, newMemory(keys(0, 1)), newMemory(keys(0, 1)))
	y.until(t.Context(), t, "common", func(common map[Key]State) bool { return len(common) == 1 })
	y.expectSilence.Store(true)
	must(t, y.stream.SetReadDeadline(time.Unix(1, 0)))
	<-y.ended
	if !errors.Is(y.err, ErrSilent) {
		t.Errorf("it ends with %v", y.err)
	}
	<-x.ended
}

func TestASessionEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := connect(t, newMemory(keys(0, 1)), newMemory(keys(0, 1)))
		settle()
		x.stop()
		<-x.ended
		<-y.ended
		if !errors.Is(x.err, context.Canceled) {
			t.Errorf("it ends with %v", x.err)
		}
		if y.err != nil {
			t.Errorf("the other side ends with %v", y.err)
		}
		// Later calls do nothing.
		x.add(key(1), state(1))
		x.tell(key(0), state(2))
		x.drop(key(0))
	})
}

func TestASessionThatHasNotBegunKnowsNothing(t *testing.T) {
	s := newSession(nil, low, high, Config{newMemory(), newHeard(t), NewPasses(), nil})
	s.Add(key(1))
	s.Tell(key(1), state(1), nil)
	s.Remove(key(1))
	for range s.All() {
		t.Error("it knows a database")
	}
	if _, ok := s.Common(key(1)); ok {
		t.Error("a database is common")
	}
}
