package swarm

import (
	"context"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"

	"github.com/newpieceplease/npp/test/loopback"
)

// shown returns a host as another swarm lists it.
func shown(t *testing.T, s *Swarm, h host.Host) Peer {
	t.Helper()
	for _, p := range s.Peers() {
		if p.ID == h.ID() {
			return p
		}
	}
	t.Fatalf("%s is not connected", h.ID())
	return Peer{}
}

func TestLatencyIsFreshOrAbsent(t *testing.T) {
	us, them := loopback.Host(t), loopback.Host(t)
	pings := make(chan struct{}, 10)
	ponger := &ping.PingService{Host: them}
	them.SetStreamHandler(ping.ID, func(st network.Stream) {
		pings <- struct{}{}
		ponger.PingHandler(st)
	})
	s := start(t, Config{Host: us})
	loopback.Connect(t, us, them)
	await(t, s, them.ID(), true)

	// A measurement of an unknown time says nothing about the present.
	us.Peerstore().RecordLatency(them.ID(), 7*time.Millisecond)
	if p := shown(t, s, them); p.Latency != 0 || !p.Measured.IsZero() {
		t.Errorf("before it is measured: %v at %v", p.Latency, p.Measured)
	}
	before := time.Now()
	s.Measure(testContext(t))
	p := shown(t, s, them)
	if p.Latency <= 0 || p.Latency > time.Since(before) || p.Measured.Before(before) || p.Measured.After(time.Now()) {
		t.Errorf("measured %v at %v", p.Latency, p.Measured)
	}
	s.Measure(testContext(t))
	if again := shown(t, s, them); again.Measured != p.Measured || len(pings) != 1 {
		t.Errorf("measured twice within a moment: %d times", len(pings))
	}

	old := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.measured[them.ID()].at = time.Now().Add(-latencyFresh)
	}
	old()
	if p := shown(t, s, them); p.Latency != 0 || !p.Measured.IsZero() {
		t.Errorf("an old measurement is shown: %v at %v", p.Latency, p.Measured)
	}
	s.Measure(testContext(t))
	if p := shown(t, s, them); p.Latency <= 0 || len(pings) != 2 {
		t.Errorf("after %d measurements: %v", len(pings), p.Latency)
	}

	// A new connection may have another latency.
	if err := us.Network().ClosePeer(them.ID()); err != nil {
		t.Fatal(err)
	}
	await(t, s, them.ID(), false)
	loopback.Connect(t, us, them)
	await(t, s, them.ID(), true)
	if p := shown(t, s, them); p.Latency != 0 {
		t.Errorf("the latency of the connection before is shown: %v", p.Latency)
	}
}

// A peer that does not answer delays no caller beyond its context, and has no
// latency.
func TestPeerThatDoesNotAnswerHasNoLatency(t *testing.T) {
	us, silent, deaf, them := loopback.Host(t), loopback.Host(t), loopback.Host(t), loopback.Host(t)
	asked, release := make(chan struct{}), make(chan struct{})
	silent.SetStreamHandler(ping.ID, func(st network.Stream) {
		defer st.Reset()
		close(asked)
		<-release
	})
	deaf.RemoveStreamHandler(ping.ID)
	s := start(t, Config{Host: us})
	for _, h := range []host.Host{silent, deaf, them} {
		loopback.Connect(t, us, h)
		await(t, s, h.ID(), true)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		<-asked
		for _, h := range []host.Host{deaf, them} {
			s.mu.Lock()
			m := s.measured[h.ID()]
			s.mu.Unlock()
			<-m.done
		}
	}()
	s.Measure(ctx)
	s.mu.Lock()
	waiting := s.measured[silent.ID()].at.IsZero()
	s.mu.Unlock()
	if !waiting {
		t.Error("it was waited for the peer that does not answer")
	}
	if shown(t, s, silent).Latency != 0 || shown(t, s, deaf).Latency != 0 || shown(t, s, them).Latency <= 0 {
		t.Errorf("%+v", s.Peers())
	}
	close(release)
	s.Measure(testContext(t))
	if p := shown(t, s, silent); p.Latency != 0 {
		t.Errorf("a peer that reset the stream: %v", p.Latency)
	}
}

func TestCloseEndsMeasurements(t *testing.T) {
	us, silent := loopback.Host(t), loopback.Host(t)
	asked, release := make(chan struct{}), make(chan struct{})
	silent.SetStreamHandler(ping.ID, func(st network.Stream) {
		defer st.Reset()
		close(asked)
		<-release
	})
	defer close(release)
	s := start(t, Config{Host: us})
	loopback.Connect(t, us, silent)
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		s.Measure(testContext(t))
	}()
	<-asked
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	<-measured
	if took := time.Since(begin); took >= pingTimeout {
		t.Errorf("it ended after %v, by its own timeout", took)
	}
	s.Measure(testContext(t)) // which does nothing
}
