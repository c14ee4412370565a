package swarm

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/test/loopback"
)

// step is the part of an Event that the test compares.
type step struct {
	id        peer.ID
	connected bool
}

func TestWatchNeitherLosesNorDoubles(t *testing.T) {
	const rounds, watchersEach = 15, 10
	us, marker := loopback.Host(t), loopback.Host(t)
	s := start(t, Config{Host: us})
	ctx := testContext(t)

	// observe follows until the marker connects.
	observe := func() (list map[peer.ID]bool, steps []step) {
		peers, events := s.Watch(ctx)
		list = make(map[peer.ID]bool)
		for _, p := range peers {
			list[p.ID] = true
		}
		for e, err := range events {
			if err != nil {
				t.Error(err)
				return
			}
			if e.Connected && e.Peer.ID == marker.ID() {
				return
			}
			steps = append(steps, step{e.Peer.ID, e.Connected})
		}
		t.Error("the marker never came")
		return
	}

	var observers, churn sync.WaitGroup
	var all []step
	started := make(chan struct{})
	observers.Go(func() {
		peers, events := s.Watch(ctx)
		close(started)
		if len(peers) > 0 {
			t.Errorf("listed before any connection: %v", peers)
		}
		for e := range events {
			if e.Connected && e.Peer.ID == marker.ID() {
				return
			}
			all = append(all, step{e.Peer.ID, e.Connected})
		}
	})
	<-started

	type observation struct {
		list  map[peer.ID]bool
		steps []step
	}
	var mu sync.Mutex
	var observations []observation
	var others []host.Host
	for range 6 {
		others = append(others, loopback.Host(t))
	}
	for i, h := range others {
		churn.Go(func() {
			for round := range rounds {
				if i%2 == 0 {
					loopback.Connect(t, us, h)
				} else {
					loopback.Connect(t, h, us)
				}
				if round < watchersEach {
					observers.Go(func() {
						list, steps := observe()
						mu.Lock()
						defer mu.Unlock()
						observations = append(observations, observation{list, steps})
					})
				}
				us.Network().ClosePeer(h.ID())
				h.Network().ClosePeer(us.ID())
			}
			loopback.Connect(t, us, h)
		})
	}
	churn.Wait()
	loopback.Connect(t, us, marker)
	observers.Wait()

	// The first observer saw everything: each of its steps is a change.
	states := []map[peer.ID]bool{{}}
	for i, st := range all {
		state := maps.Clone(states[i])
		if state[st.id] == st.connected {
			t.Fatalf("step %d is no change: %v", i, st)
		}
		if st.connected {
			state[st.id] = true
		} else {
			delete(state, st.id)
		}
		states = append(states, state)
	}
	if len(all) < 2*rounds {
		t.Errorf("only %d events: nothing was tested", len(all))
	}
	for _, h := range others {
		if !states[len(all)][h.ID()] {
			t.Errorf("%s is connected, but the events say otherwise", h.ID())
		}
	}
	// Each other observer saw the end of the same sequence, starting from its
	// list.
	if len(observations) != 6*watchersEach {
		t.Fatalf("%d observations", len(observations))
	}
	for _, o := range observations {
		from := len(all) - len(o.steps)
		if from < 0 || !slices.Equal(all[from:], o.steps) {
			t.Error("a watcher's events are not those of the others")
		} else if !maps.Equal(o.list, states[from]) {
			t.Error("a watcher's list is not what its events go on from")
		}
	}
}

func TestConnectEventHasThePeersDetails(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	s := start(t, Config{Host: us})
	_, events := s.Watch(testContext(t))
	loopback.Connect(t, us, them)
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		if !e.Connected || e.Peer.ID != them.ID() || e.Peer.Addr == nil || e.At.IsZero() || e.Peer.Since.After(e.At) {
			t.Errorf("got %+v", e)
		}
		return
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	s := start(t, Config{Host: loopback.Host(t)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, events := s.Watch(ctx)
	s.record(Event{Peer: Peer{ID: "x"}, Connected: true})
	s.record(Event{Peer: Peer{ID: "y"}, Connected: true})
	n := 0
	for _, err := range events {
		if err != nil {
			t.Errorf("ended with %v", err)
		}
		n++
		cancel()
	}
	if n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	for range events {
		t.Error("an event after the end")
	}
	if len(s.watchers) > 0 {
		t.Error("the watcher is still registered")
	}
}

func TestSlowWatcherEndsAndDelaysNoOther(t *testing.T) {
	s := start(t, Config{Host: loopback.Host(t)})
	_, slow := s.Watch(t.Context())
	const total = maxWatchQueue + 10
	for i := range total {
		s.record(Event{Peer: Peer{ID: "x"}, Connected: i%2 == 0})
	}
	list, quick := s.Watch(t.Context())
	if len(list) != 0 {
		t.Errorf("listed %v, want nobody", list)
	}
	s.record(Event{Peer: Peer{ID: "y"}, Connected: true})
	for e, err := range quick {
		if err != nil || e.Peer.ID != "y" {
			t.Errorf("the quick watcher got %v, %v", e, err)
		}
		break
	}
	n := 0
	var end error
	for e, err := range slow {
		if end = err; err != nil {
			continue
		}
		if e.Connected != (n%2 == 0) {
			t.Fatalf("event %d out of order", n)
		}
		n++
	}
	if n != maxWatchQueue || !errors.Is(end, ErrTooSlow) {
		t.Errorf("ended after %d events with %v; want %d and %v", n, end, maxWatchQueue, ErrTooSlow)
	}
}
