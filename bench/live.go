package main

import (
	"context"
	"fmt"
	"time"
)

// liveBar is the longest time from a put at one daemon until another has it.
const liveBar = 20 * time.Millisecond

// live measures the time from a put until a peer has it.
func (m *replicateBench) live(ctx context.Context) ([]*section, error) {
	writers, readers := make(map[kind]replica), make(map[kind]replica)
	for _, k := range m.kinds() {
		for _, to := range []map[kind]replica{writers, readers} {
			r, err := m.start(ctx, k)
			if err != nil {
				return nil, err
			}
			defer r.stop()
			to[k] = r
		}
	}
	for _, w := range m.ways {
		from, to := writers[w.from], readers[w.to]
		addr, err := from.addr(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range []replica{from, to} {
			if err := r.open(ctx, w.String()); err != nil {
				return nil, err
			}
		}
		if err := to.follow(ctx, w.String(), 0); err != nil {
			return nil, err
		}
		if err := to.connect(ctx, addr); err != nil {
			return nil, err
		}
	}
	if err := wait(ctx, meshAfter); err != nil {
		return nil, err
	}
	const first = 20 // these do not count
	puts := m.pick(200, 30)
	progress("put %d documents in each direction", puts)
	took, answered := make(map[way][]time.Duration), make(map[way][]time.Duration)
	for i := range first + puts {
		for _, w := range m.ways {
			put, err := writers[w.from].put(ctx, w.String(), i)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w, err)
			}
			at, err := readers[w.to].await(ctx, put.hash)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w, err)
			}
			if i >= first {
				took[w] = append(took[w], at.Sub(put.began))
				answered[w] = append(answered[w], put.took)
			}
		}
	}
	s := &section{
		title: "Replication: from a put until a peer has it",
		how: fmt.Sprintf("Two peers in JavaScript and two daemons, with a database for each direction; one put at a time, the directions in turns, %d puts each after %d that do not count. "+
			"The time is from just before the put until the reader has joined the entry. In JavaScript, the process itself takes both times (at `put` and at the update event). For a daemon, its client takes them, "+
			"before `npp/db/put` and at the line of `npp/db/log?follow=true`, so they include the RPC, and the sync of the disk, which JavaScript omits.%s%s",
			puts, first, m.clocks(writers, readers), m.js.without()),
	}
	s.row("from → to", "p50", "p90", "longest", "put returns after, p50")
	for _, w := range m.ways {
		s.row(w.String(), ms(median(took[w])), ms(percentile(took[w], 90)), ms(percentile(took[w], 100)), ms(median(answered[w])))
	}
	p50 := median(took[amongDaemons])
	s.verdict(p50 <= liveBar, "a put at one daemon is at another within %d ms; the p50 is %s.", liveBar.Milliseconds(), ms(p50))
	return []*section{s}, nil
}

// clocks states how exactly the clocks of processes were compared.
func (m *replicateBench) clocks(sides ...map[kind]replica) string {
	off := time.Duration(0)
	for _, side := range sides {
		if js, ok := side[inJS].(*jsReplica); ok {
			off = max(off, js.off)
		}
	}
	if off == 0 {
		return ""
	}
	return fmt.Sprintf(" The clocks agree within %s.", us(off))
}

// meshAfter is how long peers take to form a pubsub mesh; they do so once a
// second.
const meshAfter = 3 * time.Second
