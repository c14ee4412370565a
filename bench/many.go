package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/newpieceplease/npp/test/ipfs"
	"github.com/newpieceplease/npp/test/offline"
)

// The bars for a daemon with many databases.
const (
	manyIdleBar  = 1.0 // percent of a core
	manyAnonBar  = 60  // MiB over an empty daemon
	manyReadyBar = time.Second
	manyStopBar  = 2 * time.Second
	manyRowBar   = 50 * time.Millisecond
)

// counts is a flag with numbers of databases, separated by commas.
type counts []int

func (c *counts) String() string {
	var texts []string
	for _, n := range *c {
		texts = append(texts, strconv.Itoa(n))
	}
	return strings.Join(texts, ",")
}

// Set implements [flag.Value].
func (c *counts) Set(text string) error {
	*c = nil
	for field := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a number of databases", field)
		}
		*c = append(*c, n)
	}
	return nil
}

// manyFlags are the parameters of the measurements of many databases. Zero
// values stand for defaults, which depend on -quick.
type manyFlags struct {
	before                     string // binary to compare with; "" for none
	databases, databasesBefore counts
	common, commonBefore       counts
	differ                     int
	idle                       time.Duration
}

func (f *manyFlags) define(s *flag.FlagSet) {
	s.StringVar(&f.before, "before", "", "many: path of an ipfs binary with which npp's is compared, such as one of the commit before")
	s.Var(&f.databases, "databases", "many: numbers of databases in a daemon")
	s.Var(&f.databasesBefore, "databases-before", "many: the same for the binary before")
	s.Var(&f.common, "common", "many: numbers of databases that two daemons have in common")
	s.Var(&f.commonBefore, "common-before", "many: the same for the binary before")
	s.IntVar(&f.differ, "differ", 0, "many: databases in common that differ")
	s.DurationVar(&f.idle, "idle", 0, "many: the interval in which the processor time of an idle daemon is measured")
}

// manyBench is the state that the measurements of many databases share.
type manyBench struct {
	*bench
	manyFlags
	sides  []manySide
	source *source
}

// manySide is a binary, and the numbers of databases with which it is measured.
type manySide struct {
	name, bin         string
	databases, common counts
}

// benchMany measures daemons with many databases.
func benchMany(ctx context.Context, b *bench) ([]*section, error) {
	m := &manyBench{bench: b, manyFlags: b.many}
	if m.idle == 0 {
		m.idle = time.Duration(b.pick(60, 10)) * time.Second
	}
	if m.differ == 0 {
		m.differ = b.pick(100, 20)
	}
	if m.before != "" {
		before, err := filepath.Abs(m.before)
		if err != nil {
			return nil, err
		}
		m.sides = append(m.sides, manySide{
			name: "before", bin: before,
			databases: m.databasesBefore.or(b.pick(5000, 1000), b.pick(10_000, 2000)),
			common:    m.commonBefore.or(fewDatabases, b.pick(2000, 500)),
		})
	}
	m.sides = append(m.sides, manySide{
		name: "npp", bin: b.npp,
		databases: m.databases.or(b.pick(100_000, 2000)),
		common:    m.common.or(fewDatabases, b.pick(10_000, 500)),
	})
	defer func() { m.source.remove() }()
	var sections []*section
	for _, measure := range []func(context.Context) (*section, error){m.inOne, m.inCommon} {
		s, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		sections = append(sections, s)
	}
	return sections, nil
}

// or returns c, or defaults if there are none.
func (c counts) or(defaults ...int) counts {
	if c == nil {
		return defaults
	}
	return c
}

// source is a repo from which databases are copied. Its methods may be called
// on nil, which has none.
type source struct {
	*node
	addresses []string
}

func (s *source) remove() {
	if s != nil {
		os.RemoveAll(s.Repo)
	}
}

// seeded returns a repo with n databases. It adds them to the previous one, if
// that has fewer.
func (m *manyBench) seeded(ctx context.Context, n int) (*source, error) {
	if m.source == nil || len(m.source.addresses) > n {
		m.source.remove()
		repo, err := newNode(ctx, m.bench, m.npp, nil)
		if err != nil {
			return nil, err
		}
		m.source = &source{node: repo}
	}
	s := m.source
	d, err := offline.Open(ctx, s.Repo)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	told := time.Now()
	return s, d.Seed(ctx, len(s.addresses), n, func(address string) {
		s.addresses = append(s.addresses, address)
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			progress("seeded %d of %d databases", len(s.addresses), n)
		}
	})
}

// holder returns a node with a copy of n databases, and their addresses. The
// caller drops it.
func (m *manyBench) holder(ctx context.Context, bin string, n int, changes ipfs.Config) (*node, []string, error) {
	s, err := m.seeded(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	to, err := newNode(ctx, m.bench, bin, changes)
	if err != nil {
		return nil, nil, err
	}
	return to, s.addresses, offline.Copy(s.Repo, to.Repo)
}

// drop stops a node and removes its repo.
func (n *node) drop() {
	n.stop()
	os.RemoveAll(n.Repo)
}

// The settling of a daemon after its start.
const (
	restsBelow    = 0.3 // of a core
	restsFor      = 3   // seconds
	restsPatience = 4 * time.Minute
)

// settle waits until the daemon has taken little processor time for some
// seconds, and returns how long that took, including those. It returns false if
// the daemon does not come to rest.
func (n *node) settle(ctx context.Context) (took time.Duration, rests bool, err error) {
	began := time.Now()
	for calm := 0; calm < restsFor && time.Since(began) < restsPatience; {
		load, err := n.cpuOver(ctx, time.Second)
		if err != nil {
			return 0, false, err
		}
		if calm++; load > restsBelow {
			calm = 0
		}
		rests = calm == restsFor
	}
	return time.Since(began), rests, nil
}

// cpuOver returns the processor time that the daemon takes in an interval, as a
// share of a core.
func (n *node) cpuOver(ctx context.Context, interval time.Duration) (float64, error) {
	before, err := processCPU(n.pid())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := wait(ctx, interval); err != nil {
		return 0, err
	}
	after, err := processCPU(n.pid())
	return float64(after-before) / float64(time.Since(began)), err
}

// goroutines returns the number of goroutines of the daemon.
func (n *node) goroutines(ctx context.Context) (total int, err error) {
	text, err := n.profile(ctx, "goroutine?debug=1")
	if err == nil {
		_, err = fmt.Sscanf(text, "goroutine profile: total %d", &total)
	}
	return total, err
}

// manyCost is what a daemon with a number of databases costs.
type manyCost struct {
	side              manySide
	databases         int
	ready, stop       []time.Duration
	settled           time.Duration
	rests             bool
	anon, live        float64 // MiB
	collected         float64 // MiB, after a garbage collection
	goroutines        int
	idle              [2]float64      // of a core, without providing and with it
	info, again       []time.Duration // the first call of a database, and the second
	puts, putsAtOnce  float64
	failures          int
	firstRow, lastRow []time.Duration
	failed            error // why the rest is missing
}

// inOne measures daemons with many databases, one at a time.
func (m *manyBench) inOne(ctx context.Context) (*section, error) {
	// A daemon whose DHT has no peer provides nothing, and searches for
	// nothing.
	other, err := startNode(ctx, m.bench, m.stock, nil)
	if err != nil {
		return nil, err
	}
	defer other.drop()
	addr, err := other.addr(ctx)
	if err != nil {
		return nil, err
	}
	var costs []*manyCost
	for _, s := range m.sides {
		for _, n := range append(counts{0}, s.databases...) {
			costs = append(costs, &manyCost{side: s, databases: n})
		}
	}
	// The sides take turns, and the source grows.
	inTurns := slices.Clone(costs)
	slices.SortStableFunc(inTurns, func(a, b *manyCost) int { return a.databases - b.databases })
	for _, c := range inTurns {
		progress("%s: %d databases", c.side.name, c.databases)
		if c.failed = m.measure(ctx, c, addr); ctx.Err() != nil {
			return nil, c.failed
		}
		if c.failed != nil {
			progress("%s: %d databases: %v", c.side.name, c.databases, c.failed)
		}
	}
	return m.report(costs), nil
}

// measure fills c, up to the first error.
func (m *manyBench) measure(ctx context.Context, c *manyCost, dht string) error {
	n, addresses, err := m.holder(ctx, c.side.bin, c.databases, nil)
	if err != nil {
		return err
	}
	defer n.drop()
	phases := []struct {
		provide bool
		run     func(context.Context, *manyCost, *node, []string) error
	}{
		{false, m.rest(0)},
		{true, m.rest(1)},
		{false, m.use},
	}
	for _, phase := range phases {
		if err := n.Configure(ipfs.Config{"Provide.Enabled": phase.provide}); err != nil {
			return err
		}
		if err := n.start(ctx); err != nil {
			return err
		}
		c.ready = append(c.ready, n.ready)
		if err := n.connect(ctx, dht); err != nil {
			return err
		}
		if c.settled, c.rests, err = n.settle(ctx); err != nil {
			return err
		}
		c.settled += n.ready
		if err := phase.run(ctx, c, n, addresses); err != nil {
			return err
		}
		if n.stop(); n.killed {
			return fmt.Errorf("the daemon did not stop within %s", stopPatience)
		}
		c.stop = append(c.stop, n.stopped)
	}
	return nil
}

// rest returns the measurement of an idle daemon. Its memory is read in the
// first one only.
func (m *manyBench) rest(which int) func(context.Context, *manyCost, *node, []string) error {
	return func(ctx context.Context, c *manyCost, n *node, _ []string) (err error) {
		if c.idle[which], err = n.cpuOver(ctx, m.idle); err != nil || which > 0 {
			return err
		}
		if c.anon, err = n.memory("RssAnon"); err != nil {
			return err
		}
		if c.goroutines, err = n.goroutines(ctx); err != nil {
			return err
		}
		if c.live, err = n.heap(ctx); err != nil {
			return err
		}
		if err := wait(ctx, settleAfter); err != nil {
			return err
		}
		c.collected, err = n.memory("RssAnon")
		return err
	}
}

// use measures calls that name random databases, which nobody used before, and
// lists all databases.
func (m *manyBench) use(ctx context.Context, c *manyCost, n *node, addresses []string) error {
	if len(addresses) == 0 {
		return nil
	}
	addresses = shuffled(addresses)
	next := 0
	name := func() url.Values {
		next++
		return url.Values{"arg": {addresses[next%len(addresses)]}}
	}
	for range m.pick(300, 50) {
		query := name()
		for _, took := range []*[]time.Duration{&c.info, &c.again} {
			began := time.Now()
			if _, err := n.rpc.Call(ctx, "npp/db/info", query, nil); err != nil {
				return err
			}
			*took = append(*took, time.Since(began))
		}
	}
	for _, burst := range []struct {
		rate          *float64
		calls, atOnce int
	}{{&c.puts, m.pick(500, 100), 1}, {&c.putsAtOnce, m.pick(2000, 200), atOnce}} {
		names := make(chan url.Values, burst.calls)
		for range burst.calls {
			names <- name()
		}
		_, took, failed := load(burst.calls, burst.atOnce, func() error {
			_, err := n.rpc.Call(ctx, "npp/db/put", <-names, []byte(`{"_id":"put","title":"Sonata"}`))
			return err
		})
		*burst.rate = perSecond(burst.calls-failed, took)
		c.failures += failed
	}
	for range m.pick(5, 3) {
		first, last, err := n.listDatabases(ctx, nil)
		if err != nil {
			return err
		}
		c.firstRow, c.lastRow = append(c.firstRow, first), append(c.lastRow, last)
	}
	return nil
}

// shuffled returns the texts in an order that is random, and always the same.
func shuffled(texts []string) []string {
	out := make([]string, len(texts))
	for i, k := range rand.New(rand.NewPCG(1, 2)).Perm(len(texts)) {
		out[i] = texts[k]
	}
	return out
}

// listDatabases reads `npp db ls` and returns the durations until its first row
// and its last. It sets the number of entries by address, unless entries is
// nil.
func (n *node) listDatabases(ctx context.Context, entries map[string]int) (first, last time.Duration, err error) {
	began := time.Now()
	resp, err := n.rpc.Stream(ctx, "npp/db/ls", nil, nil)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	rows := bufio.NewScanner(resp.Body)
	for rows.Scan() {
		if first == 0 {
			first = time.Since(began)
		}
		if entries == nil {
			continue
		}
		var row struct {
			Address string
			Entries int
		}
		if err := json.Unmarshal(rows.Bytes(), &row); err != nil {
			return 0, 0, err
		}
		entries[row.Address] = row.Entries
	}
	last = time.Since(began)
	switch {
	case rows.Err() != nil:
		err = rows.Err()
	case resp.Trailer.Get("X-Stream-Error") != "":
		err = errors.New(resp.Trailer.Get("X-Stream-Error"))
	case first == 0:
		err = errors.New("npp/db/ls has no row")
	}
	return first, last, err
}

// report shows a column for each cost.
func (m *manyBench) report(costs []*manyCost) *section {
	s := &section{
		title: "Many databases in one daemon",
		how: fmt.Sprintf("Databases of %d documents by another identity, each with an access list of its own that lets anybody write, written into the repo before the daemon starts. "+
			"The daemon starts three times: idle with `Provide.Enabled` off, idle with it on, and to be called. A stock daemon is connected, so that the DHT has a peer. "+
			"Ready and stop are medians of the three; stop is from SIGTERM to the end of the process. A daemon is settled when it took at most %.0f %% of a core in each of %d seconds, which are part of that time. "+
			"The processor time is that of the process over %s; memory is read after that, and %.0f s after a garbage collection. `db info` and `db put` name random databases that were not used since the start. "+
			"`db ls` is read %d times.", offline.DocumentsOf, 100*restsBelow, restsFor, m.idle, settleAfter.Seconds(), m.pick(5, 3)),
	}
	empty := make(map[string]*manyCost)
	for _, c := range costs {
		if c.databases == 0 {
			empty[c.side.name] = c
		}
	}
	over := func(figure func(*manyCost) float64) func(*manyCost) string {
		return func(c *manyCost) string {
			if c.databases == 0 {
				return mib(figure(c))
			}
			return fmt.Sprintf("%+.1f MiB", figure(c)-figure(empty[c.side.name]))
		}
	}
	header := []string{""}
	for _, c := range costs {
		header = append(header, fmt.Sprintf("%s, %d", c.side.name, c.databases))
	}
	s.row(header...)
	for _, r := range []struct {
		name string
		cell func(*manyCost) string
	}{
		{"ready", func(c *manyCost) string { return someMS(c.ready) }},
		{"settled since the start", (*manyCost).settledText},
		{"idle, providing off, of a core", func(c *manyCost) string { return percent(c.idle[0]) }},
		{"idle, providing on, of a core", func(c *manyCost) string { return percent(c.idle[1]) }},
		{"RssAnon; over empty", over(func(c *manyCost) float64 { return c.anon })},
		{"RssAnon after a garbage collection; over empty", over(func(c *manyCost) float64 { return c.collected })},
		{"live heap; over empty", over(func(c *manyCost) float64 { return c.live })},
		{"goroutines", func(c *manyCost) string { return strconv.Itoa(c.goroutines) }},
		{"`db ls`: first row", func(c *manyCost) string { return someMS(c.firstRow) }},
		{"`db ls`: last row", func(c *manyCost) string { return someMS(c.lastRow) }},
		{"`db info`, p50", func(c *manyCost) string { return someMS(c.info) }},
		{"`db info`, p90", func(c *manyCost) string { return someMS(c.info, 90) }},
		{"`db info` again, p50", func(c *manyCost) string { return someMS(c.again) }},
		{"`db put`, in sequence", func(c *manyCost) string { return someRate(c.puts) }},
		{fmt.Sprintf("`db put`, %d at once", atOnce), func(c *manyCost) string { return someRate(c.putsAtOnce) }},
		{"`db put` that fail", func(c *manyCost) string { return strconv.Itoa(c.failures) }},
		{"stop", func(c *manyCost) string { return someMS(c.stop) }},
		{"what fails", (*manyCost).failedText},
	} {
		cells := []string{r.name}
		for _, c := range costs {
			cells = append(cells, r.cell(c))
		}
		s.row(cells...)
	}
	most := costs[len(costs)-1]
	m.judge(s, most, empty[most.side.name])
	return s
}

// judge compares the cost of the most databases with the bars.
func (m *manyBench) judge(s *section, c, empty *manyCost) {
	if c.failed != nil {
		s.verdict(false, "%d databases: %v.", c.databases, c.failed)
		return
	}
	for i, providing := range []string{"off", "on"} {
		s.verdict(100*c.idle[i] <= manyIdleBar, "with %d databases, an idle daemon takes at most %.0f %% of a core with providing %s; it takes %s, an empty one %s.",
			c.databases, manyIdleBar, providing, percent(c.idle[i]), percent(empty.idle[i]))
	}
	s.verdict(c.anon-empty.anon <= manyAnonBar, "it takes at most %d MiB of anonymous memory over an empty daemon; it takes %s.", manyAnonBar, mib(c.anon-empty.anon))
	s.verdict(median(c.ready) <= manyReadyBar, "it is ready within %s; it takes %s.", manyReadyBar, ms(median(c.ready)))
	s.verdict(median(c.stop) <= manyStopBar, "it stops within %s; it takes %s.", manyStopBar, ms(median(c.stop)))
	s.verdict(median(c.firstRow) <= manyRowBar, "`db ls` has its first row within %s; it takes %s.", manyRowBar, ms(median(c.firstRow)))
}

func (c *manyCost) settledText() string {
	if !c.rests {
		return "never"
	}
	return fmt.Sprintf("%.0f s", c.settled.Seconds())
}

func (c *manyCost) failedText() string {
	if c.failed == nil {
		return ""
	}
	text, _, _ := strings.Cut(c.failed.Error(), "\n")
	return fmt.Sprintf("%.120s", text)
}

// someMS formats a percentile of durations, the median by default; "" if there
// are none.
func someMS(durations []time.Duration, p ...int) string {
	if len(durations) == 0 {
		return ""
	}
	return ms(percentile(durations, append(p, 50)[0]))
}

func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }

// someRate formats a rate; "" if none was measured.
func someRate(perSecond float64) string {
	if perSecond == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f /s", perSecond)
}
