package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/newpieceplease/npp/library"
	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/identity"
)

// The bars for databases.
const (
	putBar     = 4  // single puts, relative to @orbitdb/core
	atOnceBar  = 15 // the same, 16 at once
	putManyBar = 30 // PutMany, relative to single puts of @orbitdb/core

	growthBar    = 1.3 // a put, relative to one in a small database
	getBar       = 40 * time.Microsecond
	getGrowthBar = 2 // a get, relative to one in a small database
	openBar      = 50 * time.Millisecond
	heapBar      = 40 // MiB
)

// small is the number of documents in the database with which a large one is
// compared.
const small = 1000

// benchOrbit measures databases.
func benchOrbit(ctx context.Context, b *bench) ([]*section, error) {
	if err := knowDatastores(); err != nil {
		return nil, err
	}
	js, err := installJavaScript(ctx, b)
	if err != nil {
		return nil, err
	}
	m := &orbitBench{bench: b, js: js, large: b.pick(100_000, 20_000)}
	var sections []*section
	for _, measure := range []func(context.Context) ([]*section, error){m.turns, m.growth, m.start} {
		s, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		sections = append(sections, s...)
	}
	return sections, nil
}

// orbitBench is the state that the measurements of databases share.
type orbitBench struct {
	*bench
	js     *javaScript
	large  int  // number of documents in a large database
	filled home // has the documents of a large one
}

// writes are puts per second in a round.
type writes struct {
	single, atOnce, many, manyMore  float64 // manyMore is of a large database
	bareSingle, bareAtOnce, bareAll float64 // as many bytes, without a database
	p50                             time.Duration
}

// reads are the durations of reads from a reopened database.
type reads struct{ open, all, random, oldest time.Duration }

// jsReads are the measures of bench.mjs for reads.
var jsReads = []string{"open", "all-first", "get-random-reopened", "get-oldest-reopened"}

func readsOf(figures map[string]figure) reads {
	return reads{figures["open"].took(), figures["all-first"].took(), figures["get-random-reopened"].p50(), figures["get-oldest-reopened"].p50()}
}

// turns measures in turns with JavaScript.
func (m *orbitBench) turns(ctx context.Context) ([]*section, error) {
	rounds, many := m.pick(5, 2), 10_000
	manyRounds := m.pick(3, 1) // rounds that also fill the large database
	size := m.pick(small, 300)
	var own, other []writes
	var ownReads, otherReads []reads
	for round := range rounds {
		if m.js.missing == "" {
			progress("@orbitdb/core, round %d of %d", round+1, rounds)
			f, err := m.js.run(ctx, size, append([]string{"put"}, jsReads...)...)
			if err != nil {
				return nil, err
			}
			again, err := m.js.run(ctx, size, "put-16")
			if err != nil {
				return nil, err
			}
			other = append(other, writes{single: f["put"].PerSecond, p50: f["put"].p50(), atOnce: again["put-16"].PerSecond})
			otherReads = append(otherReads, readsOf(f))
		}
		w, r, err := m.round(ctx, size, many)
		if err != nil {
			return nil, err
		}
		if round < manyRounds {
			if m.filled, err = newHome(ctx, m.bench); err != nil {
				return nil, err
			}
			if w.manyMore, err = m.filled.fill(ctx, orbit.TypeDocuments, m.large); err != nil {
				return nil, err
			}
		}
		own, ownReads = append(own, w), append(ownReads, r)
	}
	read := m.readSection(size, rounds, ownReads, otherReads)
	if !m.quick {
		if err := m.readMore(ctx, read, many); err != nil {
			return nil, err
		}
	}
	return []*section{m.writeSection(size, many, own, other), bareSection(size, many, own), read}, nil
}

// fill creates a database of a type with n documents, named after the type. It
// returns the rate per second.
func (h home) fill(ctx context.Context, kind string, n int) (float64, error) {
	d, err := h.open(ctx)
	if err != nil {
		return 0, err
	}
	defer d.close()
	c, err := d.collection(ctx, kind, kind)
	if err != nil {
		return 0, err
	}
	return c.fill(ctx, n)
}

// round measures writes, and reads of the documents that were put one after the
// other.
func (m *orbitBench) round(ctx context.Context, size, many int) (w writes, r reads, err error) {
	h, err := newHome(ctx, m.bench)
	if err != nil {
		return w, r, err
	}
	if err := h.write(ctx, size, many, &w); err != nil {
		return w, r, err
	}
	r, err = h.read(ctx, "single", size)
	return w, r, err
}

func (h home) write(ctx context.Context, size, many int, w *writes) error {
	d, err := h.open(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	signer, err := identity.Load(h.keys.Keystore, "orbitdb-root", "orbitdb-signing")
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		name    string
		measure func(*collection) error
		// of the loop beside it
		entries, group int
		rate           *float64
	}{
		{"single", func(c *collection) error {
			took, rate, err := c.load(ctx, size, 1)
			w.single, w.p50 = rate, median(took)
			return err
		}, size, 1, &w.bareSingle},
		{"at once", func(c *collection) error {
			_, rate, err := c.load(ctx, 5*size, atOnce)
			w.atOnce = rate
			return err
		}, 5 * size, atOnce, &w.bareAtOnce},
		{"many", func(c *collection) (err error) {
			w.many, err = c.fill(ctx, many)
			return err
		}, many, 256, &w.bareAll},
	} {
		c, err := d.collection(ctx, orbit.TypeDocuments, kind.name)
		if err != nil {
			return err
		}
		if err := kind.measure(c); err != nil {
			return err
		}
		if *kind.rate, err = bare(ctx, d.repo.Datastore(), signer, kind.name, kind.entries, kind.group); err != nil {
			return err
		}
	}
	return nil
}

// load puts n documents with atOnce concurrent calls. It returns the duration
// of each put and the rate per second.
func (c *collection) load(ctx context.Context, n, atOnce int) ([]time.Duration, float64, error) {
	var next atomic.Int64
	var failure atomic.Pointer[error]
	took, all, failed := load(n, atOnce, func() error {
		err := c.put(ctx, int(next.Add(1)-1))
		if err != nil {
			failure.Store(&err)
		}
		return err
	})
	if failed > 0 {
		return nil, 0, *failure.Load()
	}
	return took, perSecond(n, all), nil
}

// read reopens the repo and reads its database of size documents, as bench.mjs
// does.
func (h home) read(ctx context.Context, name string, size int) (r reads, err error) {
	d, err := h.open(ctx)
	if err != nil {
		return r, err
	}
	defer d.close()
	began := time.Now()
	db, err := d.orbit.Find(ctx, name)
	if err != nil {
		return r, err
	}
	r.open = time.Since(began)
	docs, err := db.Documents()
	if err != nil {
		return r, err
	}
	if r.all, err = all(ctx, docs, size); err != nil {
		return r, err
	}
	var random, oldest []time.Duration
	for i := range 100 {
		took, err := get(ctx, docs, (i*7919+5)%size)
		if err != nil {
			return r, err
		}
		random = append(random, took)
	}
	for range 20 {
		took, err := get(ctx, docs, 0)
		if err != nil {
			return r, err
		}
		oldest = append(oldest, took)
	}
	r.random, r.oldest = median(random), median(oldest)
	return r, nil
}

// collect returns one figure of each round.
func collect[R, T any](rounds []R, of func(R) T) []T {
	out := make([]T, len(rounds))
	for i, r := range rounds {
		out[i] = of(r)
	}
	return out
}

func rate(values []float64) string { return fmt.Sprintf("%.0f /s", median(values)) }

func (m *orbitBench) writeSection(size, many int, own, other []writes) *section {
	s := &section{
		title: "Databases: puts beside @orbitdb/core",
		how: fmt.Sprintf("Documents of about 130 bytes are put into new databases. npp is package orbit in this process, on a repo that `ipfs init` created and kubo opened; each put is synced to disk "+
			"before it returns. The peer is @orbitdb/core 4.0.0 with its default storage on Helia 6 with LevelDB, in Node.js 22, without `sync`, so no put is sent; it does not sync the disk. "+
			"%d rounds in turns of %d puts one after the other, and of puts 16 at once, of which npp makes %d. `PutMany` is compared with single puts of @orbitdb/core, which has no such call.%s",
			len(own), size, 5*size, m.js.without()),
	}
	s.row("", "npp", "@orbitdb/core", "ratio", "middle half")
	single := func(w writes) float64 { return w.single }
	concurrent := func(w writes) float64 { return w.atOnce }
	better := func(w writes) float64 { return max(w.single, w.atOnce) }
	p50 := collect(own, func(w writes) time.Duration { return w.p50 })
	var more []writes // the rounds with a large database
	for _, w := range own {
		if w.manyMore > 0 {
			more = append(more, w)
		}
	}
	rows := []struct {
		name        string
		own         []writes
		mine, their func(writes) float64
		bar         float64
	}{
		{"one after the other", own, single, single, putBar},
		{"16 at once, against its single puts", own, concurrent, single, 0},
		{"16 at once, against its 16 at once", own, concurrent, concurrent, 0},
		{"16 at once, against the better of the two", own, concurrent, better, atOnceBar},
		{fmt.Sprintf("`PutMany` of %d", many), own, func(w writes) float64 { return w.many }, single, putManyBar},
		{fmt.Sprintf("`PutMany` of %d", m.large), more, func(w writes) float64 { return w.manyMore }, single, putManyBar},
	}
	for _, r := range rows {
		a := collect(r.own, r.mine)
		if len(other) == 0 {
			if !strings.Contains(r.name, "against") || r.bar > 0 {
				name, _, _ := strings.Cut(r.name, ",")
				s.row(name, rate(a), "", "", "")
			}
			continue
		}
		b := collect(other[:len(a)], r.their)
		quotients := ratios(a, b)
		s.row(r.name, rate(a), rate(b), ratio(quotients), spread(quotients))
		if r.bar > 0 {
			s.verdict(median(quotients) >= r.bar, "%s: npp puts at least %.0f times as many per second; it puts %s times as many.", r.name, r.bar, ratio(quotients))
		}
	}
	if len(other) == 0 {
		s.row("one after the other: p50 of a put", us(median(p50)), "", "", "")
	} else {
		theirs := collect(other, func(w writes) time.Duration { return w.p50 })
		quotients := ratios(p50, theirs)
		s.row("one after the other: p50 of a put", us(median(p50)), us(median(theirs)), ratio(quotients), spread(quotients))
	}
	return s
}

func bareSection(size, many int, own []writes) *section {
	s := &section{
		title: "Databases: puts beside the datastore alone",
		how: fmt.Sprintf("In the same rounds and repos: a loop that signs %d bytes, hashes %d, and stores those at one key, which is the least work for one entry; "+
			"a put stores five keys and the summary. The loop syncs each of %d entries, groups of 16 (%d entries), and groups of 256 (%d entries).", signedBytes, entryBytes, size, 5*size, many),
	}
	s.row("", "put", "loop", "ratio", "middle half")
	for _, r := range []struct {
		name      string
		put, loop func(writes) float64
	}{
		{"one after the other", func(w writes) float64 { return w.single }, func(w writes) float64 { return w.bareSingle }},
		{"16 at once, groups of 16", func(w writes) float64 { return w.atOnce }, func(w writes) float64 { return w.bareAtOnce }},
		{fmt.Sprintf("`PutMany` of %d, groups of 256", many), func(w writes) float64 { return w.many }, func(w writes) float64 { return w.bareAll }},
	} {
		a, b := collect(own, r.put), collect(own, r.loop)
		s.row(r.name, rate(a), rate(b), ratio(ratios(a, b)), spread(ratios(a, b)))
	}
	return s
}

func (m *orbitBench) readSection(size, rounds int, own, other []reads) *section {
	s := &section{
		title: "Databases: reads beside @orbitdb/core",
		how: fmt.Sprintf("After the single puts above, both reopen everything, then a database and its documents. %d rounds of %d documents in turns, "+
			"and one of 10000 in a complete run. The figures for gets are medians, of 100 gets of any key and 20 of the oldest, after all documents were read once (@orbitdb/core stops getting after 10 s).%s", rounds, size, m.js.without()),
	}
	s.row("", "npp", "@orbitdb/core", "speedup", "middle half")
	s.readRows(size, own, other)
	return s
}

func (s *section) readRows(size int, own, other []reads) {
	for _, r := range []struct {
		name string
		of   func(reads) time.Duration
	}{
		{"open", func(r reads) time.Duration { return r.open }},
		{"read all", func(r reads) time.Duration { return r.all }},
		{"get any key", func(r reads) time.Duration { return r.random }},
		{"get the oldest", func(r reads) time.Duration { return r.oldest }},
	} {
		name := fmt.Sprintf("%d documents: %s", size, r.name)
		a, b := collect(own, r.of), collect(other, r.of)
		if len(b) == 0 {
			s.row(name, us(median(a)), "", "", "")
			continue
		}
		faster := ratios(b, a)
		s.row(name, us(median(a)), us(median(b)), ratio(faster), spread(faster))
	}
}

// readMore adds a round with more documents.
func (m *orbitBench) readMore(ctx context.Context, s *section, size int) error {
	var own, other []reads
	if m.js.missing == "" {
		progress("@orbitdb/core, %d documents", size)
		f, err := m.js.run(ctx, size, jsReads...)
		if err != nil {
			return err
		}
		other = append(other, readsOf(f))
	}
	h, err := newHome(ctx, m.bench)
	if err != nil {
		return err
	}
	if _, err := h.fill(ctx, orbit.TypeDocuments, size); err != nil {
		return err
	}
	r, err := h.read(ctx, orbit.TypeDocuments, size)
	if err != nil {
		return err
	}
	s.readRows(size, append(own, r), other)
	return nil
}

// growth measures whether a large database is slower than a small one, and its
// memory.
func (m *orbitBench) growth(ctx context.Context) ([]*section, error) {
	puts, rounds, gets := m.pick(1000, 300), m.pick(5, 2), m.pick(1000, 300)
	s := &section{
		title: fmt.Sprintf("Databases: %d entries beside %d", m.large, small),
		how: fmt.Sprintf("Each database has a repo of its own, and the two are used in turns. There are %d puts of new keys, one after the other. "+
			"Before them, %d times: both repos are reopened, so that all caches but the system's are empty, and the database is opened, from `orbit.New` to `Find` of its name; "+
			"then come %[3]d gets of distinct random keys; and %[3]d of others (the database of %[4]d has no others) once it is warm, which is %[5]s later: "+
			"the first use starts a scan of the keys, after which a get reads only the entry.", puts, rounds, gets, small, warmUp),
	}
	s.row("p50", fmt.Sprintf("%d entries", small), fmt.Sprintf("%d entries", m.large), "ratio")
	for _, kind := range []string{orbit.TypeDocuments, orbit.TypeKeyValue, orbit.TypeEvents} {
		progress("%s of %d entries", kind, m.large)
		homes, err := m.pair(ctx, kind)
		if err != nil {
			return nil, err
		}
		if kind == orbit.TypeDocuments {
			took, err := reopened(ctx, homes, [2]int{small, m.large}, rounds, gets)
			if err != nil {
				return nil, err
			}
			for i, name := range []string{"open", "get a random document once it is open", "get one when it is warm"} {
				a, b := median(took[i][0]), median(took[i][1])
				quotient := float64(b) / float64(a)
				s.row(name, us(a), us(b), fmt.Sprintf("%.2f", quotient))
				switch i {
				case 0:
					s.verdict(b < openBar, "a database of %d entries opens in less than %s; it takes %s.", m.large, ms(openBar), ms(b))
				case 2:
					s.verdict(b < getBar && quotient <= getGrowthBar, "a get among %d documents takes less than %s, and at most %d times as long as among %d; it takes %s, %.2f times as long.",
						m.large, us(getBar), getGrowthBar, small, us(b), quotient)
				}
			}
		}
		took, err := putInTurns(ctx, kind, homes, [2]int{small, m.large}, puts)
		if err != nil {
			return nil, err
		}
		a, b := median(took[0]), median(took[1])
		quotient := float64(b) / float64(a)
		s.row("put in "+kind, us(a), us(b), fmt.Sprintf("%.2f", quotient))
		s.verdict(quotient <= growthBar, "a put in %s of %d entries takes at most %.1f times as long as with %d; it takes %.2f times as long.", kind, m.large, growthBar, small, quotient)
	}
	memory, err := m.memory(ctx)
	return []*section{s, memory}, err
}

// pair returns repos with a small and a large database of a type.
func (m *orbitBench) pair(ctx context.Context, kind string) (homes [2]home, err error) {
	for i, n := range [2]int{small, m.large} {
		if i == 1 && kind == orbit.TypeDocuments {
			homes[i] = m.filled
			continue
		}
		if homes[i], err = newHome(ctx, m.bench); err != nil {
			return homes, err
		}
		if _, err := homes[i].fill(ctx, kind, n); err != nil {
			return homes, err
		}
	}
	return homes, nil
}

// openBoth opens repos, one after the other.
func openBoth(homes [2]home) (both [2]*databases, err error) {
	for i, h := range homes {
		if both[i], err = h.openStore(); err != nil {
			if i > 0 {
				both[0].close()
			}
			return both, err
		}
	}
	return both, nil
}

// warmUp is longer than the scan of a database's keys takes.
const warmUp = 2 * time.Second

// reopened measures in turns and by database: how long it takes to open, to get
// documents at once, and to get others when the database is warm.
func reopened(ctx context.Context, homes [2]home, sizes [2]int, rounds, gets int) (took [3][2][]time.Duration, err error) {
	for round := range rounds {
		if err := func() error {
			both, err := openBoth(homes)
			if err != nil {
				return err
			}
			defer both[0].close()
			defer both[1].close()
			var docs [2]*orbit.Documents
			var keys [2][]int
			for i, d := range both {
				began := time.Now()
				if err := d.begin(ctx, homes[i]); err != nil {
					return err
				}
				db, err := d.orbit.Find(ctx, orbit.TypeDocuments)
				if err != nil {
					return err
				}
				took[0][i] = append(took[0][i], time.Since(began))
				if docs[i], err = db.Documents(); err != nil {
					return err
				}
				keys[i] = rand.New(rand.NewPCG(uint64(round), uint64(i))).Perm(sizes[i])
			}
			for pass := 1; pass <= 2; pass++ {
				if pass == 2 {
					time.Sleep(warmUp)
				}
				for k := (pass - 1) * gets; k < pass*gets; k++ {
					for i := range docs {
						d, err := get(ctx, docs[i], keys[i][k%len(keys[i])])
						if err != nil {
							return err
						}
						took[pass][i] = append(took[pass][i], d)
					}
				}
			}
			return nil
		}(); err != nil {
			return took, err
		}
	}
	return took, nil
}

// putInTurns measures puts of new keys.
func putInTurns(ctx context.Context, kind string, homes [2]home, sizes [2]int, puts int) (took [2][]time.Duration, err error) {
	both, err := openBoth(homes)
	if err != nil {
		return took, err
	}
	defer both[0].close()
	defer both[1].close()
	var collections [2]*collection
	for i, d := range both {
		if err := d.begin(ctx, homes[i]); err != nil {
			return took, err
		}
		if collections[i], err = d.collection(ctx, kind, kind); err != nil {
			return took, err
		}
	}
	for k := range puts {
		for i, c := range collections {
			began := time.Now()
			if err := c.put(ctx, sizes[i]+k); err != nil {
				return took, err
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	return took, nil
}

// memory measures the heap that the use of a large database leaves.
func (m *orbitBench) memory(ctx context.Context) (*section, error) {
	d, err := m.filled.openStore()
	if err != nil {
		return nil, err
	}
	defer d.close()
	before := heap()
	if err := d.begin(ctx, m.filled); err != nil {
		return nil, err
	}
	c, err := d.collection(ctx, orbit.TypeDocuments, orbit.TypeDocuments)
	if err != nil {
		return nil, err
	}
	docs, err := c.db.Documents()
	if err != nil {
		return nil, err
	}
	opened := heap()
	stats, err := c.db.Stats(ctx)
	if err != nil {
		return nil, err
	}
	size := int(stats.Keys)
	const uses = 1000
	for range uses {
		if _, err := get(ctx, docs, rand.IntN(size)); err != nil {
			return nil, err
		}
	}
	for i := range uses {
		if err := c.put(ctx, size+i); err != nil {
			return nil, err
		}
	}
	if _, err := all(ctx, docs, size+uses); err != nil {
		return nil, err
	}
	after := heap()
	runtime.KeepAlive(docs)

	s := &section{
		title: fmt.Sprintf("Databases: heap with %d documents", m.large),
		how: fmt.Sprintf("The heap of this process after garbage collections: with the repo open, with the database open too, and after %d gets of random keys, %d puts and a loop over all documents. "+
			"It includes the caches of the datastore, which fill meanwhile.", uses, uses),
	}
	s.row("", "live objects", "spans in use")
	for _, r := range []struct {
		name string
		heapUse
	}{{"repo", before}, {"database open", opened}, {"after use", after}} {
		s.row(r.name, fmt.Sprintf("%.1f MiB", r.live), fmt.Sprintf("%.1f MiB", r.spans))
	}
	more := max(after.live-before.live, after.spans-before.spans)
	s.verdict(more <= heapBar, "%d documents in use take at most %d MiB of heap, by either count; they take %.1f MiB.", m.large, heapBar, more)
	return s, nil
}

// heapUse is the heap in MiB.
type heapUse struct{ live, spans float64 }

// heap measures the heap after garbage collections.
func heap() heapUse {
	for range 3 { // finalizers and pools need more than one
		runtime.GC()
	}
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return heapUse{float64(s.HeapAlloc) / (1 << 20), float64(s.HeapInuse) / (1 << 20)}
}

// start measures how long a daemon with large databases takes to be ready.
func (m *orbitBench) start(ctx context.Context) ([]*section, error) {
	var nodes [2]*node // with many pieces, with none
	for i := range nodes {
		n, err := newNode(ctx, m.bench, m.npp, nil)
		if err != nil {
			return nil, err
		}
		if err := n.start(ctx); err != nil { // creates the databases
			return nil, err
		}
		n.stop()
		nodes[i] = n
	}
	progress("a daemon with %d pieces", m.large)
	if err := fillPieces(ctx, nodes[0], m.large); err != nil {
		return nil, err
	}
	rounds := m.pick(15, 5)
	took, err := startInTurns(ctx, nodes, rounds)
	if err != nil {
		return nil, err
	}
	more := median(differences(took[0], took[1]))
	s := &section{
		title: fmt.Sprintf("Databases: start to ready with %d entries in `pieces`", m.large),
		how:   fmt.Sprintf("As above, but both daemons have npp: one with that many pieces, one with none; %d starts each, in turns.", rounds),
	}
	s.row("", "with pieces", "without", "difference")
	s.row("median", ms(median(took[0])), ms(median(took[1])), ms(more))
	s.verdict(more < startBar, "the pieces add less than %s to a start; they add %s.", ms(startBar), ms(more))
	return []*section{s}, nil
}

// fillPieces fills the daemon's pieces database. The daemon must not run.
func fillPieces(ctx context.Context, n *node, count int) error {
	h := home{n.Repo, orbit.Config{RootKey: "npp-orbitdb-root", SigningKey: "npp-orbitdb-signing"}}
	d, err := h.open(ctx)
	if err != nil {
		return err
	}
	defer d.close()
	db, err := d.orbit.Find(ctx, library.PiecesName)
	if err != nil {
		return err
	}
	docs, err := db.Documents()
	if err != nil {
		return err
	}
	done, err := docs.PutMany(ctx, numbered(count, func(i int) any {
		doc := document(i)
		doc[db.IndexBy()] = doc["_id"]
		return doc
	}))
	if err == nil && done != count {
		err = fmt.Errorf("%d of %d pieces were put", done, count)
	}
	return err
}
