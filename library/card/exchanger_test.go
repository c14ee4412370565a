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
)

type cards = map[peer.ID]string

// inBubble runs a test in a bubble. It fails if anything runs on after it.
func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		// after the Exchangers were closed
		t.Cleanup(func() {
			w.tasks.Wait()
			if n := w.leaks(); n > 0 {
				t.Errorf("%d streams are open yet", n)
			}
		})
		test(t, w)
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

// answering is a handler that answers with a card, as a JavaScript peer would.
func answering(name string) network.StreamHandler {
	return func(s network.Stream) {
		defer s.Close()
		if _, err := read(s); err != nil {
			return
		}
		frame, _ := encode(Card{Username: name})
		s.Write(frame)
	}
}

// refusing is a handler that does not answer, and counts.
func refusing(n *atomic.Int64) network.StreamHandler {
	return func(s network.Stream) {
		n.Add(1)
		s.Reset()
	}
}

// silent is a handler that reads and never answers.
func silent(s network.Stream) {
	io.Copy(io.Discard, s)
	s.Close()
}

func TestMeetingTakesOneStream(t *testing.T) {
	for _, dialer := range []peer.ID{"a", "b"} {
		inBubble(t, func(t *testing.T, w *world) {
			a, an := w.daemon(t, "a")
			b, bn := w.daemon(t, "b")
			if dialer == "a" {
				connect(an, bn)
			} else {
				connect(bn, an)
			}
			synctest.Wait()
			a.knows(t, cards{"b": "b"})
			b.knows(t, cards{"a": "a"})
			time.Sleep(time.Hour)
			wantTimes(t, w.times("a", "b"), 0)
			wantTimes(t, w.times("b", "a"))
			if na, nb := a.names("b"), b.names("a"); len(na) != 1 || len(nb) != 1 {
				t.Errorf("received %q and %q", na, nb)
			}
		})
	}
}

// A peer whose identification is late gets the card before.
func TestCardBeforeIdentification(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		b, bn := w.daemon(t, "b")
		an := w.node("a")
		an.SetStreamHandler(Protocol, answering("alice"))
		join(an, bn)
		s, err := an.NewStream(allowed(t.Context()), "b", Protocol)
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
		b.knows(t, cards{"a": "alice"})
		bn.identify(an)
		time.Sleep(time.Hour)
		if n := w.count("b", "a"); n > 0 {
			t.Errorf("%d streams to ask for what is known", n)
		}
	})
}

func allowed(ctx context.Context) context.Context {
	return network.WithAllowLimitedConn(network.WithNoDial(ctx, "test"), "test")
}

func TestMeetingWhoWasThereBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		an, bn, cn := w.node("a"), w.node("b"), w.node("c")
		connect(an, bn)
		connect(an, cn)
		a := newDaemon(t, an, "a")
		cn.SetStreamHandler(Protocol, answering("c"))
		bn.SetStreamHandler("/other", silent)
		synctest.Wait()
		a.knows(t, cards{"c": "c"})
		b := newDaemon(t, bn, "b")
		synctest.Wait()
		a.knows(t, cards{"b": "b", "c": "c"})
		b.knows(t, cards{"a": "a"})
		time.Sleep(time.Hour)
		if n := w.count("", ""); n > 3 { // two may cross
			t.Errorf("%d streams", n)
		}
	})
}

// New learns of itself who speaks the protocol already.
func TestNewAsksThePeerstore(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		an, bn := w.node("a"), w.node("b")
		bn.SetStreamHandler(Protocol, answering("b"))
		connect(an, bn)
		a := newDaemon(t, an, "a")
		synctest.Wait()
		a.knows(t, cards{"b": "b"})
	})
}

func TestLargerSideBeginsAfterGrace(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		b, bn := w.daemon(t, "b")
		an := w.node("a")
		an.SetStreamHandler(Protocol, answering("alice"))
		time.Sleep(5 * time.Second)
		connect(an, bn)
		time.Sleep(time.Minute)
		b.knows(t, cards{"a": "alice"})
		wantTimes(t, w.times("b", "a"), 5+3)
	})
}

// What an identification says again changes nothing.
func TestIdentificationAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		b, bn := w.daemon(t, "b")
		an := w.node("a")
		var n atomic.Int64
		an.SetStreamHandler(Protocol, refusing(&n))
		connect(an, bn)
		for range 600 {
			bn.identify(an)
			time.Sleep(time.Second)
		}
		wantTimes(t, w.times("b", "a"), 3, 3+2, 3+2+10, 3+2+10+60)
		b.knows(t, nil)
	})
}

func TestFailuresAreTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		bn := w.node("b")
		var n atomic.Int64
		bn.SetStreamHandler(Protocol, refusing(&n))
		connect(an, bn)
		time.Sleep(1000 * time.Second)
		wantTimes(t, w.times("a", "b"), 0, 2, 12, 72)

		a.Tell()
		time.Sleep(1000 * time.Second)
		wantTimes(t, w.times("a", "b")[4:], 1000, 1002, 1012, 1072)

		disconnect(an, bn)
		connect(an, bn)
		time.Sleep(1000 * time.Second)
		wantTimes(t, w.times("a", "b")[8:], 2000, 2002, 2012, 2072)

		// another connection beside the first one
		an.w.mu.Lock()
		an.links["b"] = &link{from: an, to: bn, streams: make(map[*stream]bool)}
		an.w.mu.Unlock()
		an.identify(bn)
		time.Sleep(time.Second)
		wantTimes(t, w.times("a", "b")[12:], 3000)
		bn.SetStreamHandler(Protocol, answering("bob"))
		time.Sleep(time.Hour)
		wantTimes(t, w.times("a", "b")[12:], 3000, 3002)
		a.knows(t, cards{"b": "bob"})
	})
}

// Another connection puts nothing off.
func TestGraceIsNotExtended(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		b, bn := w.daemon(t, "b")
		an := w.node("a")
		an.SetStreamHandler(Protocol, answering("alice"))
		for range 10 {
			connect(an, bn)
			time.Sleep(time.Second)
		}
		b.knows(t, cards{"a": "alice"})
		wantTimes(t, w.times("b", "a"), 3)
	})
}

func TestNobodyIsTriedWhoLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		bn, cn := w.node("b"), w.node("c")
		var n atomic.Int64
		bn.SetStreamHandler(Protocol, refusing(&n))
		connect(an, bn)
		connect(an, cn) // speaks nothing
		synctest.Wait()
		disconnect(an, bn)
		a.Tell()
		time.Sleep(time.Hour)
		wantTimes(t, w.times("a", ""), 0)

		bn.SetStreamHandler(Protocol, silent)
		connect(an, bn)
		time.Sleep(time.Second)
		disconnect(an, bn) // during an exchange
		time.Sleep(time.Hour)
		wantTimes(t, w.times("a", ""), 0, 3600)
		a.knows(t, nil)
	})
}

// Who waits for a worker, and leaves, is not remembered.
func TestLeaversLeaveTheQueue(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		var others []*node
		for i := range 100 {
			other := w.node(peer.ID(fmt.Sprint("s", i)))
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
			t.Fatalf("%d are waiting", n)
		}
		for _, other := range others[50:] {
			disconnect(an, other)
		}
		synctest.Wait()
		if n := waiting(); n != 50-16 {
			t.Errorf("%d are waiting after half of all left", n)
		}
	})
}

// What comes late of a peer that left is not kept.
func TestNothingIsKeptOfWhoLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		a.slow = 5 * time.Second
		bn, cn := w.node("b"), w.node("c")
		join(an, bn)
		join(an, cn)
		w.tasks.Go(func() { attempt(bn, "a") })
		time.Sleep(time.Second)
		w.tasks.Go(func() { attempt(cn, "a") })
		time.Sleep(time.Second)
		disconnect(an, cn)
		an.identified.Emit(event.EvtPeerIdentificationCompleted{Peer: "c", Protocols: []protocol.ID{Protocol}})
		time.Sleep(time.Minute)
		a.knows(t, cards{"b": "mallory"})
		a.Exchanger.mu.Lock()
		defer a.Exchanger.mu.Unlock()
		if len(a.peers) != 1 {
			t.Errorf("%d peers", len(a.peers))
		}
	})
}

func TestLeaversAreForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b")
		c, cn := w.daemon(t, "c")
		connect(an, bn)
		connect(an, cn)
		synctest.Wait()
		a.knows(t, cards{"b": "b", "c": "c"})
		disconnect(an, bn)
		synctest.Wait()
		a.knows(t, cards{"c": "c"})
		b.knows(t, nil)
		c.knows(t, cards{"a": "a"})
		a.set("anna")
		connect(bn, an)
		synctest.Wait()
		a.knows(t, cards{"b": "b", "c": "c"})
		b.knows(t, cards{"a": "anna"})
	})
}

// Who stops to speak the protocol keeps its card until it leaves, and is met
// anew when it speaks it again.
func TestProtocolComesAndGoes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b")
		connect(an, bn)
		synctest.Wait()
		b.Close()
		synctest.Wait()
		a.knows(t, cards{"b": "b"})
		b = newDaemon(t, bn, "bo")
		synctest.Wait()
		time.Sleep(time.Second) // at the earliest
		synctest.Wait()
		a.knows(t, cards{"b": "bo"})
		b.knows(t, cards{"a": "a"})
		if n := w.count("a", "b"); n != 2 {
			t.Errorf("%d streams", n)
		}
		b.Close()
		synctest.Wait()
		a.Tell()
		time.Sleep(time.Hour)
		if _, err := a.Exchange(t.Context(), "b"); !errors.Is(err, ErrNoProtocol) {
			t.Errorf("error is %v", err)
		}
		if n := w.count("a", "b"); n != 3 { // those that worked, and the one just now
			t.Errorf("%d streams", n)
		}
		b = newDaemon(t, bn, "bea")
		time.Sleep(time.Second)
		synctest.Wait()
		a.knows(t, cards{"b": "bea"})
		b.knows(t, cards{"a": "a"})
	})
}

// A host may tell of such a change in either way.
func TestProtocolChangesAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		bn, cn := w.node("b"), w.node("c")
		connect(an, bn)
		connect(an, cn)
		synctest.Wait()
		w.mu.Lock()
		bn.handlers[Protocol] = answering("bob")
		cn.handlers[Protocol] = answering("carla")
		w.mu.Unlock()
		an.updated.Emit(event.EvtPeerProtocolsUpdated{Peer: "b", Added: []protocol.ID{"/other", Protocol}})
		an.updated.Emit(event.EvtPeerProtocolsUpdated{Peer: "c", Added: []protocol.ID{"/other"}})
		synctest.Wait()
		a.knows(t, cards{"b": "bob"})
		an.identify(cn)
		synctest.Wait()
		a.knows(t, cards{"b": "bob", "c": "carla"})

		w.mu.Lock()
		delete(bn.handlers, Protocol)
		delete(cn.handlers, Protocol)
		w.mu.Unlock()
		an.updated.Emit(event.EvtPeerProtocolsUpdated{Peer: "b", Removed: []protocol.ID{Protocol}})
		an.identify(cn)
		synctest.Wait()
		a.Tell()
		time.Sleep(time.Hour)
		if n := w.count("a", ""); n != 2 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b")
		cn, dn, en := w.node("c"), w.node("d"), w.node("e")
		dn.SetStreamHandler(Protocol, silent)
		var n atomic.Int64
		en.SetStreamHandler(Protocol, refusing(&n))
		for _, other := range []*node{bn, cn, dn, en} {
			connect(an, other)
		}
		synctest.Wait()
		a.set("anna")
		b.set("bea")
		c, err := a.Exchange(t.Context(), "b")
		if err != nil || c.Username != "bea" {
			t.Errorf("%+v, %v", c, err)
		}
		// at once, and not only in a while
		a.knows(t, cards{"b": "bea"})
		b.knows(t, cards{"a": "anna"})
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

// Who answers without having read did not get our card.
func TestAnswerToNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		bn := w.node("b")
		bn.SetStreamHandler(Protocol, func(s network.Stream) {
			defer s.Close()
			s.(*stream).in.Close()
			s.Write(framed(`{"username":"bob"}`))
		})
		connect(an, bn)
		if _, err := a.Exchange(t.Context(), "b"); err == nil {
			t.Error("no error")
		}
		time.Sleep(5 * time.Second)
		if n := w.count("a", "b"); n != 3 { // the one just now, one at once, one after 2 s
			t.Errorf("%d streams", n)
		}
	})
}

// An owner who does not come back holds up nobody for longer than an exchange
// may take.
func TestStuckOwner(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		a.slow = time.Hour
		bn, cn, dn := w.node("b"), w.node("c"), w.node("d")
		cn.SetStreamHandler(Protocol, answering("carla"))
		for _, other := range []*node{bn, cn, dn} {
			join(an, other)
		}
		w.tasks.Go(func() { attempt(bn, "a") })
		time.Sleep(time.Minute)
		w.tasks.Go(func() {
			if attempt(dn, "a") == nil || time.Since(epoch) != 70*time.Second {
				t.Error("an answer, or a late reset")
			}
		})
		if _, err := a.Exchange(t.Context(), "c"); !errors.Is(err, context.DeadlineExceeded) || time.Since(epoch) != 70*time.Second {
			t.Errorf("%v after %s", err, time.Since(epoch))
		}
		synctest.Wait()
		time.Sleep(time.Hour)
	})
}

// A card that may not be shown is shown to nobody.
func TestOwnCardIsChecked(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b")
		a.book.own = Card{Username: "an\x1bna", User: "/ipfs/x"}
		connect(an, bn)
		time.Sleep(time.Second)
		b.knows(t, nil)
		if _, err := a.Exchange(t.Context(), "b"); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
		if _, err := b.Exchange(t.Context(), "a"); err == nil {
			t.Error("no error")
		}
		b.knows(t, nil)
		a.book.mu.Lock()
		a.book.own.User = "/orbitdb/x"
		a.book.mu.Unlock()
		if _, err := a.Exchange(t.Context(), "b"); err != nil {
			t.Error(err)
		}
		b.knows(t, cards{"a": ""})
	})
}

// An owner who has no card to show yet shows none, and shows it once there is one.
func TestCardThatIsNotThereYetIsNotShown(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b")
		notYet := errors.New("not yet")
		a.book.err = notYet
		connect(an, bn)
		time.Sleep(time.Hour)
		b.knows(t, nil)
		if _, err := a.Exchange(t.Context(), "b"); !errors.Is(err, notYet) {
			t.Error(err)
		}
		if _, err := b.Exchange(t.Context(), "a"); err == nil {
			t.Error("no error")
		}
		b.knows(t, nil)
		a.book.mu.Lock()
		a.book.err = nil
		a.book.mu.Unlock()
		a.Tell()
		time.Sleep(time.Second)
		b.knows(t, cards{"a": a.book.card().Username})
	})
}

func TestTellIsCoalesced(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.latency = 50 * time.Millisecond
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b") // larger and smaller than m
		m, mn := w.daemon(t, "m")
		_, zn := w.daemon(t, "z")
		for _, other := range []*node{an, bn, zn} {
			connect(mn, other)
		}
		time.Sleep(time.Minute)
		met := w.count("", "")
		for i := range 100 {
			m.set(fmt.Sprint("m", i))
			m.Tell()
		}
		time.Sleep(time.Minute)
		for _, d := range []*daemon{a, b} {
			d.knows(t, cards{"m": "m99"})
		}
		if n := w.count("m", "a"); n != 1 {
			t.Errorf("%d streams for what was told at once", n)
		}
		if n := w.count("", ""); n != met+3 {
			t.Errorf("%d streams more", n-met)
		}

		// while one is on its way
		m.Tell()
		time.Sleep(10 * time.Millisecond)
		for i := range 100 {
			m.set(fmt.Sprint("n", i))
			m.Tell()
		}
		time.Sleep(time.Minute)
		a.knows(t, cards{"m": "n99"})
		if n := w.count("m", "a"); n < 2 || n > 3 {
			t.Errorf("%d streams", n)
		}

		// all the time: no more often than a peer takes
		before := w.count("m", "a")
		for i := range 1000 {
			m.set(fmt.Sprint("o", i))
			m.Tell()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		a.knows(t, cards{"m": "o999"})
		if n := w.count("m", "a") - before; n < 5 || n > 11 {
			t.Errorf("%d streams in 10 s", n)
		}
	})
}

// What is told while an exchange shows the old card is shown in another one.
func TestTellDuringExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b")
		b.slow = 2 * time.Second
		connect(an, bn)
		time.Sleep(time.Second)
		a.set("anna")
		a.Tell()
		time.Sleep(time.Minute)
		b.knows(t, cards{"a": "anna"})
		wantTimes(t, w.times("a", "b"), 0, 2)
	})
}

// However often is told, there is one exchange with a peer at a time.
func TestTellWhileAllIsBusy(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.latency = 5 * time.Second
		a, an := w.daemon(t, "a")
		for i := range 40 {
			other := w.node(peer.ID(fmt.Sprint("b", i)))
			other.SetStreamHandler(Protocol, answering("bob"))
			connect(an, other)
		}
		for range 60 {
			time.Sleep(1100 * time.Millisecond)
			a.Tell()
		}
		time.Sleep(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.twice {
			t.Error("two exchanges with a peer at a time")
		}
	})
}

func TestTellReachesWhoFailedBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b")
		connect(an, bn)
		synctest.Wait()
		var n atomic.Int64
		bn.w.mu.Lock()
		good := bn.handlers[Protocol]
		bn.handlers[Protocol] = refusing(&n)
		bn.w.mu.Unlock()
		a.set("anna")
		a.Tell()
		time.Sleep(5 * time.Second)
		b.knows(t, cards{"a": "a"})
		bn.w.mu.Lock()
		bn.handlers[Protocol] = good
		bn.w.mu.Unlock()
		time.Sleep(10 * time.Second)
		b.knows(t, cards{"a": "anna"})
	})
}

// An answer that was on its way before the card changed, and after the new one
// was shown, is made up for.
func TestOldCardIsNotTheLast(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		bn := w.node("b")
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

		s, err := bn.NewStream(allowed(t.Context()), "a", Protocol)
		if err != nil {
			t.Fatal(err)
		}
		frame, _ := encode(Card{Username: "b"})
		s.Write(frame)
		synctest.Wait() // the answer is on its way
		a.set("anna")
		a.Tell()
		time.Sleep(5 * time.Second)
		if c, err := read(s); err != nil || c.Username != "a" {
			t.Fatal(c, err)
		}
		s.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		close(got)
		if names, want := slices.Collect(each(got)), []string{"a", "anna", "anna"}; !slices.Equal(names, want) {
			t.Errorf("shown %q, want %q", names, want)
		}
		a.knows(t, cards{"b": "b"})
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

// Who asked after the card changed, and got it, is not shown it again.
func TestAskedIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		b, bn := w.daemon(t, "b")
		connect(an, bn)
		synctest.Wait()
		a.set("anna")
		a.Tell() // in a second at the earliest
		if _, err := b.Exchange(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		b.knows(t, cards{"a": "anna"})
		wantTimes(t, w.times("a", "b"), 0)
	})
}

// An answer that did not arrive is not taken for one.
func TestLostAnswerIsMadeUpFor(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, bn := w.daemon(t, "b")
		an := w.node("a")
		var heard atomic.Int64
		an.SetStreamHandler(Protocol, func(s network.Stream) {
			heard.Add(1)
			answering("alice")(s)
		})
		connect(an, bn)
		s, err := an.NewStream(allowed(t.Context()), "b", Protocol)
		if err != nil {
			t.Fatal(err)
		}
		frame, _ := encode(Card{Username: "alice"})
		s.Write(frame)
		s.Reset()
		time.Sleep(time.Hour)
		if heard.Load() != 1 {
			t.Errorf("our card was shown %d times", heard.Load())
		}
	})
}

func TestManyPeersFewAtATime(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.latency = time.Second
		a, an := w.daemon(t, "a")
		const n = 1000
		for i := range n {
			other := w.node(peer.ID(fmt.Sprint("b", i)))
			other.SetStreamHandler(Protocol, answering("bob"))
			connect(an, other)
			synctest.Wait()
		}
		time.Sleep(n / 16 * time.Second)
		if w.atOnce() != 16 {
			t.Errorf("%d streams were opened at a time", w.atOnce())
		}
		time.Sleep(2 * time.Second)
		if have := len(a.Cards()); have != n || w.count("", "") != n {
			t.Errorf("%d cards of %d, by %d streams", have, n, w.count("", ""))
		}
		a.Tell()
		time.Sleep(n/16*time.Second + 2*time.Second)
		if w.count("", "") != 2*n || w.atOnce() != 16 {
			t.Errorf("%d streams, %d at a time", w.count("", ""), w.atOnce())
		}
	})
}

// The silent hold up the others for a while, not for good.
func TestSilentPeersDoNotBlockOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		for i := range 40 {
			other := w.node(peer.ID(fmt.Sprint("s", i)))
			other.SetStreamHandler(Protocol, silent)
			connect(an, other)
		}
		bn := w.node("b")
		bn.SetStreamHandler(Protocol, answering("bob"))
		connect(an, bn)
		time.Sleep(30 * time.Second)
		a.knows(t, cards{"b": "bob"})
		time.Sleep(10 * time.Minute)
		if n := w.count("a", ""); n != 1+4*40 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestServedStreamsEnd(t *testing.T) {
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
			inBubble(t, func(t *testing.T, w *world) {
				_, an := w.daemon(t, "a")
				mn := w.node("m")
				connect(an, mn)
				s, err := mn.NewStream(allowed(t.Context()), "a", Protocol)
				if err != nil {
					t.Fatal(err)
				}
				w.tasks.Go(func() { act(s) })
				time.Sleep(10*time.Second - 1)
				if w.leaksOf(an) != 1 {
					t.Error("it was not served for 10 s")
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				if w.leaksOf(an) != 0 {
					t.Error("it was served for longer than 10 s")
				}
				s.Close()
			})
		})
	}
}

func TestJunkIsReset(t *testing.T) {
	for name, data := range map[string][]byte{
		"junk":           framed("junk"),
		"bad address":    framed(`{"username":"mallory","user":"/ipfs/x"}`),
		"empty":          framed(""),
		"huge":           {0xff, 0xff, 0xff, 0xff, 0x07},
		"endless length": slices.Repeat([]byte{0xff}, 100),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, an := w.daemon(t, "a")
				mn := w.node("m")
				connect(an, mn)
				s, err := mn.NewStream(allowed(t.Context()), "a", Protocol)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				w.tasks.Go(func() { s.Write(data) })
				_, err = io.Copy(io.Discard, s)
				if !errors.Is(err, network.ErrReset) || time.Since(epoch) > 0 {
					t.Errorf("%v after %s", err, time.Since(epoch))
				}
				a.knows(t, nil)
			})
		})
	}
}

// A card counts also if more follows it, but ends nothing.
func TestMoreThanACard(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		mn := w.node("m")
		join(an, mn)
		s, err := mn.NewStream(allowed(t.Context()), "a", Protocol)
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
		if w.leaksOf(an) > 0 || time.Since(epoch) > 0 {
			t.Error("it is served yet")
		}
		a.knows(t, cards{"m": "mallory"})
		var heard atomic.Int64
		mn.SetStreamHandler(Protocol, refusing(&heard))
		synctest.Wait()
		if heard.Load() != 1 {
			t.Errorf("asked %d times", heard.Load())
		}
	})
}

// attempt opens a stream and exchanges cards, in the name of a node.
func attempt(n *node, to peer.ID) error {
	s, err := n.NewStream(allowed(context.Background()), to, Protocol)
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

func TestFloodIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		mn, nn := w.node("m"), w.node("n")
		connect(an, mn)
		connect(an, nn)
		taken := func(times int) (n int) {
			for range times {
				if attempt(mn, "a") == nil {
					n++
				}
				synctest.Wait() // the stream is closed on both sides
			}
			return n
		}
		if n := taken(100); n != 16 {
			t.Errorf("%d at once were taken", n)
		}
		if err := attempt(nn, "a"); err != nil {
			t.Errorf("another peer: %v", err)
		}
		time.Sleep(3 * time.Second)
		if n := taken(100); n != 3 {
			t.Errorf("%d were taken after 3 s", n)
		}
		disconnect(an, mn)
		connect(an, mn)
		if n := taken(100); n != 0 {
			t.Errorf("%d were taken after a reconnect", n)
		}
		time.Sleep(time.Minute)
		if n := taken(100); n != 16 {
			t.Errorf("%d were taken after a minute", n)
		}
		if n := len(a.names("m")); n != 16+3+16 {
			t.Errorf("%d cards were received", n)
		}
	})
}

func TestStreamsAtATime(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, an := w.daemon(t, "a")
		open := func(n *node) bool {
			s, err := n.NewStream(allowed(t.Context()), "a", Protocol)
			if err != nil {
				t.Fatal(err)
			}
			w.tasks.Go(func() { silent(s) })
			synctest.Wait()
			return w.leaksOf(n) > 0
		}
		var all int
		for i := range 300 {
			n := w.node(peer.ID(fmt.Sprint("m", i)))
			connect(an, n)
			for range 10 {
				open(n)
			}
			have := w.leaksOf(n)
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
		n := w.node("n")
		connect(an, n)
		if err := attempt(n, "a"); err != nil {
			t.Errorf("after all ended: %v", err)
		}
	})
}

// leaksOf is how many streams a node has open.
func (w *world) leaksOf(n *node) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	open := 0
	for _, l := range n.links {
		open += len(l.streams)
	}
	return open
}

func TestMemoryIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		for i := range 4096 + 100 {
			n := w.node(peer.ID(fmt.Sprint("m", i)))
			connect(an, n)
			if err := attempt(n, "a"); (err == nil) != (i < 4096) {
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
			disconnect(an, w.hosts[peer.ID(fmt.Sprint("m", i))])
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if len(a.Cards()) > 0 || len(a.peers) > 0 || len(a.queue) > 0 {
			t.Errorf("%d cards, %d peers, %d waiting", len(a.Cards()), len(a.peers), len(a.queue))
		}
		n := w.node("n")
		connect(an, n)
		if err := attempt(n, "a"); err != nil {
			t.Error(err)
		}
		if len(a.guests.byPeer) != 1 {
			t.Errorf("%d guests", len(a.guests.byPeer))
		}
	})
}

func TestReceivedOneAtATime(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, an := w.daemon(t, "a")
		a.slow = 10 * time.Millisecond
		var others []*daemon
		for i := range 20 {
			b, bn := w.daemon(t, peer.ID(fmt.Sprint("b", i)))
			connect(an, bn)
			others = append(others, b)
		}
		for i := range 10 {
			for _, b := range others {
				b.set(fmt.Sprint(string(b.host.ID()), " ", i))
				w.tasks.Go(func() { b.Exchange(t.Context(), "a") })
				w.tasks.Go(func() { a.Exchange(t.Context(), b.host.ID()) })
			}
			time.Sleep(2 * time.Second)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if a.overlap {
			t.Error("Received was called while it ran")
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
		a.knows(t, want)
	})
}

// However slow the owner is, the host's events are taken.
func TestEventsAreTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.latency = time.Hour
		a, an := w.daemon(t, "a")
		a.slow = time.Hour
		bn := w.node("b")
		connect(an, bn)
		w.tasks.Go(func() { attempt(bn, "a") })
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
			t.Errorf("the bus waited for %s", took)
		}
		a.knows(t, cards{"b": "mallory"})
	})
}

func TestCloseWhileRunning(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second, 3500 * time.Millisecond, time.Minute} {
		inBubble(t, func(t *testing.T, w *world) {
			w.latency = time.Second
			m, mn := w.daemon(t, "m")
			for i := range 40 {
				other := w.node(peer.ID(fmt.Sprint("z", i)))
				other.SetStreamHandler(Protocol, []network.StreamHandler{answering("z"), silent, func(s network.Stream) { s.Reset() }}[i%3])
				connect(mn, other)
				w.tasks.Go(func() {
					s, err := other.NewStream(allowed(t.Context()), "m", Protocol)
					if err == nil {
						silent(s)
					}
				})
				w.tasks.Go(func() {
					if _, err := m.Exchange(t.Context(), other.id); m.ctx.Err() != nil && err != nil && time.Since(epoch) == after && !errors.Is(err, ErrClosed) {
						t.Errorf("exchange: %v", err)
					}
				})
			}
			_, an := w.daemon(t, "a")
			connect(mn, an)
			time.Sleep(after)
			m.Tell()
			begin := time.Now()
			w.tasks.Go(func() { m.Close() })
			m.Close()
			if took := time.Since(begin); took > 0 {
				t.Errorf("closing took %s", took)
			}
			n, received := w.count("m", ""), len(m.received)
			m.Tell()
			if _, err := m.Exchange(t.Context(), "a"); !errors.Is(err, ErrClosed) {
				t.Errorf("exchange: %v", err)
			}
			m.knows(t, nil)
			connect(mn, w.node("y"))
			mn.identify(an)
			time.Sleep(time.Hour)
			if w.count("m", "") != n || len(m.received) != received {
				t.Errorf("%d streams and %d cards after Close", w.count("m", "")-n, len(m.received)-received)
			}
			if err := attempt(an, "m"); err == nil || !refusedProtocol(err) {
				t.Errorf("the handler is there yet: %v", err)
			}
		})
	}
}

func TestNewWantsWhatItNeeds(t *testing.T) {
	if _, err := New(Config{Host: newWorld().node("a")}); err == nil {
		t.Error("no own card, and no error")
	}
	if _, err := New(Config{Own: func(peer.ID) (Card, error) { return Card{}, nil }}); err == nil {
		t.Error("no host, and no error")
	}
}
