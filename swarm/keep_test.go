package swarm

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/ipfs/boxo/peering"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/test/loopback"
)

func keep(t *testing.T, s *Swarm, info peer.AddrInfo) {
	t.Helper()
	if err := s.Keep(t.Context(), info); err != nil {
		t.Fatal(err)
	}
}

func kept(s *Swarm) (ids []peer.ID) {
	for _, k := range s.Kept() {
		ids = append(ids, k.ID)
	}
	return ids
}

func TestKeptPeerIsConnectedAtOnceAndAfterRestart(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	ds := newDatastore()
	s := start(t, Config{Host: us, Store: newStore(ds)})
	keep(t, s, loopback.Info(them))
	await(t, s, them.ID(), true)
	s.Close()
	us.Network().ClosePeer(them.ID())
	us.Peerstore().ClearAddrs(them.ID())

	s = start(t, Config{Host: us, Store: newStore(ds)})
	await(t, s, them.ID(), true)
	got := s.Kept()
	if len(got) != 1 || got[0].ID != them.ID() || got[0].By != KeptByNPP || !got[0].Connected {
		t.Errorf("kept %+v", got)
	}
}

func TestKeptPeerIsConnectedAgainAfterALoss(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	s := start(t, Config{Host: us})
	keep(t, s, loopback.Info(them))
	await(t, s, them.ID(), true)
	us.Network().ClosePeer(them.ID())
	await(t, s, them.ID(), false)
	await(t, s, them.ID(), true)
}

func TestKeptPeerIsConnectedAgainAfterALossOverARelay(t *testing.T) {
	us, relay := loopback.Host(t), newRelay(t)
	them := newHidden(t, relay)
	s := start(t, Config{Host: us})
	loopback.Connect(t, us, relay)
	keep(t, s, peer.AddrInfo{ID: them.ID()})
	for range 2 {
		await(t, s, them.ID(), true)
		if conn := s.conn(them.ID()); conn == nil || !relayed(conn) {
			t.Fatalf("connection %v, want a relayed one", conn)
		}
		_, events := s.Watch(testContext(t))
		us.Network().ClosePeer(them.ID())
		for e := range events {
			if e.Peer.ID == them.ID() && !e.Connected {
				break
			}
		}
	}
}

func TestKeptPeerThatWasAwayIsFoundWhenItComesBack(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	info := loopback.Info(them)
	them.Close()
	s := start(t, Config{Host: us})
	keep(t, s, peer.AddrInfo{ID: info.ID})
	back := loopback.Host(t, libp2p.Identity(them.Peerstore().PrivKey(them.ID())), libp2p.ListenAddrs(info.Addrs...))
	if back.ID() != info.ID {
		t.Fatal("not the same peer")
	}
	keep(t, s, info) // the address is new and dialled at once
	await(t, s, info.ID, true)
}

func TestAddressThatWorkedIsRemembered(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	ds := newDatastore()
	dead := closedAddr(t)
	s := start(t, Config{Host: us, Store: newStore(ds), Routing: router{them.ID(): loopback.Info(them)}})
	keep(t, s, peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{dead}})
	want := []ma.Multiaddr{them.Addrs()[0], dead}
	ctx := testContext(t)
	for len(s.Kept()[0].Addrs) < len(want) {
		if ctx.Err() != nil {
			t.Fatal("the address that worked is not remembered")
		}
		runtime.Gosched()
	}
	s.Close()

	other := start(t, Config{Host: loopback.Host(t), Store: newStore(ds)})
	if got := other.Kept(); len(got) != 1 || !slices.EqualFunc(got[0].Addrs, want, ma.Multiaddr.Equal) {
		t.Errorf("kept %v, want %v", got, want)
	}
}

func TestForget(t *testing.T) {
	us, them, other := loopback.Host(t), loopback.Host(t), loopback.Host(t)
	ds := newDatastore()
	service := peering.NewPeeringService(us)
	s := start(t, Config{Host: us, Store: newStore(ds), Peering: service})
	keep(t, s, loopback.Info(them))
	await(t, s, them.ID(), true)
	if !us.ConnManager().IsProtected(them.ID(), keepTag) || len(service.ListPeers()) != 1 {
		t.Error("neither protected nor peering while kept")
	}
	if err := s.Forget(t.Context(), other.ID()); !errors.Is(err, ErrNotKept) {
		t.Errorf("a peer that is not kept: %v", err)
	}
	if err := s.Forget(t.Context(), them.ID()); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(t.Context(), them.ID()); !errors.Is(err, ErrNotKept) {
		t.Errorf("twice: %v", err)
	}
	if us.ConnManager().IsProtected(them.ID(), keepTag) || len(service.ListPeers()) != 0 || len(kept(s)) != 0 {
		t.Error("still protected, peering or kept")
	}
	if !s.isConnected(them.ID()) {
		t.Error("the connection was closed")
	}
	s.Close()
	if got := kept(start(t, Config{Host: us, Store: newStore(ds)})); len(got) != 0 {
		t.Errorf("kept again after a restart: %v", got)
	}
}

func TestOperatorsPeersAreLeftAlone(t *testing.T) {
	us, pinned, peered, ours := loopback.Host(t), loopback.Host(t), loopback.Host(t), loopback.Host(t)
	service := peering.NewPeeringService(us)
	mark := ma.StringCast("/ip4/127.0.0.1/tcp/9")
	entry := func(h host.Host) peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: []ma.Multiaddr{mark}} }
	service.AddPeer(entry(pinned))
	service.AddPeer(entry(peered))
	check := func(when string, hosts ...host.Host) {
		t.Helper()
		listed := service.ListPeers()
		for _, h := range hosts {
			if !slices.ContainsFunc(listed, func(i peer.AddrInfo) bool { return i.String() == entry(h).String() }) {
				t.Errorf("%s: entry of %s changed: %v", when, h.ID(), listed)
			}
		}
		if len(listed) < len(hosts) {
			t.Errorf("%s: entries are gone: %v", when, listed)
		}
	}
	s := start(t, Config{Host: us, Peering: service, Pinned: []peer.AddrInfo{entry(pinned)}})
	service.RemovePeer(pinned.ID()) // as ipfs swarm peering rm does
	keep(t, s, loopback.Info(pinned))
	if listed := service.ListPeers(); len(listed) != 1 {
		t.Errorf("npp brought back an entry that the operator removed: %v", listed)
	}
	s.Forget(t.Context(), pinned.ID())
	service.AddPeer(entry(pinned))
	if err := s.Forget(t.Context(), pinned.ID()); !errors.Is(err, ErrPinned) {
		t.Errorf("forget a pinned peer: %v", err)
	}
	got := s.Kept()
	if len(got) != 1 || got[0].ID != pinned.ID() || got[0].By != KeptByConfig || got[0].Connected {
		t.Errorf("kept %+v, want the pinned peer", got)
	}
	for _, h := range []host.Host{pinned, peered, ours} {
		keep(t, s, loopback.Info(h))
	}
	check("kept by npp too", pinned, peered)
	if len(s.Kept()) != 3 {
		t.Errorf("kept %v, want each peer once", s.Kept())
	}
	await(t, s, pinned.ID(), true)
	for _, p := range s.Peers() {
		if p.ID == pinned.ID() && p.Kept != KeptByConfig {
			t.Errorf("pinned and kept is shown as %q", p.Kept)
		}
	}
	service.AddPeer(entry(ours)) // the operator changes npp's entry
	if err := s.Forget(t.Context(), pinned.ID()); !errors.Is(err, ErrPinned) {
		t.Errorf("forget a pinned peer that npp kept too: %v", err)
	}
	for _, h := range []host.Host{peered, ours} {
		if err := s.Forget(t.Context(), h.ID()); err != nil {
			t.Error(err)
		}
	}
	check("forgotten by npp", pinned, peered, ours)
	s.Close()
	check("closed", pinned, peered, ours)
	if got := kept(s); len(got) != 1 || got[0] != pinned.ID() {
		t.Errorf("kept %v, want the pinned peer alone", got)
	}
}

func TestDamagedRecordIsSkipped(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	st := newStore(newDatastore())
	first := start(t, Config{Host: us, Store: st})
	keep(t, first, loopback.Info(them))
	first.Close()
	bad := keepKey(loopback.Host(t).ID())
	if err := st.Update(t.Context(), func(tx *store.Tx) error {
		return errors.Join(tx.Put(bad, []byte(`{"addrs":["/nowhere"]}`)), tx.Put("keep/nobody", []byte("{}")))
	}); err != nil {
		t.Fatal(err)
	}
	if got := kept(start(t, Config{Host: us, Store: st})); !slices.Equal(got, []peer.ID{them.ID()}) {
		t.Errorf("kept %v, want %s", got, them.ID())
	}
	if _, err := st.Get(t.Context(), bad); err != nil {
		t.Errorf("the damaged record: %v", err)
	}
}

func TestKeepIsBounded(t *testing.T) {
	ds := newDatastore()
	st := newStore(ds)
	err := st.Update(t.Context(), func(tx *store.Tx) error {
		for range maxKept {
			id, err := test.RandPeerID()
			if err != nil {
				return err
			}
			if err := tx.Put(keepKey(id), []byte("{}")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	us, them := loopback.Host(t), loopback.Host(t)
	s := start(t, Config{Host: us, Store: st})
	if err := s.Keep(t.Context(), loopback.Info(them)); !errors.Is(err, ErrTooManyKept) {
		t.Errorf("one more than %d: %v", maxKept, err)
	}
	known := s.Kept()[0].ID
	var addrs []ma.Multiaddr
	for port := range maxKeptAddrs + 1 {
		addrs = append(addrs, ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port+1)))
	}
	keep(t, s, peer.AddrInfo{ID: known, Addrs: addrs})
	if got := s.Kept()[0].Addrs; len(got) != maxKeptAddrs {
		t.Errorf("%d addresses of a peer are kept, want %d", len(got), maxKeptAddrs)
	}
}

func TestKeepFailsWhereTheStoreDoes(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	st := newStore(newDatastore())
	s := start(t, Config{Host: us, Store: st})
	st.Close()
	if err := s.Keep(t.Context(), loopback.Info(them)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if got := kept(s); len(got) > 0 || us.ConnManager().IsProtected(them.ID(), keepTag) {
		t.Errorf("kept all the same: %v", got)
	}
	if _, err := New(t.Context(), Config{Host: us, Store: st}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("new: %v", err)
	}
}

func TestKeepCutsThePauseShort(t *testing.T) {
	s, info := start(t, Config{Host: loopback.Host(t)}), loopback.Info(loopback.Host(t))
	k := &keeper{id: info.ID, cancel: func() {}, changed: make(chan struct{}, 1), again: make(chan struct{}, 1)}
	s.kept[k.id] = k
	cut := make(chan bool)
	go func() { cut <- s.rest(testContext(t), k, 2*patience) }()
	keep(t, s, info)
	if !<-cut {
		t.Error("the pause went on")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("keep/"+keyID, []byte(`{"addrs":["/ip4/127.0.0.1/tcp/4001"]}`))
	f.Add("keep/"+hashID, []byte(`{}`))
	f.Add("keep/"+keyID, []byte(`{"addrs":[""]}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		info, err := parseRecord(store.Entry{Key: key, Value: value})
		if err == nil && (info.ID.Validate() != nil || len(info.Addrs) > maxKeptAddrs) {
			t.Fatalf("got %v", info)
		}
	})
}
