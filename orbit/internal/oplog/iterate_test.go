package oplog_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// traverse returns the ancestors of some entries along next and these entries,
// always continuing from the newest, as JavaScript does.
func (g graph) traverse(from map[string]*entry.Entry) (list []*entry.Entry) {
	stack, seen := maps.Clone(from), maps.Clone(from)
	newest := g.newest(verify)
	for len(stack) > 0 {
		e := slices.SortedFunc(maps.Values(stack), newest)[0]
		delete(stack, e.Hash())
		list = append(list, e)
		for hash, p := range g.next(e, verify) {
			if seen[hash] == nil {
				seen[hash], stack[hash] = p, p
			}
		}
	}
	return list
}

// iterate returns what JavaScript's iterator yields, except that a limit also
// applies to a range with both bounds.
func (g graph) iterate(r oplog.Range) []*entry.Entry {
	var list []*entry.Entry
	switch {
	case r.LTE != "" && verify(g[r.LTE]) == nil:
		list = g.traverse(map[string]*entry.Entry{r.LTE: g[r.LTE]})
	case r.LT+r.LTE != "":
		list = g.traverse(g.next(g[r.LT+r.LTE], verify))
	default:
		list = g.order(verify)
	}
	if low := g[r.GT+r.GTE]; low != nil {
		positions := g.positions(verify)
		list = slices.DeleteFunc(list, func(e *entry.Entry) bool {
			c := positions[e.Hash()].Compare(positions[low.Hash()])
			return c < 0 || c == 0 && r.GT != ""
		})
		if n := len(list) - r.Limit; r.Limit > 0 && n > 0 && r.LT+r.LTE == "" {
			return list[n:]
		}
	}
	if r.Limit > 0 {
		list = list[:min(len(list), r.Limit)]
	}
	return list
}

func TestRangesAreThoseOfJavaScript(t *testing.T) {
	seeds(t, 15, func(t *testing.T, rng *rand.Rand) {
		entries := append(history(t, rng, 15, someWriters(rng)...), withInvalid()...)
		r := newReplica(t)
		r.joinAll(t, newGraph(entries...), entries)
		log, _, _ := r.stored(t)
		same(t, "all", hashes(log.iterate(oplog.Range{})), hashes(log.traverse(log.next(&entry.Entry{Next: hashes(log.heads(verify))}, verify))))
		bounds := slices.Sorted(maps.Keys(log)) // including unauthorized entries
		any := func() string { return bounds[rng.IntN(len(bounds))] }
		for range 300 {
			var rg oplog.Range
			switch rng.IntN(3) {
			case 0:
				rg.GT = any()
			case 1:
				rg.GTE = any()
			}
			switch rng.IntN(3) {
			case 0:
				rg.LT = any()
			case 1:
				rg.LTE = any()
			}
			if rng.IntN(2) == 0 {
				rg.Limit = 1 + rng.IntN(len(bounds)+3)
			}
			same(t, fmt.Sprintf("%+v", rg), hashes(all(t, r.Iterate(t.Context(), rg))), hashes(log.iterate(rg)))
		}
	})
}

func TestRangeBelowAnEntryHasWhatItNamesWhateverTheClocks(t *testing.T) {
	// A writer may set its clock back.
	a := draft{key: "a", time: 5}.entry()
	b := draft{key: "b", time: 6, next: []*entry.Entry{a}}.entry()
	c := draft{key: "c", time: 1, next: []*entry.Entry{b}}.entry()
	d := draft{key: "d", time: 7, next: []*entry.Entry{c, a}}.entry()
	r := newReplica(t)
	r.join(t, a, b, c, d)
	same(t, "lte c", hashes(all(t, r.Iterate(t.Context(), oplog.Range{LTE: c.Hash()}))), hashes([]*entry.Entry{c, b, a}))
	same(t, "lt c", hashes(all(t, r.Iterate(t.Context(), oplog.Range{LT: c.Hash()}))), hashes([]*entry.Entry{b, a}))
	same(t, "lte d", hashes(all(t, r.Iterate(t.Context(), oplog.Range{LTE: d.Hash()}))), hashes([]*entry.Entry{d, c, b, a}))
	same(t, "all", hashes(all(t, r.Iterate(t.Context(), oplog.Range{}))), hashes([]*entry.Entry{d, c, b, a}))
}

func TestRangesThatCannotBe(t *testing.T) {
	r := newReplica(t)
	e := r.append(t, signers[0], value.Null)[0].Hash()
	unknown := draft{key: "a", time: 1}.entry().Hash()
	for _, test := range []struct {
		r    oplog.Range
		want error
	}{
		{oplog.Range{GT: e, GTE: e}, oplog.ErrRange},
		{oplog.Range{LT: e, LTE: e}, oplog.ErrRange},
		{oplog.Range{Limit: -1}, oplog.ErrRange},
		{oplog.Range{GT: unknown}, oplog.ErrNotFound},
		{oplog.Range{GTE: unknown}, oplog.ErrNotFound},
		{oplog.Range{LT: unknown}, oplog.ErrNotFound},
		{oplog.Range{LTE: "no hash"}, oplog.ErrNotFound},
	} {
		n := 0
		for got, err := range r.Iterate(t.Context(), test.r) {
			if n++; got != nil || !errors.Is(err, test.want) {
				t.Errorf("%+v: %v, %v", test.r, got, err)
			}
		}
		equal(t, "errors", n, 1)
	}
}

func TestPagesBelowTheLastOneAreTheWholeLogOfOneWriter(t *testing.T) {
	r := newReplica(t)
	want := hashes(r.append(t, signers[0], slices.Repeat([]value.Value{value.Null}, 57)...))
	slices.Reverse(want)
	for _, amount := range []int{1, 7, 19, 57, 58} {
		var got []string
		rg := oplog.Range{Limit: amount}
		for {
			page := hashes(all(t, r.Iterate(t.Context(), rg)))
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
			rg.LT = page[len(page)-1]
		}
		same(t, fmt.Sprint("pages of ", amount), got, want)
	}
}

func TestLogOfManyHeadsIsMergedByTheNextEntry(t *testing.T) {
	for _, n := range []int{15, 17, 40, 100} {
		seeds(t, 3, func(t *testing.T, rng *rand.Rand) {
			r := newReplica(t)
			before := r.append(t, signers[0], slices.Repeat([]value.Value{value.Null}, 30)...)
			var late []*entry.Entry
			for i := range n {
				below := 18 + rng.IntN(12)
				late = append(late, draft{key: fmt.Sprintf("w%d", i), time: float64(below + 2), next: before[below : below+1]}.entry())
			}
			for _, e := range late {
				r.join(t, e)
				if rng.IntN(20) == 0 {
					r.auditAppend(t, verify)
				}
			}
			r.audit(t, verify)
			r.auditAppend(t, verify)
			r.auditAppend(t, verify)
			r.audit(t, verify)
		})
	}
}

func TestUpdatesMissAndRepeatNothing(t *testing.T) {
	const writers, each = 8, 25
	r := newReplica(t)
	ctx, cancel := context.WithCancel(t.Context())
	var readers, group sync.WaitGroup
	got := make([][]oplog.Arrival, 4)
	ends := make([]error, len(got))
	for i := range got {
		readers.Go(func() {
			after := uint64(0)
			for len(got[i]) < writers*each {
				for a, err := range r.Updates(t.Context(), after) {
					if err != nil {
						t.Error(err)
						return
					}
					got[i] = append(got[i], a)
					after = a.Number
					if len(got[i]) == writers*each || len(got[i])%(1+7*i) == 0 {
						break // and continues after it
					}
				}
			}
			for a, err := range r.Updates(ctx, after) {
				if err == nil {
					t.Errorf("one too many: %d", a.Number)
				}
				ends[i] = err
			}
		})
	}
	for w := range writers {
		group.Go(func() {
			for i := range each {
				if _, err := r.Append(t.Context(), signers[w%4], value.Text(fmt.Sprint(w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	r.join(t, draft{key: "bad", time: 1}.entry()) // a change that yields nothing
	cancel()
	readers.Wait()
	log, _, numbers := r.stored(t)
	equal(t, "entries", len(log), writers*each)
	for i := range got {
		for n, a := range got[i] {
			if a.Number != uint64(n+1) || numbers[a.Entry.Hash()] != a.Number || a.Hash != a.Entry.Hash() {
				t.Fatalf("reader %d: number %d as %d", i, a.Number, n)
			}
		}
		if !errors.Is(ends[i], context.Canceled) {
			t.Errorf("ended with %v", ends[i])
		}
	}
	r.audit(t, verify)
}

func TestUpdatesBeginAnywhere(t *testing.T) {
	r := newReplica(t)
	entries := withInvalid()
	r.join(t, entries...)
	numbers := all(t, r.Arrived(t.Context(), 0))
	equal(t, "entries that count", len(numbers), 4)
	for after := uint64(0); after < 12; after++ {
		var want, got []uint64
		for _, a := range numbers {
			if a.Number > after {
				want = append(want, a.Number)
			}
		}
		for _, a := range all(t, r.Arrived(t.Context(), after)) {
			got = append(got, a.Number)
		}
		same(t, fmt.Sprint("after ", after), got, want)
	}
	equal(t, "stored", len(all(t, r.Stored(t.Context(), 0))), len(entries))
	equal(t, "after all", len(all(t, r.Arrived(t.Context(), 1<<64-1))), 0)
}

// A number that was yielded is never given to another entry, so a reader can
// continue after it.
func TestWhatUpdatesYieldSurvivesPowerLoss(t *testing.T) {
	for operation, failure := range map[int]storetest.Failure{1: storetest.Applied, 2: storetest.Once} {
		disk := storetest.NewDisk()
		r, err := open(t.Context(), disk)
		must(t, err)
		disk.FailAfter(operation, failure)
		if entries, err := r.Append(t.Context(), signers[0], value.Null); entries != nil || !errors.Is(err, store.ErrNotDurable) {
			t.Fatalf("%v, %v", entries, err)
		}
		disk.FailAfter(1, storetest.Once) // the next sync
		for _, err := range r.Arrived(t.Context(), 0) {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("shown before it is durable: %v", err)
			}
		}
		for a, err := range r.Updates(t.Context(), 0) {
			must(t, err)
			after, err := open(t.Context(), disk.PowerLoss(nil))
			must(t, err)
			if _, err := after.Get(t.Context(), a.Entry.Hash()); err != nil {
				t.Errorf("shown and lost: %v", err)
			}
			break
		}
	}
}

func TestWhatIsWrittenWhileUpdatesBeginIsShownWhenItIsDurable(t *testing.T) {
	disk := storetest.NewDisk()
	c := &counter{Batching: disk}
	r, err := open(t.Context(), c)
	must(t, err)
	r.append(t, signers[0], value.Null)
	c.hook = func() {
		disk.FailAfter(2, storetest.Once) // the sync
		if _, err := r.Append(t.Context(), signers[0], value.Null); !errors.Is(err, store.ErrNotDurable) {
			t.Error(err)
		}
	}
	equal(t, "entries", len(all(t, r.Arrived(t.Context(), 0))), 1)
	equal(t, "entries", len(all(t, r.Arrived(t.Context(), 0))), 2)
}

func TestUpdatesShowWhatWasWrittenInSpiteOfAnError(t *testing.T) {
	disk := storetest.NewDisk()
	r, err := open(t.Context(), disk)
	must(t, err)
	first := r.append(t, signers[0], value.Null)[0]
	n := 0
	for a, err := range r.Updates(t.Context(), 0) {
		must(t, err)
		if n++; n == 2 {
			break
		}
		equal(t, "first", a.Hash, first.Hash())
		disk.FailAfter(1, storetest.Applied)
		if _, err := r.Append(t.Context(), signers[0], value.Null); !errors.Is(err, store.ErrNotDurable) {
			t.Fatal(err)
		}
	}
}

func TestLoopsMayBeLeft(t *testing.T) {
	r := newReplica(t)
	r.append(t, signers[0], value.Null, value.Null, value.Null)
	head := all(t, r.Iterate(t.Context(), oplog.Range{Limit: 1}))[0].Hash()
	for _, rg := range []oplog.Range{{}, {LTE: head}, {GTE: head}, {GTE: head, Limit: 2}, {LT: head}} {
		for range r.Iterate(t.Context(), rg) {
			break
		}
	}
	for range r.Ascend(t.Context()) {
		break
	}
	for range r.Arrived(t.Context(), 0) {
		break
	}
	for range r.Stored(t.Context(), 0) {
		break
	}
}
