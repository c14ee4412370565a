package card

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/newpieceplease/npp/internal/negotiate"
)

type cards = map[peer.ID]string

// inBubble runs a test in a synctest bubble. The test fails if it leaves
// streams open.
func inBubble(t *testing.T, test func(t *testing.T, f *fakeNetwork)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNetwork()
		// Runs after the cleanup that closes the Exchangers.
		t.Cleanup(func() {
			f.tasks.Wait()
			if n := f.openStreams(); n > 0 {
				t.Errorf("%d streams are still open", n)
			}
		})
		test(t, f)
	})
}

func wantTimes(t *testing.T, got []time.Duration, want ...time.Duration) {
	t.Helper()
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(got, want) {
		t.Errorf("streams at %v, want %v", got, want)
	}
}

// answerWith returns a handler that responds with a card, as a JavaScript peer
// does.
func answerWith(name string) network.StreamHandler {
	return func(s network.Stream) {
		defer s.Close()
		if _, err := read(s); err != nil {
			return
		}
		frame, _ := encode(Card{Username: name})
		s.Write(frame)
	}
}

// refuse returns a handler that counts streams and resets them.
func refuse(n *atomic.Int64) network.StreamHandler {
	return func(s network.Stream) {
		n.Add(1)
		s.Reset()
	}
}

// silent is a handler that reads and never responds.
func silent(s network.Stream) {
	io.Copy(io.Discard, s)
	s.Close()
}

func TestNewConnectionTakesOneStream(t *testing.T) {
	for _, dialer := range []peer.ID{"a", "b"} {
		inBubble(t, func(t *testing.T, f *fakeNetwork) {
			a, an := f.daemon(t, "a")
			b, bn := f.daemon(t, "b")
			if dialer == "a" {
				connect(an, bn)
			} else {
				connect(bn, an)
			}
			synctest.Wait()
			a.wantCards(t, cards{"b": "b"})
			b.wantCards(t, cards{"a": "a"})
			time.Sleep(time.Hour)
			wantTimes(t, f.times("a", "b"), 0)
			wantTimes(t, f.times("b", "a"))
			if na, nb := a.names("b"), b.names("a"); len(na) != 1 || len(nb) != 1 {
				t.Errorf("received %q and %q", na, nb)
			}
		})
	}
}

// A peer can initiate an exchange before it is identified.
func TestCardBeforeIdentification(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		b, bn := f.daemon(t, "b")
		an := f.node("a")
		an.SetStreamHandler(Protocol, answerWith("alice"))
		connectOnly(an, bn)
		s, err := an.NewStream(streamContext(t.Context()), "b", Protocol)
		if err != nil {
			t.Fatal(err)
		}
		frame, _ := encode(Card{Username: "alice"})
		s.Write(frame)
		if c, err := read(s); err != nil || c.Username != "b" {
			t.Errorf("%+v, %v", c, err)
		}
		if n, err := s.Read(make([]byte, 1)); n > 0 || err != io.EOF {
			t.Errorf("after the card: %d bytes, %v", n, err)
		}
		s.Close()
		synctest.Wait()
		b.wantCards(t, cards{"a": "alice"})
		bn.identify(an)
		time.Sleep(time.Hour)
		if n := f.count("b", "a"); n > 0 {
			t.Errorf("%d streams for a known card", n)
		}
	})
}

func streamContext(ctx context.Context) context.Context {
	return network.WithAllowLimitedConn(network.WithNoDial(ctx, "test"), "test")
}

func TestNewExchangesWithConnectedPeers(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		an, bn, cn := f.node("a"), f.node("b"), f.node("c")
		connect(an, bn)
		connect(an, cn)
		a := newDaemon(t, an, "a")
		cn.SetStreamHandler(Protocol, answerWith("c"))
		bn.SetStreamHandler("/other", silent)
		synctest.Wait()
		a.wantCards(t, cards{"c": "c"})
		b := newDaemon(t, bn, "b")
		synctest.Wait()
		a.wantCards(t, cards{"b": "b", "c": "c"})
		b.wantCards(t, cards{"a": "a"})
		time.Sleep(time.Hour)
		if n := f.count("", ""); n > 3 { // two exchanges may cross
			t.Errorf("%d streams", n)
		}
	})
}

// New exchanges cards with peers that the peerstore already lists.
func TestNewUsesThePeerstore(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		an, bn := f.node("a"), f.node("b")
		bn.SetStreamHandler(Protocol, answerWith("b"))
		connect(an, bn)
		a := newDaemon(t, an, "a")
		synctest.Wait()
		a.wantCards(t, cards{"b": "b"})
	})
}

func TestLargerSideInitiatesAfterDelay(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		b, bn := f.daemon(t, "b")
		an := f.node("a")
		an.SetStreamHandler(Protocol, answerWith("alice"))
		time.Sleep(5 * time.Second)
		connect(an, bn)
		time.Sleep(time.Minute)
		b.wantCards(t, cards{"a": "alice"})
		wantTimes(t, f.times("b", "a"), 5+3)
	})
}

// A repeated identification schedules nothing.
// A peer that was never identified gets a later card after an exchange with it.
func TestExchangeProvesThatThePeerSpeaksTheProtocol(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		n := f.node("n")
		n.SetStreamHandler(Protocol, answerWith("n"))
		connectOnly(an, n)
		if _, err := a.Exchange(t.Context(), "n"); err != nil {
			t.Fatal(err)
		}
		a.Announce()
		time.Sleep(time.Minute)
		if got := f.count("a", "n"); got != 2 {
			t.Errorf("%d exchanges, want 2", got)
		}
	})
}

func TestRepeatedIdentificationChangesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		b, bn := f.daemon(t, "b")
		an := f.node("a")
		var n atomic.Int64
		an.SetStreamHandler(Protocol, refuse(&n))
		connect(an, bn)
		for range 600 {
			bn.identify(an)
			time.Sleep(time.Second)
		}
		wantTimes(t, f.times("b", "a"), 3, 3+2, 3+2+10, 3+2+10+60)
		b.wantCards(t, nil)
	})
}

func TestFailedExchangesAreRetried(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		bn := f.node("b")
		var n atomic.Int64
		bn.SetStreamHandler(Protocol, refuse(&n))
		connect(an, bn)
		time.Sleep(1000 * time.Second)
		wantTimes(t, f.times("a", "b"), 0, 2, 12, 72)

		a.Announce()
		time.Sleep(1000 * time.Second)
		wantTimes(t, f.times("a", "b")[4:], 1000, 1002, 1012, 1072)

		disconnect(an, bn)
		connect(an, bn)
		time.Sleep(1000 * time.Second)
		wantTimes(t, f.times("a", "b")[8:], 2000, 2002, 2012, 2072)

		// a second connection
		an.net.mu.Lock()
		an.links["b"] = &fakeConn{from: an, to: bn, streams: make(map[*fakeStream]bool)}
		an.net.mu.Unlock()
		an.identify(bn)
		time.Sleep(time.Second)
		wantTimes(t, f.times("a", "b")[12:], 3000)
		bn.SetStreamHandler(Protocol, answerWith("bob"))
		time.Sleep(time.Hour)
		wantTimes(t, f.times("a", "b")[12:], 3000, 3002)
		a.wantCards(t, cards{"b": "bob"})
	})
}

// A further connection does not postpone the exchange.
func TestFurtherConnectionDoesNotExtendDelay(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		b, bn := f.daemon(t, "b")
		an := f.node("a")
		an.SetStreamHandler(Protocol, answerWith("alice"))
		for range 10 {
			connect(an, bn)
			time.Sleep(time.Second)
		}
		b.wantCards(t, cards{"a": "alice"})
		wantTimes(t, f.times("b", "a"), 3)
	})
}

func TestDisconnectedPeersAreNotRetried(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		bn, cn := f.node("b"), f.node("c")
		var n atomic.Int64
		bn.SetStreamHandler(Protocol, refuse(&n))
		connect(an, bn)
		connect(an, cn) // supports no protocol
		synctest.Wait()
		disconnect(an, bn)
		a.Announce()
		time.Sleep(time.Hour)
		wantTimes(t, f.times("a", ""), 0)

		bn.SetStreamHandler(Protocol, silent)
		connect(an, bn)
		time.Sleep(time.Second)
		disconnect(an, bn) // during an exchange
		time.Sleep(time.Hour)
		wantTimes(t, f.times("a", ""), 0, 3600)
		a.wantCards(t, nil)
	})
}

// A peer that disconnects is removed from the queue.
func TestDisconnectedPeersLeaveTheQueue(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		var others []*fakeHost
		for i := range 100 {
			other := f.node(peer.ID(fmt.Sprint("s", i)))
			other.SetStreamHandler(Protocol, silent)
			connect(an, other)
			synctest.Wait()
			others = append(others, other)
		}
		waiting := func() int {
			a.Exchanger.mu.Lock()
			defer a.Exchanger.mu.Unlock()
			return len(a.queue)
		}
		if n := waiting(); n != 100-16 {
			t.Fatalf("%d peers are queued", n)
		}
		for _, other := range others[50:] {
			disconnect(an, other)
		}
		synctest.Wait()
		if n := waiting(); n != 50-16 {
			t.Errorf("%d peers are queued after half of them disconnected", n)
		}
	})
}

// Cards and events of a peer that disconnected are ignored.
func TestLateCardsOfDisconnectedPeersAreIgnored(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		a.slow = 5 * time.Second
		bn, cn := f.node("b"), f.node("c")
		connectOnly(an, bn)
		connectOnly(an, cn)
		f.tasks.Go(func() { exchangeAs(bn, "a") })
		time.Sleep(time.Second)
		f.tasks.Go(func() { exchangeAs(cn, "a") })
		time.Sleep(time.Second)
		disconnect(an, cn)
		an.identified.Emit(event.EvtPeerIdentificationCompleted{Peer: "c", Protocols: []protocol.ID{Protocol}})
		time.Sleep(time.Minute)
		a.wantCards(t, cards{"b": "mallory"})
		a.Exchanger.mu.Lock()
		defer a.Exchanger.mu.Unlock()
		if len(a.peers) != 1 {
			t.Errorf("%d peers", len(a.peers))
		}
	})
}

func TestCardsEndWithTheConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b")
		c, cn := f.daemon(t, "c")
		connect(an, bn)
		connect(an, cn)
		synctest.Wait()
		a.wantCards(t, cards{"b": "b", "c": "c"})
		disconnect(an, bn)
		synctest.Wait()
		a.wantCards(t, cards{"c": "c"})
		b.wantCards(t, nil)
		c.wantCards(t, cards{"a": "a"})
		a.set("anna")
		connect(bn, an)
		synctest.Wait()
		a.wantCards(t, cards{"b": "b", "c": "c"})
		b.wantCards(t, cards{"a": "anna"})
	})
}

// The card of a peer that no longer supports the protocol stays until the peer
// disconnects. When the peer supports it again, cards are exchanged again.
func TestProtocolComesAndGoes(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b")
		connect(an, bn)
		synctest.Wait()
		b.Close()
		synctest.Wait()
		a.wantCards(t, cards{"b": "b"})
		b = newDaemon(t, bn, "bo")
		synctest.Wait()
		time.Sleep(time.Second) // exchangeInterval
		synctest.Wait()
		a.wantCards(t, cards{"b": "bo"})
		b.wantCards(t, cards{"a": "a"})
		if n := f.count("a", "b"); n != 2 {
			t.Errorf("%d streams", n)
		}
		b.Close()
		synctest.Wait()
		a.Announce()
		time.Sleep(time.Hour)
		if _, err := a.Exchange(t.Context(), "b"); !errors.Is(err, ErrNoProtocol) {
			t.Errorf("error is %v", err)
		}
		if n := f.count("a", "b"); n != 3 { // two successful exchanges, and this one
			t.Errorf("%d streams", n)
		}
		b = newDaemon(t, bn, "bea")
		time.Sleep(time.Second)
		synctest.Wait()
		a.wantCards(t, cards{"b": "bea"})
		b.wantCards(t, cards{"a": "a"})
	})
}

// A host may report a protocol change with either event.
func TestProtocolUpdatesAreHandled(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		bn, cn := f.node("b"), f.node("c")
		connect(an, bn)
		connect(an, cn)
		synctest.Wait()
		f.mu.Lock()
		bn.handlers[Protocol] = answerWith("bob")
		cn.handlers[Protocol] = answerWith("carla")
		f.mu.Unlock()
		an.updated.Emit(event.EvtPeerProtocolsUpdated{Peer: "b", Added: []protocol.ID{"/other", Protocol}})
		an.updated.Emit(event.EvtPeerProtocolsUpdated{Peer: "c", Added: []protocol.ID{"/other"}})
		synctest.Wait()
		a.wantCards(t, cards{"b": "bob"})
		an.identify(cn)
		synctest.Wait()
		a.wantCards(t, cards{"b": "bob", "c": "carla"})

		f.mu.Lock()
		delete(bn.handlers, Protocol)
		delete(cn.handlers, Protocol)
		f.mu.Unlock()
		an.updated.Emit(event.EvtPeerProtocolsUpdated{Peer: "b", Removed: []protocol.ID{Protocol}})
		an.identify(cn)
		synctest.Wait()
		a.Announce()
		time.Sleep(time.Hour)
		if n := f.count("a", ""); n != 2 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b")
		cn, dn, en := f.node("c"), f.node("d"), f.node("e")
		dn.SetStreamHandler(Protocol, silent)
		var n atomic.Int64
		en.SetStreamHandler(Protocol, refuse(&n))
		for _, other := range []*fakeHost{bn, cn, dn, en} {
			connect(an, other)
		}
		synctest.Wait()
		a.set("anna")
		b.set("bea")
		c, err := a.Exchange(t.Context(), "b")
		if err != nil || c.Username != "bea" {
			t.Errorf("%+v, %v", c, err)
		}
		// Exchange returns after both sides have the new card.
		a.wantCards(t, cards{"b": "bea"})
		b.wantCards(t, cards{"a": "anna"})
		if _, err := b.Exchange(t.Context(), "a"); err != nil {
			t.Error(err)
		}

		for id, want := range map[peer.ID]error{
			"a": ErrNotConnected, "x": ErrNotConnected, "c": ErrNoProtocol, "e": network.ErrReset, "d": context.DeadlineExceeded,
		} {
			begin := time.Now()
			if c, err := a.Exchange(t.Context(), id); !errors.Is(err, want) || c != (Card{}) {
				t.Errorf("%s: %+v, %v; want %v", string(id), c, err, want)
			}
			if took := time.Since(begin); took != 0 && (id != "d" || took != 10*time.Second) {
				t.Errorf("%s: it took %s", string(id), took)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := a.Exchange(ctx, "d"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.AfterFunc(time.Second, func() { disconnect(an, dn) })
		if _, err := a.Exchange(t.Context(), "d"); !errors.Is(err, ErrNotConnected) {
			t.Error(err)
		}
	})
}

// A response to an unread card does not count as its delivery.
func TestResponseToUnreadCardIsNotDelivery(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		bn := f.node("b")
		bn.SetStreamHandler(Protocol, func(s network.Stream) {
			defer s.Close()
			s.(*fakeStream).in.Close()
			s.Write(framed(`{"username":"bob"}`))
		})
		connect(an, bn)
		if _, err := a.Exchange(t.Context(), "b"); err == nil {
			t.Error("no error")
		}
		time.Sleep(5 * time.Second)
		if n := f.count("a", "b"); n != 3 { // this exchange, an immediate one, and one after 2 s
			t.Errorf("%d streams", n)
		}
	})
}

// A blocked Received callback delays other peers no longer than the timeout of
// an exchange.
func TestBlockedReceivedCallbackTimesOut(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		a.slow = time.Hour
		bn, cn, dn := f.node("b"), f.node("c"), f.node("d")
		cn.SetStreamHandler(Protocol, answerWith("carla"))
		for _, other := range []*fakeHost{bn, cn, dn} {
			connectOnly(an, other)
		}
		f.tasks.Go(func() { exchangeAs(bn, "a") })
		time.Sleep(time.Minute)
		f.tasks.Go(func() {
			if exchangeAs(dn, "a") == nil || time.Since(epoch) != 70*time.Second {
				t.Error("a response, or a late reset")
			}
		})
		if _, err := a.Exchange(t.Context(), "c"); !errors.Is(err, context.DeadlineExceeded) || time.Since(epoch) != 70*time.Second {
			t.Errorf("%v after %s", err, time.Since(epoch))
		}
		synctest.Wait()
		time.Sleep(time.Hour)
	})
}

// An invalid own card is never sent.
func TestOwnCardIsChecked(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b")
		a.recorder.own = Card{Username: "an\x1bna", User: "/ipfs/x"}
		connect(an, bn)
		time.Sleep(time.Second)
		b.wantCards(t, nil)
		if _, err := a.Exchange(t.Context(), "b"); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
		if _, err := b.Exchange(t.Context(), "a"); err == nil {
			t.Error("no error")
		}
		b.wantCards(t, nil)
		a.recorder.mu.Lock()
		a.recorder.own.User = "/orbitdb/x"
		a.recorder.mu.Unlock()
		if _, err := a.Exchange(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		b.wantCards(t, cards{"a": ""})
	})
}

// If Own fails, no card is sent. A later Announce sends it.
func TestNothingIsSentWithoutAnOwnCard(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b")
		notYet := errors.New("not yet")
		a.recorder.err = notYet
		connect(an, bn)
		time.Sleep(time.Hour)
		b.wantCards(t, nil)
		if _, err := a.Exchange(t.Context(), "b"); !errors.Is(err, notYet) {
			t.Error(err)
		}
		if _, err := b.Exchange(t.Context(), "a"); err == nil {
			t.Error("no error")
		}
		b.wantCards(t, nil)
		a.recorder.mu.Lock()
		a.recorder.err = nil
		a.recorder.mu.Unlock()
		a.Announce()
		time.Sleep(time.Second)
		b.wantCards(t, cards{"a": a.recorder.card().Username})
	})
}

func TestAnnouncementsAreCoalesced(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		f.latency = 50 * time.Millisecond
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b") // peer IDs on both sides of m
		m, mn := f.daemon(t, "m")
		_, zn := f.daemon(t, "z")
		for _, other := range []*fakeHost{an, bn, zn} {
			connect(mn, other)
		}
		time.Sleep(time.Minute)
		met := f.count("", "")
		for i := range 100 {
			m.set(fmt.Sprint("m", i))
			m.Announce()
		}
		time.Sleep(time.Minute)
		for _, d := range []*daemon{a, b} {
			d.wantCards(t, cards{"m": "m99"})
		}
		if n := f.count("m", "a"); n != 1 {
			t.Errorf("%d streams for coalesced announcements", n)
		}
		if n := f.count("", ""); n != met+3 {
			t.Errorf("%d more streams", n-met)
		}

		// during an exchange
		m.Announce()
		time.Sleep(10 * time.Millisecond)
		for i := range 100 {
			m.set(fmt.Sprint("n", i))
			m.Announce()
		}
		time.Sleep(time.Minute)
		a.wantCards(t, cards{"m": "n99"})
		if n := f.count("m", "a"); n < 2 || n > 3 {
			t.Errorf("%d streams", n)
		}

		// continuously: no more often than the rate limit of a peer allows
		before := f.count("m", "a")
		for i := range 1000 {
			m.set(fmt.Sprint("o", i))
			m.Announce()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		a.wantCards(t, cards{"m": "o999"})
		if n := f.count("m", "a") - before; n < 5 || n > 11 {
			t.Errorf("%d streams in 10 s", n)
		}
	})
}

// A change during an exchange of the old card causes another exchange.
func TestAnnouncementDuringExchangeIsSent(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b")
		b.slow = 2 * time.Second
		connect(an, bn)
		time.Sleep(time.Second)
		a.set("anna")
		a.Announce()
		time.Sleep(time.Minute)
		b.wantCards(t, cards{"a": "anna"})
		wantTimes(t, f.times("a", "b"), 0, 2)
	})
}

// However often Announce is called, exchanges with a peer do not overlap.
func TestExchangesWithAPeerDoNotOverlap(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		f.latency = 5 * time.Second
		a, an := f.daemon(t, "a")
		for i := range 40 {
			other := f.node(peer.ID(fmt.Sprint("b", i)))
			other.SetStreamHandler(Protocol, answerWith("bob"))
			connect(an, other)
		}
		for range 60 {
			time.Sleep(1100 * time.Millisecond)
			a.Announce()
		}
		time.Sleep(time.Minute)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.overlapping {
			t.Error("exchanges with a peer overlapped")
		}
	})
}

func TestAnnouncementReachesPeersThatFailedBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b")
		connect(an, bn)
		synctest.Wait()
		var n atomic.Int64
		bn.net.mu.Lock()
		good := bn.handlers[Protocol]
		bn.handlers[Protocol] = refuse(&n)
		bn.net.mu.Unlock()
		a.set("anna")
		a.Announce()
		time.Sleep(5 * time.Second)
		b.wantCards(t, cards{"a": "a"})
		bn.net.mu.Lock()
		bn.handlers[Protocol] = good
		bn.net.mu.Unlock()
		time.Sleep(10 * time.Second)
		b.wantCards(t, cards{"a": "anna"})
	})
}

// If an old card may have arrived after a new one, the new one is sent again.
func TestLastCardSentIsTheCurrentOne(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		bn := f.node("b")
		got := make(chan string, 10)
		bn.SetStreamHandler(Protocol, func(s network.Stream) {
			defer s.Close()
			c, err := read(s)
			if err != nil {
				return
			}
			got <- c.Username
			frame, _ := encode(Card{Username: "b"})
			s.Write(frame)
		})
		connect(an, bn)
		time.Sleep(time.Minute)

		s, err := bn.NewStream(streamContext(t.Context()), "a", Protocol)
		if err != nil {
			t.Fatal(err)
		}
		frame, _ := encode(Card{Username: "b"})
		s.Write(frame)
		synctest.Wait() // the response is in flight
		a.set("anna")
		a.Announce()
		time.Sleep(5 * time.Second)
		if c, err := read(s); err != nil || c.Username != "a" {
			t.Fatal(c, err)
		}
		s.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		close(got)
		if names, want := slices.Collect(each(got)), []string{"a", "anna", "anna"}; !slices.Equal(names, want) {
			t.Errorf("sent %q, want %q", names, want)
		}
		a.wantCards(t, cards{"b": "b"})
	})
}

func each[T any](c <-chan T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for v := range c {
			if !yield(v) {
				return
			}
		}
	}
}

// A peer that requested the new card is not sent it again.
func TestResponseCountsAsDelivery(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		b, bn := f.daemon(t, "b")
		connect(an, bn)
		synctest.Wait()
		a.set("anna")
		a.Announce() // takes effect after exchangeInterval
		if _, err := b.Exchange(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		b.wantCards(t, cards{"a": "anna"})
		wantTimes(t, f.times("a", "b"), 0)
	})
}

// A response that was lost does not count as delivered.
func TestLostResponseIsSentAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		_, bn := f.daemon(t, "b")
		an := f.node("a")
		var heard atomic.Int64
		an.SetStreamHandler(Protocol, func(s network.Stream) {
			heard.Add(1)
			answerWith("alice")(s)
		})
		connect(an, bn)
		s, err := an.NewStream(streamContext(t.Context()), "b", Protocol)
		if err != nil {
			t.Fatal(err)
		}
		frame, _ := encode(Card{Username: "alice"})
		s.Write(frame)
		s.Reset()
		time.Sleep(time.Hour)
		if heard.Load() != 1 {
			t.Errorf("the own card was sent %d times", heard.Load())
		}
	})
}

func TestConcurrentExchangesAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		f.latency = time.Second
		a, an := f.daemon(t, "a")
		const n = 1000
		for i := range n {
			other := f.node(peer.ID(fmt.Sprint("b", i)))
			other.SetStreamHandler(Protocol, answerWith("bob"))
			connect(an, other)
			synctest.Wait()
		}
		time.Sleep(n / 16 * time.Second)
		if f.maxAtOnce() != 16 {
			t.Errorf("%d streams were opened concurrently", f.maxAtOnce())
		}
		time.Sleep(2 * time.Second)
		if have := len(a.Cards()); have != n || f.count("", "") != n {
			t.Errorf("%d of %d cards, over %d streams", have, n, f.count("", ""))
		}
		a.Announce()
		time.Sleep(n/16*time.Second + 2*time.Second)
		if f.count("", "") != 2*n || f.maxAtOnce() != 16 {
			t.Errorf("%d streams, %d at a time", f.count("", ""), f.maxAtOnce())
		}
	})
}

// Silent peers delay other peers for a bounded time.
func TestSilentPeersDoNotBlockOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		for i := range 40 {
			other := f.node(peer.ID(fmt.Sprint("s", i)))
			other.SetStreamHandler(Protocol, silent)
			connect(an, other)
		}
		bn := f.node("b")
		bn.SetStreamHandler(Protocol, answerWith("bob"))
		connect(an, bn)
		time.Sleep(30 * time.Second)
		a.wantCards(t, cards{"b": "bob"})
		time.Sleep(10 * time.Minute)
		if n := f.count("a", ""); n != 1+4*40 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestInboundStreamsTimeOut(t *testing.T) {
	whole, _ := encode(Card{Username: "mallory"})
	for name, act := range map[string]func(s network.Stream){
		"silent": func(network.Stream) {},
		"drips": func(s network.Stream) {
			for _, b := range whole {
				if _, err := s.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(900 * time.Millisecond)
			}
		},
		"does not read": func(s network.Stream) { s.Write(whole) },
		"does not close": func(s network.Stream) {
			s.Write(whole)
			read(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fakeNetwork) {
				_, an := f.daemon(t, "a")
				mn := f.node("m")
				connect(an, mn)
				s, err := mn.NewStream(streamContext(t.Context()), "a", Protocol)
				if err != nil {
					t.Fatal(err)
				}
				f.tasks.Go(func() { act(s) })
				time.Sleep(10*time.Second - 1)
				if f.openStreamsOf(an) != 1 {
					t.Error("it was served for less than 10 s")
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				if f.openStreamsOf(an) != 0 {
					t.Error("it was served for longer than 10 s")
				}
				s.Close()
			})
		})
	}
}

func TestInvalidCardIsReset(t *testing.T) {
	for name, data := range map[string][]byte{
		"junk":           framed("junk"),
		"bad address":    framed(`{"username":"mallory","user":"/ipfs/x"}`),
		"empty":          framed(""),
		"huge":           {0xff, 0xff, 0xff, 0xff, 0x07},
		"endless length": slices.Repeat([]byte{0xff}, 100),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fakeNetwork) {
				a, an := f.daemon(t, "a")
				mn := f.node("m")
				connect(an, mn)
				s, err := mn.NewStream(streamContext(t.Context()), "a", Protocol)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				f.tasks.Go(func() { s.Write(data) })
				_, err = io.Copy(io.Discard, s)
				if !errors.Is(err, network.ErrReset) || time.Since(epoch) > 0 {
					t.Errorf("%v after %s", err, time.Since(epoch))
				}
				a.wantCards(t, nil)
			})
		})
	}
}

// A card with data after it is accepted, and its stream is reset.
func TestDataAfterACardResetsTheStream(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		mn := f.node("m")
		connectOnly(an, mn)
		s, err := mn.NewStream(streamContext(t.Context()), "a", Protocol)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.Write(framed(`{"username":"mallory"}`))
		if _, err := read(s); err != nil {
			t.Fatal(err)
		}
		s.Write([]byte{0})
		synctest.Wait()
		if f.openStreamsOf(an) > 0 || time.Since(epoch) > 0 {
			t.Error("the stream is still served")
		}
		a.wantCards(t, cards{"m": "mallory"})
		var heard atomic.Int64
		mn.SetStreamHandler(Protocol, refuse(&heard))
		synctest.Wait()
		if heard.Load() != 1 {
			t.Errorf("%d requests", heard.Load())
		}
	})
}

// exchangeAs opens a stream and exchanges cards as a host.
func exchangeAs(n *fakeHost, to peer.ID) error {
	s, err := n.NewStream(streamContext(context.Background()), to, Protocol)
	if err != nil {
		return err
	}
	defer s.Close()
	frame, _ := encode(Card{Username: "mallory"})
	if _, err := s.Write(frame); err != nil {
		return err
	}
	_, err = read(s)
	return err
}

func TestInboundRateIsLimited(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		mn, nn := f.node("m"), f.node("n")
		connect(an, mn)
		connect(an, nn)
		taken := func(times int) (n int) {
			for range times {
				if exchangeAs(mn, "a") == nil {
					n++
				}
				synctest.Wait() // the stream is closed on both sides
			}
			return n
		}
		if n := taken(100); n != 16 {
			t.Errorf("%d streams of a burst were accepted", n)
		}
		if err := exchangeAs(nn, "a"); err != nil {
			t.Errorf("another peer: %v", err)
		}
		time.Sleep(3 * time.Second)
		if n := taken(100); n != 3 {
			t.Errorf("%d streams were accepted after 3 s", n)
		}
		disconnect(an, mn)
		connect(an, mn)
		if n := taken(100); n != 0 {
			t.Errorf("%d streams were accepted after a reconnect", n)
		}
		time.Sleep(time.Minute)
		if n := taken(100); n != 16 {
			t.Errorf("%d streams were accepted after a minute", n)
		}
		if n := len(a.names("m")); n != 16+3+16 {
			t.Errorf("%d cards were received", n)
		}
	})
}

func TestInboundStreamsAreLimited(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		_, an := f.daemon(t, "a")
		open := func(n *fakeHost) bool {
			s, err := n.NewStream(streamContext(t.Context()), "a", Protocol)
			if err != nil {
				t.Fatal(err)
			}
			f.tasks.Go(func() { silent(s) })
			synctest.Wait()
			return f.openStreamsOf(n) > 0
		}
		var all int
		for i := range 300 {
			n := f.node(peer.ID(fmt.Sprint("m", i)))
			connect(an, n)
			for range 10 {
				open(n)
			}
			have := f.openStreamsOf(n)
			all += have
			if want := min(4, 1024-(all-have)); have != want {
				t.Fatalf("peer %d has %d streams, want %d", i, have, want)
			}
		}
		if all != 1024 {
			t.Errorf("%d streams", all)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		n := f.node("n")
		connect(an, n)
		if err := exchangeAs(n, "a"); err != nil {
			t.Errorf("after the streams ended: %v", err)
		}
	})
}

// openStreamsOf returns the number of open streams of a host.
func (f *fakeNetwork) openStreamsOf(n *fakeHost) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	open := 0
	for _, l := range n.links {
		open += len(l.streams)
	}
	return open
}

func TestMemoryIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		for i := range 4096 + 100 {
			n := f.node(peer.ID(fmt.Sprint("m", i)))
			connect(an, n)
			if err := exchangeAs(n, "a"); (err == nil) != (i < 4096) {
				t.Fatalf("peer %d: %v", i, err)
			}
			n.SetStreamHandler(Protocol, silent)
		}
		synctest.Wait()
		if n := len(a.Cards()); n != 4096 || len(a.peers) != 4096 {
			t.Errorf("%d cards of %d peers", n, len(a.peers))
		}
		time.Sleep(time.Second)
		for i := range 4096 + 100 {
			disconnect(an, f.hosts[peer.ID(fmt.Sprint("m", i))])
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if len(a.Cards()) > 0 || len(a.peers) > 0 || len(a.queue) > 0 {
			t.Errorf("%d cards, %d peers, %d queued", len(a.Cards()), len(a.peers), len(a.queue))
		}
		n := f.node("n")
		connect(an, n)
		if err := exchangeAs(n, "a"); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if n := a.inbound.streams.Held(); n != 0 {
			t.Errorf("%d streams are counted", n)
		}
	})
}

func TestReceivedCallsDoNotOverlap(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		a, an := f.daemon(t, "a")
		a.slow = 10 * time.Millisecond
		var others []*daemon
		for i := range 20 {
			b, bn := f.daemon(t, peer.ID(fmt.Sprint("b", i)))
			connect(an, bn)
			others = append(others, b)
		}
		for i := range 10 {
			for _, b := range others {
				b.set(fmt.Sprint(string(b.host.ID()), " ", i))
				f.tasks.Go(func() { b.Exchange(t.Context(), "a") })
				f.tasks.Go(func() { a.Exchange(t.Context(), b.host.ID()) })
			}
			time.Sleep(2 * time.Second)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if a.overlap {
			t.Error("calls of Received overlapped")
		}
		want := cards{}
		for _, b := range others {
			id := b.host.ID()
			want[id] = b.card().Username
			names := a.names(id)
			if !slices.IsSortedFunc(names[1:], func(x, y string) int { return int(x[len(x)-1]) - int(y[len(y)-1]) }) || names[len(names)-1] != want[id] {
				t.Errorf("received %q", names)
			}
		}
		a.wantCards(t, want)
	})
}

// A slow Received callback does not block the event bus.
func TestEventBusIsNeverBlocked(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fakeNetwork) {
		f.latency = time.Hour
		a, an := f.daemon(t, "a")
		a.slow = time.Hour
		bn := f.node("b")
		connect(an, bn)
		f.tasks.Go(func() { exchangeAs(bn, "a") })
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(a.names("b")) != 1 {
			t.Fatal("nothing was received")
		}
		begin := time.Now()
		for i := range 10_000 {
			an.identified.Emit(event.EvtPeerIdentificationCompleted{Peer: peer.ID(fmt.Sprint("c", i))})
			bn.identify(an)
			an.identify(bn)
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("the event bus was blocked for %s", took)
		}
		a.wantCards(t, cards{"b": "mallory"})
	})
}

func TestCloseWhileRunning(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second, 3500 * time.Millisecond, time.Minute} {
		inBubble(t, func(t *testing.T, f *fakeNetwork) {
			f.latency = time.Second
			m, mn := f.daemon(t, "m")
			for i := range 40 {
				other := f.node(peer.ID(fmt.Sprint("z", i)))
				other.SetStreamHandler(Protocol, []network.StreamHandler{answerWith("z"), silent, func(s network.Stream) { s.Reset() }}[i%3])
				connect(mn, other)
				f.tasks.Go(func() {
					s, err := other.NewStream(streamContext(t.Context()), "m", Protocol)
					if err == nil {
						silent(s)
					}
				})
				f.tasks.Go(func() {
					if _, err := m.Exchange(t.Context(), other.id); m.ctx.Err() != nil && err != nil && time.Since(epoch) == after && !errors.Is(err, ErrClosed) {
						t.Errorf("exchange: %v", err)
					}
				})
			}
			_, an := f.daemon(t, "a")
			connect(mn, an)
			time.Sleep(after)
			m.Announce()
			begin := time.Now()
			f.tasks.Go(func() { m.Close() })
			m.Close()
			if took := time.Since(begin); took > 0 {
				t.Errorf("closing took %s", took)
			}
			n, received := f.count("m", ""), len(m.received)
			m.Announce()
			if _, err := m.Exchange(t.Context(), "a"); !errors.Is(err, ErrClosed) {
				t.Errorf("exchange: %v", err)
			}
			m.wantCards(t, nil)
			connect(mn, f.node("y"))
			mn.identify(an)
			time.Sleep(time.Hour)
			if f.count("m", "") != n || len(m.received) != received {
				t.Errorf("%d streams and %d cards after Close", f.count("m", "")-n, len(m.received)-received)
			}
			if err := exchangeAs(an, "m"); err == nil || !negotiate.Refused(err) {
				t.Errorf("the handler is still registered: %v", err)
			}
		})
	}
}

func TestNewChecksConfig(t *testing.T) {
	if _, err := New(Config{Host: newFakeNetwork().node("a")}); err == nil {
		t.Error("no error without an own card")
	}
	if _, err := New(Config{Own: func(peer.ID) (Card, error) { return Card{}, nil }}); err == nil {
		t.Error("no error without a host")
	}
}
