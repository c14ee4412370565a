package swarm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/routing"
	libp2pswarm "github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/newpieceplease/npp/internal/wait"
	"github.com/newpieceplease/npp/test/loopback"
)

// router is a routing system with fixed records.
type router map[peer.ID]peer.AddrInfo

func (r router) FindPeer(_ context.Context, id peer.ID) (peer.AddrInfo, error) {
	info, ok := r[id]
	if !ok {
		return peer.AddrInfo{}, routing.ErrNotFound
	}
	return info, nil
}

// stuckRouter finds no peer until its context ends, and then is slow to return.
type stuckRouter struct {
	asked wait.Flag
	done  atomic.Bool
}

func newStuckRouter() *stuckRouter { return &stuckRouter{asked: wait.NewFlag()} }

func (r *stuckRouter) FindPeer(ctx context.Context, _ peer.ID) (peer.AddrInfo, error) {
	r.asked.Set()
	<-ctx.Done()
	for range 10_000 {
		runtime.Gosched()
	}
	r.done.Store(true)
	return peer.AddrInfo{}, ctx.Err()
}

// closedAddr returns an address without a listener.
func closedAddr(t *testing.T) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))
}

// silentAddr returns an address that accepts connections and sends nothing.
func silentAddr(t *testing.T) ma.Multiaddr {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return ma.StringCast(fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port))
}

func circuitVia(relay host.Host) ma.Multiaddr {
	return ma.StringCast(fmt.Sprintf("%s/p2p/%s/p2p-circuit", relay.Addrs()[0], relay.ID()))
}

func TestConnectFindsTheWay(t *testing.T) {
	for _, test := range []struct {
		name    string
		arrange func(t *testing.T, us host.Host) (Config, peer.AddrInfo)
		way     Way
		relayed bool
		tried   []Way
	}{
		{"over the open connection", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			them := loopback.Host(t)
			loopback.Connect(t, us, them)
			return Config{}, peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{closedAddr(t)}}
		}, WayOpen, false, nil},

		{"at the address given", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			return Config{}, loopback.Info(loopback.Host(t))
		}, WayGiven, false, nil},

		{"at a known address beside a dead one given", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			them := loopback.Host(t)
			us.Peerstore().AddAddrs(them.ID(), them.Addrs(), time.Hour)
			return Config{}, peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{closedAddr(t)}}
		}, WayKnown, false, nil},

		{"by routing", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			them := loopback.Host(t)
			return Config{Routing: router{them.ID(): loopback.Info(them)}}, peer.AddrInfo{ID: them.ID()}
		}, WayRouting, false, []Way{WayKnown}},

		{"by routing after a dead address", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			them := loopback.Host(t)
			return Config{Routing: router{them.ID(): loopback.Info(them)}},
				peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{closedAddr(t)}}
		}, WayRouting, false, []Way{WayGiven}},

		{"through a relay that is named", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			relay := newRelay(t)
			them := newHidden(t, relay)
			return Config{}, peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{circuitVia(relay)}}
		}, WayGiven, true, nil},

		{"through a relay that is named without address", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			relay := newRelay(t)
			them := newHidden(t, relay)
			return Config{Routing: router{relay.ID(): loopback.Info(relay)}},
				peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{ma.StringCast("/p2p/" + relay.ID().String() + "/p2p-circuit")}}
		}, WayGiven, true, nil},

		{"through one of our relays", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			wrong, relay := newRelay(t), newRelay(t)
			loopback.Connect(t, us, wrong)
			loopback.Connect(t, us, relay)
			return Config{}, peer.AddrInfo{ID: newHidden(t, relay).ID()}
		}, WayRelay, true, []Way{WayKnown, WayRouting}},

		{"through a relay after a silent address and a stuck routing system", func(t *testing.T, us host.Host) (Config, peer.AddrInfo) {
			relay := newRelay(t)
			loopback.Connect(t, us, relay)
			return Config{Routing: newStuckRouter()},
				peer.AddrInfo{ID: newHidden(t, relay).ID(), Addrs: []ma.Multiaddr{silentAddr(t)}}
		}, WayRelay, true, []Way{WayGiven, WayRouting}},
	} {
		t.Run(test.name, func(t *testing.T) {
			us := loopback.Host(t)
			cfg, target := test.arrange(t, us)
			cfg.Host = us
			s := start(t, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			route, err := s.Connect(ctx, target)
			if err != nil {
				t.Fatal(err)
			}
			if route.Peer != target.ID || route.Way != test.way || route.Relayed != test.relayed || route.Took <= 0 {
				t.Errorf("got %+v; want %q, relayed %v", route, test.way, test.relayed)
			}
			if isCircuit(route.Addr) != test.relayed {
				t.Errorf("address %s, relayed %v", route.Addr, test.relayed)
			}
			var tried []Way
			for _, a := range route.Tried {
				tried = append(tried, a.Way)
				if a.Err == nil {
					t.Errorf("%v has no error", a)
				}
			}
			if fmt.Sprint(tried) != fmt.Sprint(test.tried) {
				t.Errorf("tried %v, want %v", route.Tried, test.tried)
			}
			if !s.isConnected(target.ID) {
				t.Error("not connected")
			}
		})
	}
}

func TestConnectErrorNamesEachThingTried(t *testing.T) {
	us, them, relay, wrong := loopback.Host(t), loopback.Host(t), newRelay(t), loopback.Host(t)
	loopback.Connect(t, us, relay)
	given, known, found := closedAddr(t), closedAddr(t), closedAddr(t)
	us.Peerstore().AddAddrs(them.ID(), []ma.Multiaddr{known}, time.Hour)
	s := start(t, Config{Host: us, Routing: router{them.ID(): {ID: them.ID(), Addrs: []ma.Multiaddr{given, found}}}})

	for range 2 { // neither round leaves a back-off or an address for the next one
		_, err := s.Connect(testContext(t), peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{given}})
		failed, ok := errors.AsType[*ConnectError](err)
		if !ok || failed.Peer != them.ID() {
			t.Fatalf("got %v", err)
		}
		want := map[string]string{
			fmt.Sprintf("given address %s", given):              "connection refused",
			fmt.Sprintf("known address %s", known):              "connection refused",
			fmt.Sprintf("routing %s", found):                    "connection refused",
			fmt.Sprintf("relay %s", circuitVia(relay).String()): "NO_RESERVATION",
		}
		for _, line := range strings.Split(err.Error(), "\n")[1:] {
			found := false
			for what, why := range want {
				if strings.Contains(line, what) && strings.Contains(line, why) {
					delete(want, what)
					found = true
				}
			}
			if !found {
				t.Errorf("unexpected: %s", line)
			}
		}
		if len(want) > 0 {
			t.Errorf("not named: %v in:\n%v", want, err)
		}
		us.Peerstore().SetAddrs(them.ID(), []ma.Multiaddr{given, found}, 0)
		if left := us.Peerstore().Addrs(them.ID()); len(left) != 1 {
			t.Errorf("the peerstore was left with %v, want %v", left, known)
		}
	}

	s = start(t, Config{Host: wrong, Routing: router{them.ID(): loopback.Info(us)}})
	_, err := s.Connect(testContext(t), peer.AddrInfo{ID: them.ID()})
	for _, cause := range []error{errNothingKnown, errWrongPeer, errNoRelay} {
		if !errors.Is(err, cause) {
			t.Errorf("error does not wrap %q: %v", cause, err)
		}
	}
}

func TestConnectAtTheEndOfItsTime(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	s := start(t, Config{Host: us})
	silent := silentAddr(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.Connect(ctx, peer.AddrInfo{ID: them.ID(), Addrs: []ma.Multiaddr{silent}})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), silent.String()+": no answer") {
		t.Errorf("got %v", err)
	}
}

func TestConnectTriesAgainDespiteTheBackoff(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	info := loopback.Info(them)
	backoff := us.Network().(*libp2pswarm.Swarm).Backoff()
	backoff.AddBackoff(info.ID, info.Addrs[0])
	us.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
	if _, err := us.Network().DialPeer(testContext(t), info.ID); !errors.Is(err, libp2pswarm.ErrDialBackoff) {
		t.Fatalf("dial: %v, want a back-off", err)
	}
	if _, err := start(t, Config{Host: us}).Connect(testContext(t), info); err != nil {
		t.Error(err)
	}
}

func TestConnectRefuses(t *testing.T) {
	us := loopback.Host(t)
	s := start(t, Config{Host: us})
	if _, err := s.Connect(t.Context(), loopback.Info(us)); !errors.Is(err, ErrSelf) {
		t.Errorf("ourselves: %v", err)
	}
	if err := s.Keep(t.Context(), loopback.Info(us)); !errors.Is(err, ErrSelf) {
		t.Errorf("keep ourselves: %v", err)
	}
	if _, err := s.Connect(t.Context(), peer.AddrInfo{}); !errors.Is(err, peer.ErrEmptyPeerID) {
		t.Errorf("nobody: %v", err)
	}
}

func TestCloseEndsConnect(t *testing.T) {
	us, them, stuck := loopback.Host(t), loopback.Host(t), newStuckRouter()
	s := start(t, Config{Host: us, Routing: stuck})
	done := make(chan error, 1)
	go func() {
		_, err := s.Connect(testContext(t), peer.AddrInfo{ID: them.ID()})
		done <- err
	}()
	<-stuck.asked
	s.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestTwoPeersThatDialEachOtherAtOnceMeet(t *testing.T) {
	for range 30 {
		a, b := loopback.Host(t), loopback.Host(t)
		from := start(t, Config{Host: a})
		to := start(t, Config{Host: b})
		errs := make(chan error, 2)
		go func() {
			_, err := from.Connect(testContext(t), loopback.Info(b))
			errs <- err
		}()
		go func() {
			_, err := to.Connect(testContext(t), loopback.Info(a))
			errs <- err
		}()
		if err := errors.Join(<-errs, <-errs); err != nil {
			t.Error(err)
		}
	}
}

func TestConnectKnowsTheAddressesOfPinnedPeers(t *testing.T) {
	us, pinned := loopback.Host(t), loopback.Host(t)
	s := start(t, Config{Host: us, Pinned: []peer.AddrInfo{loopback.Info(pinned)}})
	route, err := s.Connect(t.Context(), peer.AddrInfo{ID: pinned.ID()})
	if err != nil || route.Way != WayKnown {
		t.Errorf("by %q, %v", route.Way, err)
	}
}
