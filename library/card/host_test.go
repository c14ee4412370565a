package card

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"

	"github.com/newpieceplease/npp/test/loopback"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// opencensus starts it on import and never stops it
		goleak.IgnoreAnyFunction("go.opencensus.io/stats/view.(*worker).start"),
	)
}

// testContext returns a context for steps that are quick unless they fail.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// inOrder returns n hosts, sorted by peer ID.
func inOrder(t testing.TB, n int) []host.Host {
	hs := make([]host.Host, n)
	for i := range hs {
		hs[i] = loopback.Host(t)
	}
	slices.SortFunc(hs, func(a, b host.Host) int { return cmp.Compare(a.ID(), b.ID()) })
	return hs
}

func (d *daemon) hasCard(name string, other host.Host) bool {
	c, ok := d.Cards()[other.ID()]
	return ok && c.Username == name
}

// countStreams counts the inbound streams of a daemon.
func (d *daemon) countStreams() *atomic.Int64 {
	n := new(atomic.Int64)
	d.host.SetStreamHandler(Protocol, func(s network.Stream) {
		n.Add(1)
		d.handle(s)
	})
	return n
}

func TestHostsExchange(t *testing.T) {
	for dialer := range 2 {
		t.Run(fmt.Sprint("dialed by ", dialer), func(t *testing.T) {
			hs := inOrder(t, 2)
			a, b := newDaemon(t, hs[0], "alice"), newDaemon(t, hs[1], "bob")
			a.recorder.own.User, a.recorder.own.Follows = address, true
			na, nb := a.countStreams(), b.countStreams()
			begin := time.Now()
			loopback.Connect(t, hs[dialer], hs[1-dialer])
			eventually(t, "a card on both sides", func() bool { return a.hasCard("bob", b.host) && b.hasCard("alice", a.host) })
			// After largerIDDelay, the larger side initiates an exchange, too.
			if time.Since(begin) < largerIDDelay && (na.Load() != 0 || nb.Load() != 1) {
				t.Errorf("%d streams to the smaller side, %d to the larger one", na.Load(), nb.Load())
			}
			if got, want := b.Cards()[a.host.ID()], (Card{"alice", address, true}); got != want {
				t.Errorf("bob has %+v, want %+v", got, want)
			}

			for i := range 3 {
				b.set(fmt.Sprint("bob", i))
				b.Announce()
				eventually(t, "the new card", func() bool { return a.hasCard(fmt.Sprint("bob", i), b.host) })
			}

			hs[0].Network().ClosePeer(hs[1].ID())
			eventually(t, "cards end with the connection", func() bool { return len(a.Cards())+len(b.Cards()) == 0 })
			a.set("anna")
			loopback.Connect(t, hs[1-dialer], hs[dialer])
			eventually(t, "a card on both sides again", func() bool { return a.hasCard("bob2", b.host) && b.hasCard("anna", a.host) })
		})
	}
}

func TestConnectedHostsExchange(t *testing.T) {
	hs := inOrder(t, 2)
	loopback.Connect(t, hs[0], hs[1])
	a := newDaemon(t, hs[0], "alice")
	b := newDaemon(t, hs[1], "bob")
	eventually(t, "a card on both sides", func() bool { return a.hasCard("bob", b.host) && b.hasCard("alice", a.host) })
	b.Close()
	eventually(t, "the protocol is removed", func() bool {
		_, err := a.Exchange(testContext(t), b.host.ID())
		return errors.Is(err, ErrNoProtocol)
	})
}

// A JavaScript peer only needs to respond.
func TestRespondingHostIsEnough(t *testing.T) {
	hs := inOrder(t, 2)
	hs[0].SetStreamHandler(Protocol, answerWith("js"))
	b := newDaemon(t, hs[1], "bob")
	begin := time.Now()
	loopback.Connect(t, hs[0], hs[1])
	eventually(t, "its card", func() bool { return b.hasCard("js", hs[0]) })
	if took := time.Since(begin); took < largerIDDelay {
		t.Errorf("requested after %s", took)
	}
}

func TestHostWithoutProtocol(t *testing.T) {
	a, other, away := newDaemon(t, loopback.Host(t), "alice"), loopback.Host(t), loopback.Host(t)
	loopback.Connect(t, a.host, other)
	if _, err := a.Exchange(testContext(t), other.ID()); !errors.Is(err, ErrNoProtocol) {
		t.Errorf("error is %v", err)
	}

	// Exchange does not dial.
	away.SetStreamHandler(Protocol, answerWith("js"))
	a.host.Peerstore().AddAddrs(away.ID(), away.Addrs(), peerstore.PermanentAddrTTL)
	a.Announce()
	if _, err := a.Exchange(testContext(t), away.ID()); !errors.Is(err, ErrNotConnected) {
		t.Errorf("error is %v", err)
	}
	if n := len(away.Network().Peers()); n > 0 {
		t.Errorf("the other host has %d peers", n)
	}
	if n := len(a.Cards()); n > 0 {
		t.Errorf("%d cards", n)
	}
}

// The peerstore may list a protocol that the peer no longer supports. The
// stream is then opened optimistically.
func TestStaleProtocolInPeerstore(t *testing.T) {
	a, other := newDaemon(t, loopback.Host(t), "alice"), loopback.Host(t)
	loopback.Connect(t, a.host, other)
	if err := a.host.Peerstore().AddProtocols(other.ID(), Protocol); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Exchange(testContext(t), other.ID()); !errors.Is(err, ErrNoProtocol) {
		t.Errorf("error is %v", err)
	}
}

func TestHostsBehindRelay(t *testing.T) {
	relay := loopback.Host(t, libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic())
	hs := []host.Host{loopback.Host(t, libp2p.NoListenAddrs, libp2p.EnableRelay()), loopback.Host(t, libp2p.NoListenAddrs, libp2p.EnableRelay())}
	slices.SortFunc(hs, func(a, b host.Host) int { return cmp.Compare(a.ID(), b.ID()) })
	for _, h := range hs {
		loopback.Connect(t, h, relay)
		if _, err := client.Reserve(testContext(t), h, loopback.Info(relay)); err != nil {
			t.Fatal(err)
		}
	}
	a, b := newDaemon(t, hs[0], "alice"), newDaemon(t, hs[1], "bob")
	way := ma.StringCast(fmt.Sprintf("%s/p2p/%s/p2p-circuit", relay.Addrs()[0], relay.ID()))
	if err := a.host.Connect(network.WithAllowLimitedConn(testContext(t), "test"), peer.AddrInfo{ID: b.host.ID(), Addrs: []ma.Multiaddr{way}}); err != nil {
		t.Fatal(err)
	}
	if a.host.Network().Connectedness(b.host.ID()) != network.Limited {
		t.Fatal("the connection is direct")
	}
	eventually(t, "a card on both sides", func() bool { return a.hasCard("bob", b.host) && b.hasCard("alice", a.host) })
	b.set("bea")
	if c, err := a.Exchange(testContext(t), b.host.ID()); err != nil || c.Username != "bea" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestHostileHost(t *testing.T) {
	a, mallory := newDaemon(t, loopback.Host(t), "alice"), loopback.Host(t)
	loopback.Connect(t, mallory, a.host)
	send := func(data []byte) error {
		s, err := mallory.NewStream(testContext(t), a.host.ID(), Protocol)
		if err != nil {
			return err
		}
		defer s.Reset()
		s.SetDeadline(time.Now().Add(5 * time.Second))
		go s.Write(data)
		_, err = read(s)
		return err
	}
	large := []byte(`{"username":"` + strings.Repeat("a", 1<<20) + `"}`)
	for name, data := range map[string][]byte{
		"large name":      append(binary.AppendUvarint(nil, uint64(len(large))), large...),
		"huge length":     {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"endless length":  bytes.Repeat([]byte{0xff}, 1<<20),
		"junk":            framed("junk"),
		"another address": framed(`{"user":"/ipfs/x"}`),
		"control in user": framed(`{"user":"/orbitdb/\u001b[31m"}`),
	} {
		if err := send(data); !errors.Is(err, network.ErrReset) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(a.Cards()); n > 0 {
		t.Errorf("%d cards", n)
	}
	if err := send(framed(`{"username":"mal\u001b[31mlory","user":"/orbitdb/z"}`)); err != nil {
		t.Error(err)
	}
	if got, want := a.Cards()[mallory.ID()], (Card{User: "/orbitdb/z"}); got != want {
		t.Errorf("the card is %+v, want %+v", got, want)
	}

	flood := make(chan error)
	const n = 200
	for range n {
		go func() { flood <- send(framed(`{"username":"mallory"}`)) }()
	}
	refused := 0
	for range n {
		if <-flood != nil {
			refused++
		}
	}
	if refused < n-20 {
		t.Errorf("%d of %d streams were refused", refused, n)
	}
	b := newDaemon(t, loopback.Host(t), "bob")
	loopback.Connect(t, b.host, a.host)
	if _, err := b.Exchange(testContext(t), a.host.ID()); err != nil {
		t.Errorf("another peer: %v", err)
	}
}

// Close ends exchanges that wait for a peer.
func TestHostClosesWhileRunning(t *testing.T) {
	hs := inOrder(t, 3)
	hs[0].SetStreamHandler(Protocol, silent)
	hs[2].SetStreamHandler(Protocol, silent)
	a := newDaemon(t, hs[1], "alice")
	loopback.Connect(t, hs[1], hs[0])
	loopback.Connect(t, hs[1], hs[2])
	s, err := hs[0].NewStream(testContext(t), hs[1].ID(), Protocol)
	if err != nil {
		t.Fatal(err)
	}
	s.Write([]byte{7})
	failed := make(chan error)
	go func() {
		_, err := a.Exchange(context.Background(), hs[0].ID())
		failed <- err
	}()
	streams := func() (n int) {
		for _, c := range hs[1].Network().Conns() {
			for _, s := range c.GetStreams() {
				if s.Protocol() == Protocol {
					n++
				}
			}
		}
		return n
	}
	eventually(t, "three exchanges", func() bool { return streams() == 3 })
	begin := time.Now()
	a.Close()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("closing took %s", took)
	}
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("error is %v", err)
	}
	if _, err := io.ReadAll(s); err == nil {
		t.Error("the stream of the peer was not reset")
	}
	if n := streams(); n > 0 {
		t.Errorf("%d streams are open", n)
	}
	if slices.Contains(hs[1].Mux().Protocols(), Protocol) {
		t.Error("the handler is still registered")
	}
}
