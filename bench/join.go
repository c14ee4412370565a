package main

import (
	"context"
	"fmt"
	"time"
)

// The bars for joining. The first is for a peer in JavaScript that joins: from
// a daemon it takes no longer than from JavaScript, within the variation
// between rounds. The others are for a daemon that joins from a daemon: its
// speed relative to JavaScript alone; the share of its rate, in entries per
// second, that is left with ten times as many entries; and its memory relative
// to the smaller database, with an allowance that does not depend on the number
// of entries.
const (
	joinBar        = 1.05
	joinSpeedBar   = 15
	joinLinearBar  = 0.6
	joinMemoryBar  = 1.5
	joinMemoryOver = 32 // MiB
)

// joinsWithin is the time after which no further round begins, except the first
// two.
const joinsWithin = 6 * time.Minute

// joined is the cost of joining a database.
type joined struct {
	took          time.Duration
	to, from      int64 // bytes to and from the joining peer
	giver, joiner use
	settled       float64 // final resident memory of the joining peer, in MiB
}

// joinSize is the cost of joining a database of one size.
type joinSize struct {
	n      int
	ways   []way
	rounds int
	found  map[way][]joined
}

// joins measures the transfer of a database to a peer that has none of it.
func (m *replicateBench) joins(ctx context.Context) ([]*section, error) {
	all := []*joinSize{{n: m.pick(1000, 100)}, {n: m.pick(10_000, 500)}, {n: m.pick(100_000, 5000)}}
	for _, w := range m.ways {
		if w == amongJS || w == amongDaemons {
			all[0].ways = append(all[0].ways, w)
		}
		all[1].ways = append(all[1].ways, w)
		if w == amongDaemons {
			all[2].ways = append(all[2].ways, w)
		}
	}
	for _, size := range all {
		if err := m.joinsOf(ctx, size); err != nil {
			return nil, err
		}
	}
	return []*section{m.joinTimes(all), m.joinCosts(all), m.joinMemory(all)}, nil
}

func (m *replicateBench) joinsOf(ctx context.Context, size *joinSize) error {
	holders := make(map[kind]*holding)
	for _, w := range size.ways {
		if holders[w.from] != nil {
			continue
		}
		h, err := m.hold(ctx, w.from, size.n)
		if err != nil {
			return err
		}
		defer h.stop()
		holders[w.from] = h
	}
	size.found = make(map[way][]joined)
	rounds, began := m.pick(3, 2), time.Now()
	for ; size.rounds < rounds && (size.rounds < 2 || time.Since(began) < joinsWithin); size.rounds++ {
		for _, w := range size.ways {
			j, err := m.join(ctx, holders[w.from], w.to)
			if err != nil {
				return fmt.Errorf("%d documents, %s: %w", size.n, w, err)
			}
			progress("%d documents, %s, round %d of %d: %s", size.n, w, size.rounds+1, rounds, j.took.Round(time.Millisecond))
			size.found[w] = append(size.found[w], j)
		}
	}
	return nil
}

// join makes a new replica join over a wire. It measures from the moment at
// which the wire connects to the holder until the replica has all entries.
func (m *replicateBench) join(ctx context.Context, h *holding, k kind) (j joined, err error) {
	r, err := m.start(ctx, k)
	if err != nil {
		return j, err
	}
	defer r.stop()
	if err := r.open(ctx, h.name); err != nil {
		return j, err
	}
	if err := r.follow(ctx, h.name, h.n-1); err != nil {
		return j, err
	}
	w, err := newWire(h.at)
	if err != nil {
		return j, err
	}
	defer w.close()
	if j.giver, err = beginUse(h.pid()); err != nil {
		return j, err
	}
	if j.joiner, err = beginUse(r.pid()); err != nil {
		return j, err
	}
	began := time.Now()
	if err := r.connect(ctx, w.addr); err != nil {
		return j, err
	}
	at, err := r.await(ctx, h.head)
	if err != nil {
		return j, err
	}
	j.took, j.to, j.from = at.Sub(began), w.from.Load(), w.to.Load()
	for _, u := range []*use{&j.giver, &j.joiner} {
		if err := u.end(); err != nil {
			return j, err
		}
	}
	if err := r.collectGarbage(ctx); err != nil {
		return j, err
	}
	if err := wait(ctx, m.settle()); err != nil {
		return j, err
	}
	if j.settled, err = processMemory(r.pid(), "VmRSS"); err != nil {
		return j, err
	}
	if err := complete(ctx, r, h.name, h.n); err != nil {
		return j, err
	}
	return j, w.carries(ctx, r)
}

// of returns one figure of each round.
func of[T int | float64 | time.Duration](size *joinSize, w way, figure func(joined) T) []T {
	return collect(size.found[w], figure)
}

func tookOf(j joined) time.Duration { return j.took }

// faster returns the speed of a way relative to JavaScript alone, or nothing
// without JavaScript.
func (size *joinSize) faster(w way) []float64 {
	if len(size.found[amongJS]) == 0 {
		return nil
	}
	return ratios(of(size, amongJS, tookOf), of(size, w, tookOf))
}

// rate is in entries per second.
func (size *joinSize) rate(w way) float64 { return perSecond(size.n, median(of(size, w, tookOf))) }

func (m *replicateBench) joinTimes(all []*joinSize) *section {
	s := &section{
		title: "Replication: joining an empty peer",
		how: fmt.Sprintf("A peer in JavaScript or a daemon holds a database of documents of about 130 bytes, which it wrote alone; the daemon was restarted afterwards. "+
			"A new peer opens the database, empty, and connects to the holder. It is a daemon, or @orbitdb/core 4.0.0 with its default storage on Helia 6 with LevelDB. "+
			"The time is from that moment until it has all entries, as reported by the update event in JavaScript and by `npp/db/log?follow=true` of a daemon; %s rounds in turns. "+
			"The only connection goes through a proxy on loopback that counts bytes, in every direction. "+
			"%s%s\n\n"+
			"Measured earlier, not in this run, on two virtual cores of an Intel Xeon: go-orbit-db, over an in-memory network and a direct channel, "+
			"took 0.7 s to append and replicate 200 entries, 1.4 s for 500, and 2.2 to 2.9 s for 1000, about 400 entries per second; 3 of 15 runs of 1000 stalled before the end. "+
			"It put 4000 entries at 174 per second.",
			roundsOf(all), leftOut(all[1], all[2]), m.js.without()),
	}
	s.row("documents", "from → to", "time", "entries", "speed relative to JavaScript → JavaScript", "middle half")
	for _, size := range all {
		for _, w := range size.ways {
			cells := []string{fmt.Sprint(size.n), w.String(), ms(median(of(size, w, tookOf))), fmt.Sprintf("%.0f /s", size.rate(w)), "", ""}
			if faster := size.faster(w); len(faster) > 0 && w != amongJS {
				cells[4], cells[5] = ratio(faster), spread(faster)
			}
			s.row(cells...)
		}
	}
	middle, large := all[1], all[2]
	if faster := middle.faster(way{inDaemon, inJS}); len(faster) > 0 {
		s.verdict(median(faster) >= 1/joinBar,
			"a new peer in JavaScript gets %d documents from a daemon as fast as from JavaScript, within %.0f %%; it is %s times as fast.",
			middle.n, 100*(joinBar-1), ratio(faster))
	}
	if faster := middle.faster(amongDaemons); len(faster) > 0 {
		s.verdict(median(faster) >= joinSpeedBar, "a new daemon gets %d documents from a daemon at least %d times as fast as JavaScript from JavaScript; it is %s times as fast.",
			middle.n, joinSpeedBar, ratio(faster))
	}
	part := large.rate(amongDaemons) / middle.rate(amongDaemons)
	s.verdict(part >= joinLinearBar, "with %d documents, a daemon joins at least %.1f times as many per second as with %d; it joins %.2f times as many.",
		large.n, joinLinearBar, middle.n, part)
	return s
}

// leftOut states that peers in JavaScript join the middle database but not the
// large one.
func leftOut(middle, large *joinSize) string {
	if len(middle.found[amongJS]) == 0 {
		return ""
	}
	takes := time.Duration(float64(large.n) / middle.rate(amongJS) * float64(time.Second))
	return fmt.Sprintf("JavaScript does not join %d documents: at its rate for %d, a round would take %s.", large.n, middle.n, takes.Round(time.Second))
}

// roundsOf returns the smallest and the largest number of rounds.
func roundsOf(all []*joinSize) string {
	fewest, most := all[0].rounds, all[0].rounds
	for _, size := range all {
		fewest, most = min(fewest, size.rounds), max(most, size.rounds)
	}
	if fewest == most {
		return fmt.Sprint(most)
	}
	return fmt.Sprintf("%d to %d", fewest, most)
}

// joinCosts reports bytes and processor time.
func (m *replicateBench) joinCosts(all []*joinSize) *section {
	s := &section{
		title: "Replication: the cost of joining",
		how: "The same rounds. Bytes over the connection from its start until all entries are there, including those of libp2p itself, without the headers of TCP and IP. " +
			"Processor time (user and system, `/proc/<pid>/stat`) of both processes in that time: relative to the time, which is the number of cores in use, and per entry. " +
			"Its unit is a hundredth of a second, which is coarse for short measurements.",
	}
	s.row("documents", "from → to", "bytes per entry, to the joiner", "from the joiner", "cores, giver", "cores, joiner", "CPU per entry, giver", "CPU per entry, joiner")
	for _, size := range all {
		n := float64(size.n)
		for _, w := range size.ways {
			bytes := func(figure func(joined) int64) string {
				return fmt.Sprintf("%.0f B", median(of(size, w, func(j joined) float64 { return float64(figure(j)) / n })))
			}
			cores := func(side func(joined) use) string {
				return fmt.Sprintf("%.2f", median(of(size, w, func(j joined) float64 { return side(j).cpu.Seconds() / j.took.Seconds() })))
			}
			cpu := func(side func(joined) use) string {
				return us(median(of(size, w, func(j joined) time.Duration { return side(j).cpu })) / time.Duration(size.n))
			}
			s.row(fmt.Sprint(size.n), w.String(),
				bytes(func(j joined) int64 { return j.to }), bytes(func(j joined) int64 { return j.from }),
				cores(giverOf), cores(joinerOf), cpu(giverOf), cpu(joinerOf))
		}
	}
	return s
}

func giverOf(j joined) use  { return j.giver }
func joinerOf(j joined) use { return j.joiner }

func (m *replicateBench) joinMemory(all []*joinSize) *section {
	s := &section{
		title: "Replication: memory of joining",
		how: fmt.Sprintf("Resident memory (VmRSS; the peak is VmHWM, reset before) of both processes in the same rounds: before the joiner connects, the peak until it has all entries, at that moment, "+
			"and %.0f s after a garbage collection; and the growth per entry since before, which with few entries is the memory of a connection. The giver in JavaScript has just put the documents.", m.settle().Seconds()),
	}
	s.row("documents", "from → to", "giver, before", "giver, peak", "joiner, before", "peak", "at the end", "after a garbage collection", "growth per entry")
	for _, size := range all {
		for _, w := range size.ways {
			cells := []string{fmt.Sprint(size.n), w.String()}
			for _, figure := range []func(joined) float64{
				func(j joined) float64 { return j.giver.before },
				giverMost,
				func(j joined) float64 { return j.joiner.before },
				joinerMost,
				func(j joined) float64 { return j.joiner.after },
				func(j joined) float64 { return j.settled },
			} {
				cells = append(cells, mib(median(of(size, w, figure))))
			}
			more := median(of(size, w, func(j joined) float64 { return j.settled - j.joiner.before }))
			s.row(append(cells, fmt.Sprintf("%.2f KiB", 1024*more/float64(size.n)))...)
		}
	}
	middle, large := all[1], all[2]
	for _, side := range []struct {
		who  string
		most func(joined) float64
	}{{"a daemon that joins", joinerMost}, {"a daemon that gives", giverMost}} {
		base, most := median(of(middle, amongDaemons, side.most)), median(of(large, amongDaemons, side.most))
		bar := joinMemoryBar*base + joinMemoryOver
		s.verdict(most <= bar, "with %d documents, the resident memory of %s is at most %.1f times that with %d, plus %d MiB, which is %s; the peak is %s.",
			large.n, side.who, joinMemoryBar, middle.n, joinMemoryOver, mib(bar), mib(most))
	}
	return s
}

func giverMost(j joined) float64  { return j.giver.most }
func joinerMost(j joined) float64 { return j.joiner.most }

func mib(v float64) string { return fmt.Sprintf("%.1f MiB", v) }
