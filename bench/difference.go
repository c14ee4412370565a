package main

import (
	"context"
	"fmt"
	"time"
)

// The bars for a peer that lacks a few entries of many.
const (
	apartTimeBar  = 200 * time.Millisecond
	apartBytesBar = 32 << 10
)

// apartEntries is the number of entries that are put while two daemons are
// disconnected.
const apartEntries = 10

// apartWindow is the time after connecting in which bytes are counted.
const apartWindow = 3 * time.Second

// apart is two disconnected daemons that have one database and were in sync.
type apart struct {
	*holding
	peer *daemonReplica // the one that connects
	puts int            // so far, beyond the entries of the holding
}

// resync is the cost of getting in sync again.
type resync struct {
	connected, took time.Duration
	bytes           int64
}

// difference measures how soon two daemons are in sync again.
func (m *replicateBench) difference(ctx context.Context) ([]*section, error) {
	h, err := m.hold(ctx, inDaemon, m.pick(100_000, 2000))
	if err != nil {
		return nil, err
	}
	defer h.stop()
	peer, err := startDaemonReplica(ctx, m.bench)
	if err != nil {
		return nil, err
	}
	defer peer.stop()
	a := &apart{holding: h, peer: peer}
	if err := a.begin(ctx); err != nil {
		return nil, err
	}
	cases := []struct {
		name    string
		writers []replica
		found   []resync
	}{ // puts at one daemon merge the two heads that puts at both daemons leave
		{name: fmt.Sprint(apartEntries, " at each"), writers: []replica{h.replica, peer}},
		{name: fmt.Sprint(apartEntries, " at one"), writers: []replica{h.replica}},
		{name: "none"},
	}
	rounds := m.pick(5, 3)
	for round := range rounds {
		for i := range cases {
			c := &cases[i]
			found, err := a.meet(ctx, c.writers)
			if err != nil {
				return nil, fmt.Errorf("missing: %s: %w", c.name, err)
			}
			progress("missing: %s, round %d of %d: in step after %s, %d bytes", c.name, round+1, rounds, found.took.Round(time.Millisecond), found.bytes)
			c.found = append(c.found, found)
		}
	}
	for _, r := range []replica{h.replica, peer} {
		if err := complete(ctx, r, h.name, h.n+a.puts); err != nil {
			return nil, err
		}
	}
	s := &section{
		title: fmt.Sprintf("Replication: %d missing entries of %d", apartEntries, h.n),
		how: fmt.Sprintf("Two daemons have a database of %d documents and are disconnected. Then documents are put one after another at one daemon, or different ones at each, and one daemon connects to the other through a proxy on loopback that counts bytes. "+
			"The time is from just before `swarm/connect` until both have all entries, as `npp/db/log?follow=true` reports. The bytes are those in both directions within %.0f s of the start. "+
			"They include the handshake, identify and subscriptions of any two daemons that connect. With no entry missing, they are those and the exchange that shows that the two are in step. "+
			"%d rounds in turns; differences are taken within a round.", h.n, apartWindow.Seconds(), rounds),
	}
	s.row("missing", "connected after, p50", "in step after, p50", "longest", "bytes", "most bytes", "more than with none missing")
	alone := collect(cases[len(cases)-1].found, resyncBytes)
	for _, c := range cases {
		bytes := collect(c.found, resyncBytes)
		cells := []string{c.name, ms(median(collect(c.found, func(f resync) time.Duration { return f.connected }))), "", "",
			fmt.Sprint(median(bytes)), fmt.Sprint(percentile(bytes, 100)), ""}
		if len(c.writers) > 0 {
			took := collect(c.found, func(f resync) time.Duration { return f.took })
			cells[2], cells[3], cells[6] = ms(median(took)), ms(percentile(took, 100)), fmt.Sprint(median(differences(bytes, alone)))
			s.verdict(median(took) <= apartTimeBar, "%s of %d missing: the daemons are in step within %d ms of connecting; they take %s.",
				c.name, h.n, apartTimeBar.Milliseconds(), ms(median(took)))
			s.verdict(median(bytes) <= apartBytesBar, "%s of %d missing: at most %d KiB cross; %.1f KiB do, of which %.1f KiB cross with none missing.",
				c.name, h.n, apartBytesBar>>10, float64(median(bytes))/1024, float64(median(alone))/1024)
		}
		s.row(cells...)
	}
	return []*section{s}, nil
}

func resyncBytes(f resync) int { return int(f.bytes) }

// begin makes the peer join, and disconnects the two daemons.
func (a *apart) begin(ctx context.Context) error {
	if err := a.peer.open(ctx, a.name); err != nil {
		return err
	}
	if err := a.peer.follow(ctx, a.name, a.n-1); err != nil {
		return err
	}
	if err := a.follow(ctx, a.name, a.n); err != nil {
		return err
	}
	return a.connected(ctx, func(w *wire) error {
		if err := a.peer.connect(ctx, w.addr); err != nil {
			return err
		}
		_, err := a.peer.await(ctx, a.head)
		return err
	})
}

// connected runs do with a wire that connects the two daemons, and then cuts
// it.
func (a *apart) connected(ctx context.Context, do func(*wire) error) error {
	w, err := newWire(a.at)
	if err != nil {
		return err
	}
	defer w.close()
	if err := do(w); err != nil {
		return err
	}
	if err := w.carries(ctx, a.peer); err != nil {
		return err
	}
	w.close()
	for _, r := range []replica{a.replica, a.peer} {
		err := await(ctx, "the daemons to notice that the wire is cut", func() (bool, error) {
			conns, err := r.connections(ctx)
			return len(conns) == 0, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// meet makes each writer put entries, and connects the two daemons.
func (a *apart) meet(ctx context.Context, writers []replica) (f resync, err error) {
	lacks := make(map[replica]string) // the last entry that each replica lacks
	for _, r := range writers {
		reader := replica(a.peer)
		if r == reader {
			reader = a.replica
		}
		for range apartEntries {
			put, err := r.put(ctx, a.name, a.n+a.puts)
			if err != nil {
				return f, err
			}
			lacks[reader] = put.hash
			a.puts++
		}
	}
	err = a.connected(ctx, func(w *wire) error {
		began := time.Now()
		if err := a.peer.connect(ctx, w.addr); err != nil {
			return err
		}
		f.connected = time.Since(began)
		for r, hash := range lacks {
			at, err := r.await(ctx, hash)
			if err != nil {
				return err
			}
			f.took = max(f.took, at.Sub(began))
		}
		if err := wait(ctx, time.Until(began.Add(apartWindow))); err != nil {
			return err
		}
		f.bytes = w.crossed()
		return nil
	})
	return f, err
}
