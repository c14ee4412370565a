package oplog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store/storetest"
)

// reopen opens a log after a crash. It rebuilds the log if and only if a
// rebuild was interrupted.
func reopen(t *testing.T, disk *storetest.Disk, rebuilding bool, change func(*oplog.Config)) replica {
	t.Helper()
	r, err := openWith(t.Context(), disk, change)
	if errors.Is(err, oplog.ErrDamaged) && rebuilding {
		if lost, err := r.Rebuild(t.Context(), verifyAgain); err != nil || lost != nil {
			t.Fatalf("rebuild: %v, %v", lost, err)
		}
		r, err = openWith(t.Context(), disk, change)
	}
	must(t, err)
	return r
}

// Each disk operation of some appends, joins and a rebuild fails, or succeeds
// but returns an error, or is the first after which nothing works. Then the
// power fails.
func TestLogIsClosedAndAgreesWithItsEntriesAfterAnyCrash(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	entries := append(history(t, rand.New(rand.NewPCG(seed, 0)), 8, signers[1], signers[2], vandal), withInvalid()...)
	entries = append(entries, draft{key: "wide", time: 9, next: slices.Repeat(entries[:2], 33), refs: slices.Repeat(entries, 6)}.entry())
	all := newGraph(entries...)
	for _, failure := range []storetest.Failure{storetest.Once, storetest.Applied, storetest.Lasting} {
		for failAt := 1; ; failAt++ {
			rng := rand.New(rand.NewPCG(seed, 1)) // the same steps each time
			disk := storetest.NewDisk()
			bound := func(c *oplog.Config) {
				if failAt%3 > 0 { // blocks are evicted, and some entries abandoned
					c.MaxPending = uint64(failAt%3) * 12_000
				}
			}
			r, err := openWith(t.Context(), disk, bound)
			must(t, err)
			disk.FailAfter(failAt, failure)
			acknowledged := newGraph()
			rebuilding := false
			check := func(rng *rand.Rand) replica {
				r := reopen(t, disk.PowerLoss(rng), rebuilding, bound)
				log, _ := r.audit(t, verify)
				for hash := range acknowledged {
					if log[hash] == nil {
						t.Errorf("%s was acknowledged and is lost", hash)
					}
				}
				return r
			}
			for step := range 12 {
				var err error
				switch {
				case step == 8:
					_, err = r.Rebuild(t.Context(), verifyAgain)
					if rebuilding = err != nil; rebuilding && failure != storetest.Lasting {
						_, err = r.Rebuild(t.Context(), verifyAgain)
						rebuilding = err != nil
					}
				case rng.IntN(3) == 0:
					var own []*entry.Entry
					own, err = r.Append(t.Context(), signers[0], payload(rng), payload(rng))
					maps.Copy(acknowledged, newGraph(own...))
				default:
					batch := shuffled(rng, entries)[:min(len(entries), 1+rng.IntN(6))]
					var outcomes []oplog.Outcome
					outcomes, err = r.Join(t.Context(), of([]string{"", "P", "Q"}[rng.IntN(3)], batch...))
					for i, o := range outcomes {
						if err == nil && o == oplog.Joined {
							acknowledged[batch[i].Hash()] = batch[i]
						}
					}
				}
				if err != nil && !errors.Is(err, syscall.ENOSPC) && !(rebuilding && errors.Is(err, oplog.ErrDamaged)) {
					t.Fatal(err)
				}
				if rebuilding {
					break // it was to be the only use
				}
				if err != nil || step == 11 {
					check(nil)
				}
			}

			r = check(rng)
			must(t, r.Resume(t.Context()))
			r.audit(t, verify)
			equal(t, "ready after waking", len(r.records(t, "ready")), 0)
			r.joinAll(t, all, shuffled(rng, entries))
			log, pending := r.audit(t, verify)
			equal(t, "pending in the end", len(pending), 0)
			for hash := range all.needed(verify) {
				if log[hash] == nil {
					t.Errorf("%s cannot be joined", hash)
				}
			}
			r.auditAppend(t, verify)
			if t.Failed() {
				t.Fatalf("failure %d of operation %d", failure, failAt)
			}
			if disk.Operations() < failAt {
				break // it was never reached
			}
		}
	}
}

func TestInterruptedJoinGoesOnWhereItWas(t *testing.T) {
	var chain []*entry.Entry
	for i := range 300 {
		d := draft{key: "a", time: float64(i + 1)}
		if i > 0 {
			d.next = chain[i-1:]
		}
		chain = append(chain, d.entry())
	}
	disk := storetest.NewDisk()
	r, err := open(t.Context(), disk)
	must(t, err)
	r.join(t, chain[1:]...)
	disk.FailAfter(3, storetest.Lasting) // commit and sync of the first, then of the pending ones
	if _, err := r.Join(t.Context(), candidates(chain[0])); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	r, err = open(t.Context(), disk.PowerLoss(nil))
	must(t, err)
	log, _ := r.audit(t, verify)
	equal(t, "in the log", len(log), 1)
	equal(t, "ready", len(r.records(t, "ready")), 1)
	must(t, r.Resume(t.Context()))
	log, _ = r.audit(t, verify)
	equal(t, "in the log", len(log), len(chain))
}

func TestInterruptedJoinLeavesAncestorsAmongTheHeadsUntilResumed(t *testing.T) {
	x := draft{key: "x", time: 1}.entry()
	bad := draft{key: "bad", time: 2, next: []*entry.Entry{x}}.entry()
	y := draft{key: "y", time: 3, next: []*entry.Entry{bad}}.entry()
	other := draft{key: "other", time: 1}.entry()
	waiting := draft{key: "w", time: 4, refs: []*entry.Entry{bad, other}}.entry()
	disk := storetest.NewDisk()
	r, err := open(t.Context(), disk)
	must(t, err)
	// The waiting entry needs the invalid one, which enters the log before y.
	same(t, "outcomes", r.join(t, waiting, x, bad), []oplog.Outcome{oplog.Pending, oplog.Joined, oplog.Joined})
	disk.FailAfter(3, storetest.Lasting) // commit and sync of y, then of the decision on the invalid entry
	if _, err := r.Join(t.Context(), candidates(y)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	r, err = open(t.Context(), disk.PowerLoss(nil))
	must(t, err)
	r.audit(t, verify)
	same(t, "heads before", must1(r.Heads(t.Context())), []entry.Position{plain(y), plain(x)})
	equal(t, "to be decided", must1(r.Stats(t.Context())).Revising, 1)
	must(t, r.Resume(t.Context()))
	r.audit(t, verify)
	same(t, "heads", must1(r.Heads(t.Context())), []entry.Position{plain(y)})
	equal(t, "to be decided in the end", must1(r.Stats(t.Context())).Revising, 0)
}

func TestFailedAppendWritesNothing(t *testing.T) {
	r := newReplica(t)
	refused := errors.New("refused")
	r.append(t, signers[0], value.Null)
	if entries, err := r.AppendIf(t.Context(), signers[0], func(g blocks.Getter) error { return refused }, value.Null); entries != nil || !errors.Is(err, refused) {
		t.Errorf("%v, %v", entries, err)
	}
	large, err := value.Of(make([]byte, entry.MaxSize))
	must(t, err)
	if entries, err := r.Append(t.Context(), signers[0], value.Null, large); entries != nil || !errors.Is(err, entry.ErrTooLarge) {
		t.Errorf("%v, %v", entries, err)
	}
	log, _ := r.audit(t, verify)
	equal(t, "entries", len(log), 1)
	equal(t, "written of nothing", len(r.append(t, signers[0])), 0)
	r.audit(t, verify)
}

// counter counts the reads of a datastore, which are lookups and results of
// queries, and the writes. It calls a function, if set, before the next query.
type counter struct {
	datastore.Batching
	reads   int
	writes  int
	bytes   int // looked up and written
	largest int // bytes of a batch
	hook    func()
}

// since returns the difference between c and an earlier state of it.
func (c *counter) since(before counter) counter {
	return counter{reads: c.reads - before.reads, writes: c.writes - before.writes, bytes: c.bytes - before.bytes}
}

func (c *counter) Get(ctx context.Context, key datastore.Key) ([]byte, error) {
	c.reads++
	value, err := c.Batching.Get(ctx, key)
	c.bytes += len(value)
	return value, err
}

func (c *counter) Batch(ctx context.Context) (datastore.Batch, error) {
	b, err := c.Batching.Batch(ctx)
	return &countedBatch{Batch: b, c: c}, err
}

type countedBatch struct {
	datastore.Batch
	c    *counter
	size int
}

func (b *countedBatch) Put(ctx context.Context, key datastore.Key, value []byte) error {
	b.c.writes++
	b.c.bytes += len(value)
	b.size += len(value)
	b.c.largest = max(b.c.largest, b.size)
	return b.Batch.Put(ctx, key, value)
}

func (b *countedBatch) Delete(ctx context.Context, key datastore.Key) error {
	b.c.writes++
	return b.Batch.Delete(ctx, key)
}

func (c *counter) Has(ctx context.Context, key datastore.Key) (bool, error) {
	c.reads++
	return c.Batching.Has(ctx, key)
}

func (c *counter) Query(ctx context.Context, q query.Query) (query.Results, error) {
	c.reads++
	if hook := c.hook; hook != nil {
		c.hook = nil
		hook()
	}
	results, err := c.Batching.Query(ctx, q)
	return counted{results, c}, err
}

type counted struct {
	query.Results
	c *counter
}

func (r counted) NextSync() (query.Result, bool) {
	r.c.reads++
	return r.Results.NextSync()
}

func TestCostDoesNotGrowWithTheLog(t *testing.T) {
	c := &counter{Batching: storetest.NewDisk()}
	r, err := open(t.Context(), c)
	must(t, err)
	cost := func() (costs []int) {
		for _, do := range []func(){
			func() {
				r, err = open(t.Context(), c)
				must(t, err)
			},
			func() { r.append(t, signers[0], value.Null) },
			func() {
				heads, err := r.Heads(t.Context())
				must(t, err)
				r.join(t, draft{key: "a", time: heads[0].Time + 1, next: []*entry.Entry{must1(r.Get(t.Context(), heads[0].Hash))}}.entry())
			},
			func() { must1(r.Stats(t.Context())) },
			func() { all(t, r.Iterate(t.Context(), oplog.Range{Limit: 3})) },
		} {
			before := c.reads
			do()
			costs = append(costs, c.reads-before)
		}
		return costs
	}
	cost() // creates the log
	r.append(t, signers[0], slices.Repeat([]value.Value{value.Null}, 40)...)
	few := cost()
	for range 20 {
		r.append(t, signers[0], slices.Repeat([]value.Value{value.Null}, 250)...)
	}
	many := cost()
	for _, i := range []int{1, 2} { // an append and a join read a node for each hex digit of the clock
		many[i] -= len("141e") - len("2b")
	}
	same(t, "reads of open, append, join, stats and a page", many, few)
	for i, n := range few {
		if n > 60 {
			t.Errorf("%d reads: %d", i, n)
		}
	}
	// A page from the middle.
	page := func(after uint64) int {
		var at string
		for a := range r.Stored(t.Context(), after) {
			at = a.Hash
			break
		}
		before := c.reads
		equal(t, "entries", len(all(t, r.Iterate(t.Context(), oplog.Range{LT: at, Limit: 10}))), 10)
		return c.reads - before
	}
	equal(t, "reads of a page", page(2500), page(25))
}

func TestEachParentOfALargePendingEntryCostsTheSame(t *testing.T) {
	const n, waiters = 300, 3
	var chain []*entry.Entry
	for i := range n {
		d := draft{key: "a", time: float64(i + 1)}
		if i > 0 {
			d.next = chain[i-1:]
		}
		chain = append(chain, d.entry())
	}
	large, err := value.Of(make([]byte, 500<<10))
	must(t, err)
	c := &counter{Batching: storetest.NewDisk()}
	r, err := open(t.Context(), c)
	must(t, err)
	size := 0
	for i := range waiters {
		e := draft{key: fmt.Sprint("w", i), time: n + 1, next: chain[:n-20], refs: chain[n-20:], payload: large}.entry()
		size += len(e.Block.Data)
		same(t, "outcomes", r.join(t, e), []oplog.Outcome{oplog.Pending})
	}
	var costs []counter
	for i, e := range chain {
		before := *c
		same(t, "outcomes", r.join(t, e), []oplog.Outcome{oplog.Joined})
		costs = append(costs, c.since(before))
		if i%50 == 0 || i > n-3 {
			r.audit(t, verify)
		}
	}
	total := 0
	for i, cost := range costs {
		total += cost.bytes
		most := counter{reads: 45, writes: 22, bytes: 40 << 10}
		if i%64 == 63 { // reads the next record of parents and looks all of them up
			most = counter{reads: 250, writes: 100, bytes: 60 << 10}
		}
		if i < n-1 && (cost.reads > most.reads || cost.writes > most.writes || cost.bytes > most.bytes) {
			t.Fatalf("parent %d: %d reads, %d writes, %d bytes", i, cost.reads, cost.writes, cost.bytes)
		}
	}
	if total > 4*size+n*(20<<10) {
		t.Errorf("%d bytes in all", total)
	}
	log, pending := r.audit(t, verify)
	equal(t, "in the log", len(log), n+waiters)
	equal(t, "pending", len(pending), 0)
}

func TestDescendantOfAnUnauthorizedChainCostsTheSame(t *testing.T) {
	cost := func(n int) (most counter) {
		root := draft{key: "a", time: 1}.entry()
		chain := []*entry.Entry{root}
		for i := range n {
			chain = append(chain, draft{key: "bad", time: 2, next: chain[i:]}.entry())
		}
		c := &counter{Batching: storetest.NewDisk()}
		r, err := open(t.Context(), c)
		must(t, err)
		top := func(key string, time float64) *entry.Entry {
			return draft{key: key, time: time, next: chain[n:]}.entry()
		}
		backwards := append(slices.Clone(chain), top("b", 3))
		slices.Reverse(backwards)
		r.join(t, backwards...)
		r.audit(t, verify)
		for i := range 5 {
			before := *c
			last := draft{key: "bad", time: 2, next: chain[n:], payload: value.Text(fmt.Sprint(i))}.entry()
			same(t, "outcomes", r.join(t, top(fmt.Sprint("c", i), float64(i)/2), last, draft{key: "d", time: float64(i), next: []*entry.Entry{last}}.entry()),
				[]oplog.Outcome{oplog.Joined, oplog.Joined, oplog.Joined})
			did := c.since(before)
			most = counter{reads: max(most.reads, did.reads), writes: max(most.writes, did.writes), bytes: max(most.bytes, did.bytes)}
		}
		r.audit(t, verify)
		return most
	}
	few, many := cost(10), cost(700)
	equal(t, "reads", many.reads, few.reads)
	equal(t, "writes", many.writes, few.writes)
	if many.bytes > few.bytes+1<<10 {
		t.Errorf("%d bytes, with a short chain %d", many.bytes, few.bytes)
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
