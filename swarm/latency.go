package swarm

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

const (
	// latencyFresh is how long a measured latency is valid.
	latencyFresh = 30 * time.Second

	// pingTimeout is how long a measurement waits for the peer.
	pingTimeout = 10 * time.Second

	// maxPings is how many peers are measured at a time.
	maxPings = 64
)

// measurement is the last measurement of a peer's latency. Its fields except
// done are guarded by Swarm.mu.
type measurement struct {
	done    chan struct{} // closed at its end
	latency time.Duration // 0 if the peer did not answer, or not yet
	at      time.Time     // when it ended; zero before that
}

// fresh reports whether the measurement ended within latencyFresh.
func (m *measurement) fresh() bool { return time.Since(m.at) < latencyFresh }

// Measure measures, by libp2p's ping, the latency of each connected peer that
// was not measured within the last 30 seconds. It returns when all peers have
// answered or ctx is done. Unfinished measurements continue in the background;
// each takes at most 10 seconds, and 64 run at a time. [Swarm.Peers] returns
// the results.
func (s *Swarm) Measure(ctx context.Context) {
	for _, m := range s.beginMeasuring() {
		select {
		case <-m.done:
		case <-ctx.Done():
			return
		}
	}
}

// beginMeasuring starts the measurements that are due and returns all that run.
func (s *Swarm) beginMeasuring() (running []*measurement) {
	ids := s.net.Peers()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	for _, id := range ids {
		m := s.measured[id]
		if m == nil || !m.at.IsZero() && !m.fresh() {
			m = &measurement{done: make(chan struct{})}
			s.measured[id] = m
			s.tasks.Go(func() { s.measure(id, m) })
		}
		if m.at.IsZero() {
			running = append(running, m)
		}
	}
	if len(s.measured) > len(ids) { // a disconnect was announced before the measurement began
		maps.DeleteFunc(s.measured, func(id peer.ID, _ *measurement) bool { return !slices.Contains(ids, id) })
	}
	return running
}

// measure runs a measurement.
func (s *Swarm) measure(id peer.ID, m *measurement) {
	defer close(m.done)
	latency := s.ping(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	m.latency, m.at = latency, time.Now()
}

// ping returns the latency of a connected peer, or 0 if it does not answer.
func (s *Swarm) ping(id peer.ID) time.Duration {
	select {
	case s.pings <- struct{}{}:
		defer func() { <-s.pings }()
	case <-s.ctx.Done():
		return 0
	}
	ctx, cancel := context.WithTimeout(s.ctx, pingTimeout)
	defer cancel()
	r := <-ping.Ping(network.WithNoDial(ctx, "measure latency"), s.cfg.Host, id)
	if r.Error != nil {
		return 0
	}
	return r.RTT
}

// latencyOf returns the latency of a peer and the time of its measurement, or
// zeros if no measurement is fresh.
func (s *Swarm) latencyOf(id peer.ID) (latency time.Duration, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.measured[id]
	if m == nil || m.latency == 0 || !m.fresh() {
		return 0, time.Time{}
	}
	return m.latency, m.at
}
