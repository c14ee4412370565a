package oplog_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
)

// set returns an operation on the only key of these tests.
func set(n int) value.Value {
	v, _ := value.Of(n)
	return keyed.Put(value.Text("key"), v)
}

// wantValue checks the value of that key.
func (r replica) wantValue(t testing.TB, n int) {
	t.Helper()
	op, _ := keyed.Parse(set(n))
	item, err := r.keys.Get(blocks.Reading(t.Context(), r.store), op.Key)
	if err != nil || !item.Value.Equal(op.Value) {
		t.Errorf("value %v, %v; want %d", item.Value, err, n)
	}
}

// wantPages checks pages of several sizes, newest first, each after the last
// entry of the previous one, and the pages above each entry.
func (r replica) wantPages(t testing.TB, want []string) {
	t.Helper()
	below := func(hash string) oplog.Range { return oplog.Range{LT: hash} }
	behind := func(hash string) oplog.Range { return oplog.Range{After: hash} }
	for name, next := range map[string]func(string) oplog.Range{"below": below, "behind": behind} {
		for _, amount := range []int{1, 2, 7, len(want), len(want) + 1} {
			var got []string
			for rg := (oplog.Range{}); ; rg = next(got[len(got)-1]) {
				rg.Limit = amount
				page := hashes(all(t, r.Iterate(t.Context(), rg)))
				if got = append(got, page...); len(page) < amount {
					break
				}
			}
			same(t, fmt.Sprint("pages of ", amount, " ", name), got, want)
		}
	}
	for i, hash := range want {
		same(t, "gt", hashes(all(t, r.Iterate(t.Context(), oplog.Range{GT: hash}))), want[:i])
		same(t, "gte", hashes(all(t, r.Iterate(t.Context(), oplog.Range{GTE: hash}))), want[:i+1])
		same(t, "one gte", hashes(all(t, r.Iterate(t.Context(), oplog.Range{GTE: hash, Limit: 1}))), want[i:i+1])
		same(t, "lte", hashes(all(t, r.Iterate(t.Context(), oplog.Range{LTE: hash}))), want[i:])
		same(t, "gte and lte", hashes(all(t, r.Iterate(t.Context(), oplog.Range{GTE: hash, LTE: want[0]}))), want[:i+1])
	}
}

// wantSameAgain checks that the log stays the same when it is opened again and
// when it is rebuilt.
func (r replica) wantSameAgain(t testing.TB) replica {
	t.Helper()
	image, before := r.image(t), r.snapshot(t)
	r, err := open(t.Context(), r.disk)
	must(t, err)
	equal(t, "image after opening", r.image(t), image)
	if lost, err := r.Rebuild(t.Context(), verifyAgain); err != nil || lost != nil {
		t.Errorf("rebuild: %v, %v", lost, err)
	}
	equal(t, "image after a rebuild", r.image(t), image)
	after := r.snapshot(t)
	delete(before, blocks.LogPrefix(logNumber)+"/summary") // it also contains positions of queues
	delete(after, blocks.LogPrefix(logNumber)+"/summary")
	if !maps.Equal(after, before) {
		t.Errorf("stored: got %q, want %q", after, before)
	}
	r.audit(t, verify)
	return r
}

func TestChainAtAClockThatStandsStillIsInTheOrderOfTheChain(t *testing.T) {
	for _, time := range []float64{1 << 53, 1<<53 + 4, 1e300} {
		r := newReplica(t)
		first := draft{key: "a", time: time, payload: set(0)}.entry()
		r.join(t, first)
		chain := []*entry.Entry{first}
		for n := range 20 {
			e := r.append(t, signers[n%3], set(n+1))[0]
			equal(t, "time", e.Clock.Time, time)
			same(t, "next", e.Next, hashes(chain[n:]))
			chain = append(chain, e)
			r.wantValue(t, n+1)
		}
		want := hashes(chain)
		same(t, "oldest first", hashes(all(t, r.Ascend(t.Context()))), want)
		slices.Reverse(want)
		same(t, "newest first", hashes(all(t, r.Iterate(t.Context(), oplog.Range{}))), want)
		r.wantPages(t, want)
		r.audit(t, verify)
		r = r.wantSameAgain(t)
		r.wantPages(t, want)
		r.append(t, signers[0], set(21))
		r.wantValue(t, 21)
		r.audit(t, verify)
	}
}

func TestClocksGoOnFromAFraction(t *testing.T) {
	r := newReplica(t)
	r.join(t, draft{key: "a", time: 1.5, payload: set(0)}.entry())
	for i, e := range r.append(t, signers[0], set(1), set(2), set(3)) {
		equal(t, "time", e.Clock.Time, float64(i)+2.5)
	}
	r.wantValue(t, 3)
	equal(t, "raised", len(r.records(t, "raised")), 0)
	var want []string
	for _, e := range all(t, r.Ascend(t.Context())) {
		want = append([]string{e.Hash()}, want...)
	}
	r.wantPages(t, want)
	r.audit(t, verify)
	r.wantSameAgain(t)
}

func TestEntryWithALowerClockComesAfterItsAncestors(t *testing.T) {
	for _, time := range []float64{0, 1, 2.5, 3} {
		a := draft{key: "z", time: 3, payload: set(1)}.entry()
		b := draft{key: "b", time: time, next: []*entry.Entry{a}, payload: set(2)}.entry()
		c := draft{key: "a", time: 0, next: []*entry.Entry{b}, payload: set(3)}.entry()
		r := newReplica(t)
		r.join(t, c)
		r.join(t, a, b)
		r.wantValue(t, 3)
		want := hashes([]*entry.Entry{c, b, a})
		same(t, "newest first", hashes(all(t, r.Iterate(t.Context(), oplog.Range{}))), want)
		r.wantPages(t, want)
		r.audit(t, verify)
		r = r.wantSameAgain(t)
		d := r.append(t, signers[0], set(4))[0]
		equal(t, "time of the next", d.Clock.Time, 4)
		r.wantValue(t, 4)
		r.wantPages(t, append(hashes([]*entry.Entry{d}), want...))
		r.audit(t, verify)
	}
}

func TestDeletionWithALowerClockDeletes(t *testing.T) {
	a := draft{key: "b", time: 3, payload: set(1)}.entry()
	b := draft{key: "a", time: 1, next: []*entry.Entry{a}, payload: keyed.Delete(value.Text("key"))}.entry()
	c := draft{key: "a", time: 1, next: []*entry.Entry{b}, payload: set(2)}.entry()
	r := newReplica(t)
	r.join(t, a, b)
	equal(t, "items", len(all(t, r.keys.Items(t.Context(), r.store, nil))), 0)
	r.audit(t, verify)
	r.join(t, c)
	r.wantValue(t, 2)
	r.audit(t, verify)
}

// web returns entries with random parents. Half of them are invalid, and most
// of their times do not rise. Parents precede their children.
func web(rng *rand.Rand, n int) (entries []*entry.Entry) {
	times := []float64{0, 0, 1, 1.5, 2, 1 << 53, 1e300}[:2+rng.IntN(6)]
	for i := range n {
		d := draft{key: fmt.Sprint([]string{"bad", "w"}[rng.IntN(2)], i), time: times[rng.IntN(len(times))], payload: payload(rng)}
		d.next = shuffled(rng, entries)[:min(len(entries), rng.IntN(4))]
		entries = append(entries, d.entry())
	}
	// The last one descends from all, so that all are part of the log.
	return append(entries, draft{key: "top", time: times[0], next: entries}.entry())
}

func TestRanksDoNotDependOnTheOrderOfJoining(t *testing.T) {
	seeds(t, 60, func(t *testing.T, rng *rand.Rand) {
		entries := web(rng, 1+rng.IntN(20))
		r := newReplica(t)
		r.join(t, entries...)
		log, _ := r.audit(t, verify)
		equal(t, "entries", len(log), len(entries))
		order, raised := slices.Sorted(maps.Keys(r.records(t, "order"))), r.records(t, "raised")
		for range 5 {
			r := newReplica(t)
			for _, e := range shuffled(rng, entries) {
				r.join(t, e)
			}
			r.joinAll(t, newGraph(entries...), nil)
			log, _ := r.audit(t, verify)
			equal(t, "entries", len(log), len(entries))
			same(t, "order", slices.Sorted(maps.Keys(r.records(t, "order"))), order)
			if got := r.records(t, "raised"); !maps.Equal(got, raised) {
				t.Errorf("raised: got %q, want %q", got, raised)
			}
		}
	})
}

func TestEntryWithoutAuthorizedAncestorsHasTheRankOfItsClock(t *testing.T) {
	bad := draft{key: "bad", time: 7}.entry()
	e := draft{key: "e", time: 0, next: []*entry.Entry{bad}}.entry()
	other := draft{key: "o", time: 0}.entry()
	for _, entries := range [][]*entry.Entry{{bad, e, other}, {other, bad, e}} {
		r := newReplica(t)
		for _, e := range append(entries, bad) {
			r.join(t, e)
		}
		p, err := r.Position(t.Context(), e)
		must(t, err)
		equal(t, "position", p, plain(e))
		r.audit(t, verify)
	}
}
