package swarm

import (
	"bufio"
	"context"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/boxo/peering"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	logging "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/test/loopback"
)

// patience is when a test gives up. Passing tests do not wait for it.
const patience = time.Minute

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newRelay(t *testing.T) host.Host {
	t.Helper()
	return loopback.Host(t, libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic())
}

// newHidden returns a host without listeners that has a reservation at relay.
func newHidden(t *testing.T, relay host.Host) host.Host {
	t.Helper()
	h := loopback.Host(t, libp2p.NoListenAddrs, libp2p.EnableRelay())
	loopback.Connect(t, h, relay)
	if _, err := client.Reserve(testContext(t), h, loopback.Info(relay)); err != nil {
		t.Fatal(err)
	}
	return h
}

func newStore(ds datastore.Batching) *store.Store {
	return store.New(ds, "/swarm")
}

func newDatastore() datastore.Batching {
	return dssync.MutexWrap(datastore.NewMapDatastore())
}

func start(t *testing.T, cfg Config) *Swarm {
	t.Helper()
	if cfg.Store == nil {
		cfg.Store = newStore(newDatastore())
	}
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// await returns when the peer is connected, or is not, and an event has
// reported the change if there was one.
func await(t *testing.T, s *Swarm, id peer.ID, connected bool) {
	t.Helper()
	list, events := s.Watch(testContext(t))
	if slices.ContainsFunc(list, func(p Peer) bool { return p.ID == id }) == connected {
		return
	}
	for e := range events {
		if e.Peer.ID == id && e.Connected == connected {
			return
		}
	}
	t.Fatalf("%s: never came to connected=%v", id, connected)
}

// topics are the topics that a router shares with peers.
type topics map[peer.ID][]string

func (ts topics) SharedTopics(id peer.ID) []string { return ts[id] }

func TestPeersDescribesEachConnectedPeer(t *testing.T) {
	const proto = protocol.ID("/npp/test/1")
	us := loopback.Host(t)
	speaker, other, stranger := loopback.Host(t, libp2p.UserAgent("speaker/7")), loopback.Host(t), loopback.Host(t)
	speaker.SetStreamHandler(proto, func(s network.Stream) { s.Reset() })
	s := start(t, Config{
		Host:     us,
		Protocol: proto,
		Topics:   topics{speaker.ID(): {"a", "b"}, stranger.ID(): {"a"}},
	})
	if got := s.Peers(); len(got) != 0 || s.Count() != 0 {
		t.Fatalf("before any connection: %v, count %d", got, s.Count())
	}
	before := time.Now()
	loopback.Connect(t, us, speaker)
	identified, err := us.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		t.Fatal(err)
	}
	defer identified.Close()
	loopback.Connect(t, other, us)
	for e := range identified.Out() {
		if e.(event.EvtPeerIdentificationCompleted).Peer == other.ID() {
			break
		}
	}
	if err := s.Keep(t.Context(), peer.AddrInfo{ID: other.ID()}); err != nil {
		t.Fatal(err)
	}

	got := s.Peers()
	if len(got) != 2 || s.Count() != 2 {
		t.Fatalf("got %v, count %d; want 2 peers", got, s.Count())
	}
	if got[0].ID >= got[1].ID {
		t.Error("not sorted by ID")
	}
	byID := map[peer.ID]Peer{got[0].ID: got[0], got[1].ID: got[1]}
	p := byID[speaker.ID()]
	if p.Addr == nil || !p.Addr.Equal(speaker.Addrs()[0]) {
		t.Errorf("address %v, want %v", p.Addr, speaker.Addrs()[0])
	}
	if p.Direction != network.DirOutbound || p.Relayed || !p.NPP || p.Agent != "speaker/7" || p.Kept != "" {
		t.Errorf("speaker: %+v", p)
	}
	if !slices.Equal(p.Topics, []string{"a", "b"}) {
		t.Errorf("topics %q, want a and b", p.Topics)
	}
	if p.Since.Before(before) || p.Since.After(time.Now()) {
		t.Errorf("since %v, want after %v", p.Since, before)
	}
	p = byID[other.ID()]
	if p.Direction != network.DirInbound || p.NPP || p.Kept != KeptByNPP || p.Topics != nil {
		t.Errorf("other: %+v", p)
	}
}

func TestPeersPrefersTheDirectConnection(t *testing.T) {
	us, them, relay := loopback.Host(t), loopback.Host(t), newRelay(t)
	loopback.Connect(t, them, relay)
	if _, err := client.Reserve(testContext(t), them, loopback.Info(relay)); err != nil {
		t.Fatal(err)
	}
	s := start(t, Config{Host: us})
	_, events := s.Watch(testContext(t))
	route, err := s.Connect(testContext(t), peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{circuitVia(relay)}})
	if err != nil {
		t.Fatal(err)
	}
	if !route.Relayed || route.Way != WayGiven {
		t.Errorf("route %+v, want the relayed address given", route)
	}
	row := func() Peer {
		peers := s.Peers()
		i := slices.IndexFunc(peers, func(p Peer) bool { return p.ID == them.ID() })
		if i < 0 {
			t.Fatal("not among the peers")
		}
		return peers[i]
	}
	relayedRow := row()
	if !relayedRow.Relayed {
		t.Errorf("over the relay: %+v", relayedRow)
	}
	us.Peerstore().AddAddrs(them.ID(), them.Addrs(), time.Hour)
	ctx := network.WithForceDirectDial(testContext(t), "test")
	if _, err := us.Network().DialPeer(ctx, them.ID()); err != nil {
		t.Fatal(err)
	}
	direct := row()
	if direct.Relayed || isCircuit(direct.Addr) {
		t.Errorf("with a direct connection: %+v", direct)
	}
	if !direct.Since.Equal(relayedRow.Since) {
		t.Errorf("since %v, want %v, when the first connection opened", direct.Since, relayedRow.Since)
	}

	// Watchers see no event for the upgrade.
	last := loopback.Host(t)
	loopback.Connect(t, us, last)
	var got []peer.ID
	for e := range events {
		if got = append(got, e.Peer.ID); e.Peer.ID == last.ID() {
			break
		}
	}
	if want := []peer.ID{relay.ID(), them.ID(), last.ID()}; !slices.Equal(got, want) {
		t.Errorf("events of %v, want %v", got, want)
	}
}

func TestEachConnectIsLogged(t *testing.T) {
	us, before, after := loopback.Host(t), loopback.Host(t), loopback.Host(t)
	if err := logging.SetLogLevel("npp", "info"); err != nil {
		t.Fatal(err)
	}
	r := logging.NewPipeReader(logging.PipeFormat(logging.JSONOutput), logging.PipeLevel(logging.LevelInfo))
	logged := make(chan string)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer r.Close()
	reader.Go(func() {
		defer close(logged)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var line struct{ Logger, Msg, Peer string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Logger == "npp" && line.Msg == "peer:connect" {
				logged <- line.Peer
			}
		}
	})
	ctx := testContext(t)
	loopback.Connect(t, us, before)
	var started sync.WaitGroup
	started.Go(func() {
		start(t, Config{Host: us})
		loopback.Connect(t, us, after)
	})
	for _, h := range []host.Host{before, after} {
		select {
		case id := <-logged:
			if id != h.ID().String() {
				t.Errorf("logged %s, want %s", id, h.ID())
			}
		case <-ctx.Done():
			t.Fatal("not logged")
		}
	}
	started.Wait()
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	us, them, away := loopback.Host(t), loopback.Host(t), loopback.Host(t)
	away.Close()
	service, stuck := peering.NewPeeringService(us), newStuckRouter()
	s := start(t, Config{Host: us, Peering: service, Routing: stuck})
	loopback.Connect(t, us, them)
	for _, h := range []host.Host{them, away} {
		if err := s.Keep(t.Context(), loopback.Info(h)); err != nil {
			t.Fatal(err)
		}
	}
	<-stuck.asked // a keeper is running
	_, unread := s.Watch(t.Context())
	_, read := s.Watch(t.Context())
	var readers sync.WaitGroup
	readers.Go(func() {
		for _, err := range read {
			if err != nil {
				t.Errorf("watch ended with %v", err)
			}
		}
	})
	if !us.ConnManager().IsProtected(them.ID(), keepTag) {
		t.Error("a kept peer is not protected")
	}
	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closers.Wait()
	if !stuck.done.Load() {
		t.Error("Close did not wait for a keeper")
	}
	readers.Wait()
	for range unread {
	}

	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "npp/swarm.(*Swarm)") {
			t.Errorf("still running:\n%s", stack)
		}
	}
	if us.ConnManager().IsProtected(them.ID(), keepTag) {
		t.Error("still protected")
	}
	if listed := service.ListPeers(); len(listed) > 0 {
		t.Errorf("still peering: %v", listed)
	}
	if us.Network().Connectedness(them.ID()) != network.Connected {
		t.Error("the host lost its connection")
	}
	if err := s.Keep(t.Context(), loopback.Info(them)); err == nil {
		t.Error("Keep after Close succeeded")
	}
	list, events := s.Watch(t.Context())
	for e, err := range events {
		t.Errorf("event after Close: %v, %v (list %v)", e, err, list)
	}
}
