package main

import (
	"context"
	"fmt"
	"time"
)

// joinBar is how long a peer of JavaScript may take to join from a daemon, by what
// it takes from JavaScript: no longer, but for what rounds differ by.
const joinBar = 1.05

// joinsWithin is the time after which no round of joining begins but the first two.
const joinsWithin = 4 * time.Minute

// kind is what a replica is.
type kind string

const (
	inJS     kind = "JavaScript"
	inDaemon kind = "daemon"
)

// way is from where to where entries go.
type way struct{ from, to kind }

func (w way) String() string { return fmt.Sprintf("%s → %s", w.from, w.to) }

func (w way) with(k kind) bool { return w.from == k || w.to == k }

// replicateBench is what the measurements of replication share.
type replicateBench struct {
	*bench
	js   *javaScript
	ways []way // those that can be measured
}

// benchReplicate measures the replication of databases.
func benchReplicate(ctx context.Context, b *bench) ([]*section, error) {
	js, err := installJavaScript(ctx, b)
	if err != nil {
		return nil, err
	}
	m := &replicateBench{bench: b, js: js}
	for _, w := range []way{{inJS, inJS}, {inDaemon, inJS}, {inJS, inDaemon}, {inDaemon, inDaemon}} {
		if js.missing == "" || !w.with(inJS) {
			m.ways = append(m.ways, w)
		}
	}
	var sections []*section
	for _, measure := range []func(context.Context) ([]*section, error){m.joins, m.live, m.open} {
		s, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		sections = append(sections, s...)
	}
	return sections, nil
}

func (m *replicateBench) start(ctx context.Context, k kind) (replica, error) {
	if k == inJS {
		return m.js.startReplica(ctx)
	}
	return startDaemonReplica(ctx, m.bench)
}

// settle is how long after anything memory is read.
func (m *replicateBench) settle() time.Duration { return time.Duration(m.pick(3, 1)) * time.Second }

// kinds are those of the ways.
func (m *replicateBench) kinds() []kind {
	if m.js.missing == "" {
		return []kind{inJS, inDaemon}
	}
	return []kind{inDaemon}
}

// joined is what it took to join a database.
type joined struct {
	took                         time.Duration
	before, after, most, settled float64 // resident memory of who joined, in MiB
}

// joins measures how fast a database comes to who does not have it.
func (m *replicateBench) joins(ctx context.Context) ([]*section, error) {
	const name = "joined"
	n, rounds := m.pick(10_000, 500), m.pick(3, 2)
	progress("put %d documents", n)
	kinds := m.kinds()
	writer, err := m.start(ctx, kinds[0])
	if err != nil {
		return nil, err
	}
	defer writer.stop()
	if err := writer.open(ctx, name); err != nil {
		return nil, err
	}
	head, err := writer.fill(ctx, name, n)
	if err != nil {
		return nil, err
	}
	holders := map[kind]replica{kinds[0]: writer}
	if len(kinds) > 1 {
		d, err := startDaemonReplica(ctx, m.bench)
		if err != nil {
			return nil, err
		}
		defer d.stop()
		if _, err := m.join(ctx, writer, d, name, n, head); err != nil {
			return nil, err
		}
		if err := d.disconnect(ctx, writer); err != nil {
			return nil, err
		}
		holders[inDaemon] = d
	}
	found := make(map[way][]joined)
	done, began := 0, time.Now()
	for ; done < rounds && (done < 2 || time.Since(began) < joinsWithin); done++ {
		for _, w := range m.ways {
			j, err := m.joinAnew(ctx, holders[w.from], w.to, name, n, head)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w, err)
			}
			progress("%s, round %d of %d: %s", w, done+1, rounds, j.took.Round(time.Millisecond))
			found[w] = append(found[w], j)
		}
	}
	return []*section{m.joinSection(n, done, found), m.joinMemorySection(n, found)}, nil
}

// joinAnew has a new replica join.
func (m *replicateBench) joinAnew(ctx context.Context, holder replica, k kind, name string, n int, head string) (j joined, err error) {
	r, err := m.start(ctx, k)
	if err != nil {
		return j, err
	}
	defer r.stop()
	return m.join(ctx, holder, r, name, n, head)
}

// join measures how long it takes from the moment at which a replica connects to
// the holder of a database until it has all of it.
func (m *replicateBench) join(ctx context.Context, holder, r replica, name string, n int, head string) (j joined, err error) {
	if err := r.open(ctx, name); err != nil {
		return j, err
	}
	if err := r.follow(ctx, name, n-1); err != nil {
		return j, err
	}
	addr, err := holder.addr(ctx)
	if err != nil {
		return j, err
	}
	read := func(field string, to *float64) {
		if err == nil {
			*to, err = r.memory(field)
		}
	}
	read("VmRSS", &j.before)
	if err != nil {
		return j, err
	}
	began := time.Now()
	if err := r.connect(ctx, addr); err != nil {
		return j, err
	}
	at, err := r.await(ctx, head)
	j.took = at.Sub(began)
	read("VmRSS", &j.after)
	read("VmHWM", &j.most)
	if err != nil {
		return j, err
	}
	if err := r.collectGarbage(ctx); err != nil {
		return j, err
	}
	if err := wait(ctx, m.settle()); err != nil {
		return j, err
	}
	read("VmRSS", &j.settled)
	if err != nil {
		return j, err
	}
	got, err := r.count(ctx, name)
	if err == nil && got != n {
		err = fmt.Errorf("%d entries are there, not %d", got, n)
	}
	return j, err
}

func (m *replicateBench) joinSection(n, rounds int, found map[way][]joined) *section {
	s := &section{
		title: fmt.Sprintf("Replication: %d documents to who has none", n),
		how: fmt.Sprintf("A database of documents of some 130 bytes, of one writer, is held by a peer in JavaScript, who wrote it, and by a daemon. "+
			"One that is new, of @orbitdb/core 4.0.0 with its default storage on Helia 6 with LevelDB, or a daemon, opens it, empty, and connects to one of them: "+
			"from that moment until it has all entries, as the update event in JavaScript and `npp/db/log?follow=true` of a daemon tell. %d rounds in turns.%s",
			rounds, m.js.without()),
	}
	s.row("from → to", "time", "entries", "ratio to JavaScript → JavaScript", "middle half")
	base := collect(found[way{inJS, inJS}], func(j joined) time.Duration { return j.took })
	for _, w := range m.ways {
		took := collect(found[w], func(j joined) time.Duration { return j.took })
		cells := []string{w.String(), ms(median(took)), fmt.Sprintf("%.0f /s", perSecond(n, median(took))), "", ""}
		if len(base) > 0 && w != (way{inJS, inJS}) {
			quotients := ratios(took, base)
			cells[3], cells[4] = ratio(quotients), spread(quotients)
			if w == (way{inDaemon, inJS}) {
				s.verdicts = append(s.verdicts, verdict{median(quotients) <= joinBar, fmt.Sprintf(
					"a new peer in JavaScript is to have %d documents from a daemon no later than from JavaScript, give or take %.0f %%; it takes %s of the time.",
					n, 100*(joinBar-1), ratio(quotients))})
			}
		}
		s.row(cells...)
	}
	return s
}

// joinMemorySection is about those who joined.
func (m *replicateBench) joinMemorySection(n int, found map[way][]joined) *section {
	s := &section{
		title: fmt.Sprintf("Replication: memory of who joined %d documents", n),
		how: fmt.Sprintf("Resident memory (VmRSS, and VmHWM for the most) of the process that had nothing, in the rounds of before: before it connects, when it has all entries, "+
			"and %.0f s after a garbage collection.", m.settle().Seconds()),
	}
	s.row("from → to", "before", "after", "most", "after a garbage collection")
	for _, w := range m.ways {
		cells := []string{w.String()}
		for _, of := range []func(joined) float64{
			func(j joined) float64 { return j.before },
			func(j joined) float64 { return j.after },
			func(j joined) float64 { return j.most },
			func(j joined) float64 { return j.settled },
		} {
			cells = append(cells, mib(median(collect(found[w], of))))
		}
		s.row(cells...)
	}
	return s
}

func mib(v float64) string { return fmt.Sprintf("%.1f MiB", v) }

// live measures how soon what is put is at a peer.
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
	const first = 20 // that do not count
	puts := m.pick(200, 30)
	progress("put %d documents a way", puts)
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
		how: fmt.Sprintf("Two peers in JavaScript and two daemons, with a database for each way; one put at a time, the ways in turns, %d puts each after %d that do not count. "+
			"From just before the put until the reader has joined it. In JavaScript both moments are those of its own process (`put`, the update event). Of a daemon they are those of its client, "+
			"before `npp/db/put` and when the line comes from `npp/db/log?follow=true`, so that its RPC is part of it, as is the disk that it syncs, which JavaScript does not.%s%s",
			puts, first, m.clocks(writers, readers), m.js.without()),
	}
	s.row("from → to", "p50", "p90", "longest", "the put is answered after, p50")
	for _, w := range m.ways {
		s.row(w.String(), ms(median(took[w])), ms(percentile(took[w], 90)), ms(percentile(took[w], 100)), ms(median(answered[w])))
	}
	return []*section{s}, nil
}

// clocks says how exact the comparison of times of processes is.
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
	return fmt.Sprintf(" The clocks were compared to %s.", us(off))
}

// meshAfter is how long peers take to make a mesh of pubsub, which they do once a
// second.
const meshAfter = 3 * time.Second

// open measures the memory of a daemon by the number of its databases.
func (m *replicateBench) open(ctx context.Context) ([]*section, error) {
	counts := []int{0, 1, 100, 500}
	rounds := m.pick(3, 1)
	resident, settled, heap := make([][]float64, len(counts)), make([][]float64, len(counts)), make([][]float64, len(counts))
	round := func() error {
		d, err := startDaemonReplica(ctx, m.bench)
		if err != nil {
			return err
		}
		defer d.stop()
		for at, made := 0, 0; at < len(counts); at++ {
			progress("%d databases", counts[at])
			for ; made < counts[at]; made++ {
				if err := d.open(ctx, fmt.Sprint("open ", made)); err != nil {
					return err
				}
			}
			if err := wait(ctx, m.settle()); err != nil {
				return err
			}
			rss, err := d.memory("VmRSS")
			if err != nil {
				return err
			}
			live, err := d.heap(ctx)
			if err != nil {
				return err
			}
			if err := wait(ctx, m.settle()); err != nil {
				return err
			}
			after, err := d.memory("VmRSS")
			if err != nil {
				return err
			}
			resident[at], settled[at], heap[at] = append(resident[at], rss), append(settled[at], after), append(heap[at], live)
		}
		return nil
	}
	for range rounds {
		if err := round(); err != nil {
			return nil, err
		}
	}
	s := &section{
		title: "Replication: memory of a daemon by its databases",
		how: fmt.Sprintf("One daemon makes databases, besides its own two, which are all open and replicated, with nobody. Resident memory (VmRSS) %.0f s after the last was made and %.0f s after a garbage collection; "+
			"live objects on the heap at that; %d rounds.", m.settle().Seconds(), m.settle().Seconds(), rounds),
	}
	s.row("databases", "resident", "resident after a garbage collection", "heap")
	for at, n := range counts {
		s.row(fmt.Sprint(n), mib(median(resident[at])), mib(median(settled[at])), mib(median(heap[at])))
	}
	last := len(counts) - 1
	each := func(of [][]float64) string {
		kib := differences(of[last], of[1])
		return fmt.Sprintf("%.1f KiB", 1024*median(kib)/float64(counts[last]-counts[1]))
	}
	s.row("for each more", each(resident), each(settled), each(heap))
	return []*section{s}, nil
}
