package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/newpieceplease/npp/test/ipfs"
	"github.com/newpieceplease/npp/test/offline"
)

// The bars for two daemons with many databases in common.
const (
	commonBar      = 3 * time.Second
	commonBytesBar = 1 << 20
)

// fewDatabases is a number of databases whose cost does not matter.
const fewDatabases = 10

// The waits for what a daemon with too many databases may never do.
const (
	commonPatience  = time.Minute // until the databases that differ are the same
	confirmPatience = time.Minute // until all are known to be
	livePatience    = time.Minute // until the live entries arrived
	confirmEvery    = time.Second
)

// liveSlack is the quotient of two latencies that count as the same.
const liveSlack = 1.2

// never is the duration until an event that did not come in time.
const never = time.Duration(math.MaxInt64)

// meeting is the measurement of two daemons with a number of databases in
// common.
type meeting struct {
	side              manySide
	databases, differ int
	rounds            []*pair
}

// pair is two daemons with databases in common.
type pair struct {
	*meeting

	nodes     [2]*node
	addresses []string
	want      map[string]int    // entries of each database in the end
	lacking   [2]map[string]int // the same, of those that a node does not have whole
	wire      *wire             // to the second node

	began           time.Time     // of the connection
	took, confirmed time.Duration // since then
	bytes, all      int64         // that crossed the wire until then
	inStep          int           // databases that both daemons know to be in sync
	idle            float64       // of a core, of the daemon that takes more
	wrong           int           // databases with other entries in the end
	live, put       []time.Duration
	failed          error // what did not come in time, and what ended the measurement
}

// inCommon measures two daemons with many databases in common.
func (m *manyBench) inCommon(ctx context.Context) (*section, error) {
	var meetings []*meeting
	for _, s := range m.sides {
		for _, n := range s.common {
			meetings = append(meetings, &meeting{side: s, databases: n, differ: min(m.differ, n)})
		}
	}
	inTurns := slices.Clone(meetings)
	slices.SortStableFunc(inTurns, func(a, b *meeting) int { return a.databases - b.databases })
	for range m.commonRounds() {
		for _, of := range inTurns {
			progress("%s: %d databases in common", of.side.name, of.databases)
			p := &pair{meeting: of, took: never, confirmed: never}
			err := m.meet(ctx, p)
			p.stop()
			if ctx.Err() != nil {
				return nil, err
			}
			if p.failed = errors.Join(p.failed, err); p.failed != nil {
				progress("%s: %d databases in common: %v", of.side.name, of.databases, p.failed)
			}
			of.rounds = append(of.rounds, p)
		}
	}
	return m.reportMeetings(meetings), nil
}

func (m *manyBench) commonRounds() int { return m.pick(3, 1) }

func (m *manyBench) idleInCommon() time.Duration { return m.idle / 3 }

// meet makes, connects and measures a pair. What a daemon does not do in time
// is in p.failed.
func (m *manyBench) meet(ctx context.Context, p *pair) error {
	if err := m.divide(ctx, p); err != nil {
		return err
	}
	for _, n := range p.nodes {
		if err := n.start(ctx); err != nil {
			return err
		}
		if _, _, err := n.settle(ctx); err != nil {
			return err
		}
	}
	for i, n := range p.nodes {
		wrong, err := n.differing(ctx, p.want)
		if err == nil && wrong != len(p.lacking[i]) {
			err = fmt.Errorf("%d databases differ before the connection, want %d", wrong, len(p.lacking[i]))
		}
		if err != nil {
			return err
		}
	}
	addr, err := p.nodes[1].rpc.ListenAddr(ctx)
	if err != nil {
		return err
	}
	if p.wire, err = newWire(addr); err != nil {
		return err
	}
	rest := func(ctx context.Context) error { return p.rest(ctx, m.idleInCommon()) }
	follow := func(ctx context.Context) error { return p.follow(ctx, m.pick(200, 30)) }
	for _, step := range []func(context.Context) error{p.reconcile, p.confirm, rest, follow} {
		if err := step(ctx); ctx.Err() != nil {
			return err
		} else if err != nil {
			p.failed = errors.Join(p.failed, err)
		}
	}
	for _, n := range p.nodes {
		wrong, err := n.differing(ctx, p.want)
		if err != nil {
			return err
		}
		p.wrong = max(p.wrong, wrong)
	}
	return nil
}

// divide makes two repos with the same databases. Of those that differ, each
// repo has an entry more in every other one.
func (m *manyBench) divide(ctx context.Context, p *pair) (err error) {
	p.want = make(map[string]int)
	for i := range p.nodes {
		p.lacking[i] = make(map[string]int)
		if p.nodes[i], p.addresses, err = m.holder(ctx, p.side.bin, p.databases, ipfs.Hidden); err != nil {
			return err
		}
	}
	for _, address := range p.addresses {
		p.want[address] = offline.DocumentsOf
	}
	for i, n := range p.nodes {
		d, err := offline.Open(ctx, n.Repo)
		if err != nil {
			return err
		}
		defer d.Close()
		for k := i; k < p.differ; k += 2 {
			address := p.addresses[k*p.databases/p.differ]
			if err := d.Put(ctx, address, map[string]any{"_id": "newer", "title": "Sonata"}); err != nil {
				return err
			}
			p.want[address]++
			p.lacking[1-i][address] = p.want[address]
		}
	}
	return nil
}

func (p *pair) stop() {
	for _, n := range p.nodes {
		if n != nil {
			n.drop()
		}
	}
	if p.wire != nil {
		p.wire.close()
	}
}

// differing returns how many databases do not have the wanted number of
// entries.
func (n *node) differing(ctx context.Context, want map[string]int) (wrong int, err error) {
	got := make(map[string]int)
	if _, _, err := n.listDatabases(ctx, got); err != nil {
		return 0, err
	}
	for address, entries := range want {
		if got[address] != entries {
			wrong++
		}
	}
	return wrong, nil
}

// reconcile connects the daemons and waits until they have the same entries. It
// asks for those databases that differ only, for one at a time.
func (p *pair) reconcile(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commonPatience)
	defer cancel()
	p.began = time.Now()
	if err := p.nodes[0].connect(ctx, p.wire.addr); err != nil {
		return err
	}
	defer func() { p.bytes = p.wire.crossed() }()
	came := 0
	for i, lacking := range p.lacking {
		for address, entries := range lacking {
			err := await(ctx, fmt.Sprintf("the %d databases that differ to be the same, of which %d are", p.differ, came), func() (bool, error) {
				r := daemonReplica{node: p.nodes[i], addresses: map[string]string{"": address}}
				info, err := r.info(ctx, "")
				return info.Entries == entries, err
			})
			if err != nil {
				return err
			}
			came++
		}
	}
	p.took = time.Since(p.began)
	return nil
}

// confirm waits until both daemons know that all databases are in sync.
func (p *pair) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmPatience)
	defer cancel()
	for {
		p.inStep = p.databases
		for _, n := range p.nodes {
			known, err := n.inStep(ctx, p.want)
			if err != nil {
				return err
			}
			p.inStep = min(p.inStep, known)
		}
		p.all = p.wire.crossed()
		if p.inStep == p.databases {
			p.confirmed = time.Since(p.began)
			return nil
		}
		if err := wait(ctx, confirmEvery); err != nil {
			return fmt.Errorf("%d of %d databases are known to be in sync %s later: %w", p.inStep, p.databases, confirmPatience, err)
		}
	}
}

// inStep counts the databases that the daemon knows to be in sync with a peer.
func (n *node) inStep(ctx context.Context, of map[string]int) (known int, err error) {
	resp, err := n.rpc.Stream(ctx, "npp/db/peers", nil, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for rows := json.NewDecoder(bufio.NewReader(resp.Body)); rows.More(); {
		var row struct {
			Database string
			InStep   *time.Time
		}
		if err := rows.Decode(&row); err != nil {
			return 0, err
		}
		if _, ok := of[row.Database]; ok && row.InStep != nil {
			known++
		}
	}
	return known, nil
}

// rest measures both daemons while nothing happens.
func (p *pair) rest(ctx context.Context, interval time.Duration) error {
	var shares [2]float64
	var errs [2]error
	var both sync.WaitGroup
	for i, n := range p.nodes {
		both.Go(func() { shares[i], errs[i] = n.cpuOver(ctx, interval) })
	}
	both.Wait()
	p.idle = max(shares[0], shares[1])
	return errors.Join(errs[:]...)
}

// follow measures the time from a put at the first daemon until the second one
// has it, in a new database.
func (p *pair) follow(ctx context.Context, puts int) error {
	ctx, cancel := context.WithTimeout(ctx, livePatience)
	defer cancel()
	const name, warmUp = "live", 20
	var ends [2]*daemonReplica
	for i, n := range p.nodes {
		ends[i] = &daemonReplica{n, make(map[string]string), make(inbox, inboxSize)}
		if err := ends[i].open(ctx, name); err != nil {
			return err
		}
	}
	if err := ends[1].follow(ctx, name, 0); err != nil {
		return err
	}
	if err := wait(ctx, meshAfter); err != nil {
		return err
	}
	for i := range warmUp + puts {
		put, err := ends[0].put(ctx, name, i)
		if err != nil {
			return err
		}
		at, err := ends[1].await(ctx, put.hash)
		if err != nil {
			return fmt.Errorf("put %d of %d did not arrive: %w", i, puts, err)
		}
		if i >= warmUp {
			p.live, p.put = append(p.live, at.Sub(put.began)), append(p.put, put.took)
		}
	}
	return nil
}

// reportMeetings shows a column for each meeting.
func (m *manyBench) reportMeetings(meetings []*meeting) *section {
	s := &section{
		title: "Many databases in common",
		how: fmt.Sprintf("Two daemons with the same databases, of which some differ: in each of these, one of the daemons has an entry more, half of them at either side. "+
			"They are connected once both are settled, over a proxy that counts bytes. The time is from the request to connect until `db info` at either daemon shows all entries. "+
			"Then `db peers` is read, every %s, until both daemons know of all databases that they are in sync. The processor time of an idle daemon is that of the one that takes more, over %s. At last one daemon puts documents into a new database, one at a time, "+
			"and the other one follows its log, as in \"from a put until a peer has it\". %d rounds in turns. \"Never\" is not within %s.",
			confirmEvery, m.idleInCommon(), m.commonRounds(), commonPatience),
	}
	header := []string{""}
	for _, of := range meetings {
		header = append(header, fmt.Sprintf("%s, %d", of.side.name, of.databases))
	}
	s.row(header...)
	for _, r := range []struct {
		name string
		cell func(*meeting) string
	}{
		{"databases that differ", func(of *meeting) string { return strconv.Itoa(of.differ) }},
		{"until they are the same", func(of *meeting) string { return reached(of.middle(took)) }},
		{"KiB on the wire until then", func(of *meeting) string { return kib(of.rounds, tookBytes) }},
		{"until all are known to be in sync", func(of *meeting) string { return reached(of.middle(confirmed)) }},
		{"KiB on the wire until then", func(of *meeting) string { return kib(of.rounds, confirmedBytes) }},
		{"known to be in sync", func(of *meeting) string { return strconv.Itoa(median(collect(of.rounds, inStep))) }},
		{"idle afterwards, of a core", func(of *meeting) string { return percent(median(collect(of.rounds, idle))) }},
		{"databases that differ in the end", func(of *meeting) string { return strconv.Itoa(median(collect(of.rounds, wrong))) }},
		{"from a put until the other has it, p50", func(of *meeting) string { return reached(of.middle(live)) }},
		{"the same, p90", func(of *meeting) string {
			return reached(of.middle(func(p *pair) time.Duration { return percentileOr(p.live, 90) }))
		}},
		{"the put returns after, p50", func(of *meeting) string {
			return reached(of.middle(func(p *pair) time.Duration { return percentileOr(p.put, 50) }))
		}},
		{"rounds in which something fails", func(of *meeting) string { return strconv.Itoa(sum(collect(of.rounds, failures))) }},
	} {
		cells := []string{r.name}
		for _, of := range meetings {
			cells = append(cells, r.cell(of))
		}
		s.row(cells...)
	}
	m.judgeMeetings(s, meetings[0], meetings[len(meetings)-1])
	return s
}

// judgeMeetings compares the meeting with the most databases with the bars, and
// with the first one, which has few.
func (m *manyBench) judgeMeetings(s *section, few, most *meeting) {
	s.verdict(most.middle(took) <= commonBar, "of %d databases in common, the %d that differ are the same within %s of the connection; it takes %s.",
		most.databases, most.differ, commonBar, reached(most.middle(took)))
	s.verdict(median(collect(most.rounds, tookBytes)) <= commonBytesBar, "that takes at most %d KiB on the wire; it takes %s.", commonBytesBar>>10, kib(most.rounds, tookBytes))
	s.verdict(float64(most.middle(live)) <= liveSlack*float64(few.middle(live)), "an entry is as soon at the other daemon as with %d databases (%s), within %.0f %%; it takes %s, there %s.",
		few.databases, few.side.name, 100*(liveSlack-1), reached(most.middle(live)), reached(few.middle(live)))
}

// middle returns the median of a duration over the rounds.
func (of *meeting) middle(figure func(*pair) time.Duration) time.Duration {
	return median(collect(of.rounds, figure))
}

func took(p *pair) time.Duration      { return p.took }
func confirmed(p *pair) time.Duration { return p.confirmed }
func live(p *pair) time.Duration      { return percentileOr(p.live, 50) }
func tookBytes(p *pair) int           { return int(p.bytes) }
func confirmedBytes(p *pair) int      { return int(p.all) }
func inStep(p *pair) int              { return p.inStep }
func idle(p *pair) float64            { return p.idle }
func wrong(p *pair) int               { return p.wrong }

// failures is 1 if something failed.
func failures(p *pair) int {
	if p.failed != nil {
		return 1
	}
	return 0
}

// percentileOr returns a percentile of durations; never if there are none.
func percentileOr(durations []time.Duration, p int) time.Duration {
	if len(durations) == 0 {
		return never
	}
	return percentile(durations, p)
}

// reached formats the duration until an event.
func reached(d time.Duration) string {
	if d == never {
		return "never"
	}
	return ms(d)
}

// kib formats the median of a number of bytes.
func kib(rounds []*pair, figure func(*pair) int) string {
	return fmt.Sprintf("%d", median(collect(rounds, figure))>>10)
}
