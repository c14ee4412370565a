package oplog_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
)

// image returns everything that a log shows, except the order of arrival.
func (r replica) image(t testing.TB) string {
	t.Helper()
	st, err := r.Stats(t.Context())
	must(t, err)
	var items []string
	for _, item := range all(t, r.keys.Items(t.Context(), r.store, nil)) {
		items = append(items, fmt.Sprint(item))
	}
	return fmt.Sprint(st, hashes(all(t, r.Iterate(t.Context(), oplog.Range{}))), items)
}

// entries returns the entries in the order of arrival.
func (r replica) entries(t testing.TB) (list []*entry.Entry) {
	t.Helper()
	for _, a := range all(t, r.Stored(t.Context(), 0)) {
		list = append(list, a.Entry)
	}
	return list
}

func TestAnyOrderOfArrivalEndsInTheSameLog(t *testing.T) {
	seeds(t, 40, func(t *testing.T, rng *rand.Rand) {
		entries := history(t, rng, 12+rng.IntN(12), someWriters(rng)...)
		g := newGraph(entries...)

		inOrder := newReplica(t)
		inOrder.joinAll(t, g, entries)
		log, pending := inOrder.audit(t, verify)
		equal(t, "pending in the end", len(pending), 0)
		same(t, "the log", slices.Sorted(maps.Keys(log)), slices.Sorted(maps.Keys(g.needed(verify))))
		want := inOrder.image(t)

		r := newReplica(t)
		taken := make(graph)
		offer := func(batch []*entry.Entry) {
			t.Helper()
			before, _, _ := r.stored(t)
			outcomes := r.join(t, batch...)
			for i, o := range outcomes {
				e := batch[i]
				if o == oplog.Refused && verify(e) == nil {
					t.Errorf("%s is refused", e.Hash())
				}
				if o == oplog.Known && before[e.Hash()] == nil && !slices.Contains(batch[:i], e) {
					t.Errorf("%s was never here and is known", e.Hash())
				}
				if o != oplog.Refused {
					taken[e.Hash()] = e
				}
			}
			log, pending := r.audit(t, verify)
			same(t, "in the log", slices.Sorted(maps.Keys(log)), slices.Sorted(maps.Keys(taken.closed())))
			equal(t, "taken", len(log)+len(pending), len(taken))
			for i, o := range outcomes {
				if hash := batch[i].Hash(); o == oplog.Joined && log[hash] == nil || o == oplog.Pending && pending[hash] == nil {
					t.Errorf("%s is %v", hash, o)
				}
			}
		}
		some := shuffled(rng, entries)
		some = some[:rng.IntN(len(some)+1)]
		for len(some) > 0 {
			n := 1 + rng.IntN(min(len(some), 1+rng.IntN(8)))
			batch := slices.Clone(some[:n])
			if rng.IntN(2) == 0 { // again, within the batch and from before
				batch = append(batch, batch[0], entries[rng.IntN(len(entries))])
			}
			offer(batch)
			some = some[n:]
		}
		r.joinAll(t, g, shuffled(rng, entries))
		r.audit(t, verify)
		if got := r.image(t); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		r.auditAppend(t, verify)
	})
}

func TestJoinsCommuteAndAreAssociativeAndIdempotent(t *testing.T) {
	seeds(t, 15, func(t *testing.T, rng *rand.Rand) {
		// Three logs that overlap.
		var logs [3][]*entry.Entry
		shared := history(t, rng, 6, signers[:3]...)
		for i := range logs {
			r := newReplica(t)
			r.joinAll(t, newGraph(shared...), shared)
			for range 1 + rng.IntN(4) {
				r.append(t, signers[i], payload(rng))
			}
			logs[i] = r.entries(t)
		}
		joined := func(order ...int) string {
			r := newReplica(t)
			for _, i := range order {
				r.join(t, logs[i]...)
			}
			r.audit(t, verify)
			return r.image(t)
		}
		want := joined(0, 1, 2)
		for _, order := range [][]int{{0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}, {0, 0, 1, 1, 2, 2}, {0, 1, 2, 0, 1, 2}} {
			if got := joined(order...); got != want {
				t.Errorf("%v: got %s, want %s", order, got, want)
			}
		}
		// (0 ∪ 1) ∪ 2 was above. In 0 ∪ (1 ∪ 2), another log offers what it
		// joined.
		other := newReplica(t)
		other.join(t, logs[1]...)
		other.join(t, logs[2]...)
		r := newReplica(t)
		r.join(t, logs[0]...)
		r.join(t, other.entries(t)...)
		if got := r.image(t); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestWhatIsMissingMayComeInAnyOrderInOneBatch(t *testing.T) {
	// A chain of several transactions, in reverse: all entries are pending
	// until the first arrives.
	var chain []*entry.Entry
	for i := range 700 {
		d := draft{key: "a", time: float64(i + 1)}
		if i > 0 {
			d.next = chain[i-1:]
		}
		chain = append(chain, d.entry())
	}
	backwards := slices.Clone(chain)
	slices.Reverse(backwards)
	r := newReplica(t)
	for i, o := range r.join(t, backwards[:len(chain)-1]...) {
		if o != oplog.Pending {
			t.Fatalf("%d is %v", i, o)
		}
	}
	missing, err := r.Missing(t.Context())
	must(t, err)
	same(t, "missing", missing, hashes(chain[:1]))
	same(t, "outcomes", r.join(t, chain[1], chain[0]), []oplog.Outcome{oplog.Joined, oplog.Joined})
	r.audit(t, verify)
}

func TestInvalidEntryIsRefusedAlone(t *testing.T) {
	r := newReplica(t)
	a := draft{key: "a", time: 1}.entry()
	bad := draft{key: "bad", time: 2, next: []*entry.Entry{a}}.entry()
	worse := draft{key: "bad", time: 3, next: []*entry.Entry{bad}}.entry()
	for range 2 {
		outcomes := r.join(t, a, bad, worse)
		same(t, "outcomes", outcomes[1:], []oplog.Outcome{oplog.Refused, oplog.Refused})
	}
	log, pending := r.audit(t, verify)
	equal(t, "in the log", len(log), 1)
	equal(t, "pending", len(pending), 0)
	_, err := blocks.Get(blocks.Reading(t.Context(), r.store), bad.Hash())
	if !errors.Is(err, blocks.ErrNotFound) {
		t.Errorf("it is stored: %v", err)
	}
}

// withInvalid returns entries a to e: a ← bad1 ← bad2 ← b; c descends from a
// alone; d descends from b and from two more invalid entries.
func withInvalid() []*entry.Entry {
	a := draft{key: "a", time: 1}.entry()
	bad1 := draft{key: "bad1", time: 2, next: []*entry.Entry{a}}.entry()
	bad2 := draft{key: "bad2", time: 3, next: []*entry.Entry{bad1}, refs: []*entry.Entry{a}}.entry()
	b := draft{key: "b", time: 4, next: []*entry.Entry{bad2}}.entry()
	c := draft{key: "c", time: 2, next: []*entry.Entry{a}}.entry()
	bad3 := draft{key: "bad3", time: 3, next: []*entry.Entry{c}}.entry()
	bad4 := draft{key: "bad4", time: 3, next: []*entry.Entry{c, bad1}}.entry()
	d := draft{key: "d", time: 5, next: []*entry.Entry{b, bad3}, refs: []*entry.Entry{bad4}}.entry()
	return []*entry.Entry{a, bad1, bad2, b, c, bad3, bad4, d}
}

func TestInvalidEntriesStayIfAnAuthorizedEntryNamesThem(t *testing.T) {
	entries := withInvalid()
	seeds(t, 200, func(t *testing.T, rng *rand.Rand) {
		r := newReplica(t)
		order := shuffled(rng, entries)
		if rng.IntN(2) == 0 {
			// Within one batch nothing must be offered again.
			for i, o := range r.join(t, order...) {
				if o != oplog.Joined {
					t.Errorf("%s is %v", order[i].Hash(), o)
				}
			}
		} else {
			for _, e := range order {
				r.join(t, e)
				r.audit(t, verify)
			}
			r.joinAll(t, newGraph(entries...), nil)
		}
		log, pending := r.audit(t, verify)
		equal(t, "in the log", len(log), len(entries))
		equal(t, "pending", len(pending), 0)
		heads, err := r.Heads(t.Context())
		must(t, err)
		same(t, "heads", heads, []entry.Position{plain(entries[7])})
		for _, e := range entries {
			reason, err := r.Unauthorized(t.Context(), e.Hash())
			must(t, err)
			if want := verify(e); want == nil && reason != "" || want != nil && reason != want.Error() {
				t.Errorf("reason of %s: %q", e.Key, reason)
			}
		}
		r.auditAppend(t, verify)
	})
}

func TestHeadsCoverTheParentsOfInvalidEntries(t *testing.T) {
	entries := withInvalid()
	r := newReplica(t)
	r.join(t, entries[:4]...) // a ← bad1 ← bad2 ← b
	heads, err := r.Heads(t.Context())
	must(t, err)
	same(t, "heads", heads, []entry.Position{plain(entries[3])})
	// An invalid entry that is only in refs has no effect on the heads.
	x := draft{key: "x", time: 1}.entry()
	bad := draft{key: "bad", time: 2, next: []*entry.Entry{x}}.entry()
	y := draft{key: "y", time: 9, refs: []*entry.Entry{bad}}.entry()
	r.join(t, bad, x, y)
	r.audit(t, verify)
	heads, err = r.Heads(t.Context())
	must(t, err)
	same(t, "heads", heads, []entry.Position{plain(y), plain(entries[3]), plain(x)})
}

func TestEntryOfAnotherLogStopsTheWholeJoin(t *testing.T) {
	r := newReplica(t)
	own, other := draft{key: "a", time: 1}.entry(), draft{key: "a", time: 1, log: "/orbitdb/other"}.entry()
	if _, err := r.Join(t.Context(), candidates(own, other)); !errors.Is(err, oplog.ErrOtherLog) {
		t.Errorf("got %v", err)
	}
	log, pending := r.audit(t, verify)
	equal(t, "entries", len(log)+len(pending), 0)
}

func TestLogsInOneStoreAreApart(t *testing.T) {
	r := newReplica(t)
	other, err := oplog.Open(t.Context(), r.store, logNumber+1, "/orbitdb/other", config(nil))
	must(t, err)
	e := draft{key: "a", time: 1, log: "/orbitdb/other"}.entry()
	_, err = other.Join(t.Context(), candidates(e))
	must(t, err)
	if ok, err := r.Has(t.Context(), e.Hash()); ok || err != nil {
		t.Errorf("has: %v, %v", ok, err)
	}
	if _, err := r.Get(t.Context(), e.Hash()); !errors.Is(err, oplog.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	r.audit(t, verify)
}

func TestJoinStoresTheIdentityOfWhatItTakes(t *testing.T) {
	r := newReplica(t)
	good, bad := draft{key: "a", time: 1}.entry(), draft{key: "bad", time: 1}.entry()
	one, two := block.New([]byte("one")), block.New([]byte("two"))
	_, err := r.Join(t.Context(), []oplog.Candidate{
		{Entry: good, Identity: one}, {Entry: bad, Identity: two, Invalid: errVandal},
	})
	must(t, err)
	g := blocks.Reading(t.Context(), r.store)
	if b, err := blocks.Get(g, one.Hash); err != nil || string(b.Data) != "one" {
		t.Errorf("%q, %v", b.Data, err)
	}
	if _, err := blocks.Get(g, two.Hash); !errors.Is(err, blocks.ErrNotFound) {
		t.Errorf("of the refused: %v", err)
	}
}

func TestOutcomesHaveNames(t *testing.T) {
	for o, want := range map[oplog.Outcome]string{oplog.Refused: "refused", oplog.Known: "known", oplog.Joined: "joined", oplog.Pending: "pending", oplog.PendingFull: "pending full", oplog.QuotaFull: "quota full", oplog.PeerQuotaFull: "peer quota full"} {
		equal(t, "name", o.String(), want)
	}
}

func TestEntryWithoutLocationIsNotJoinedTwice(t *testing.T) {
	entries := withInvalid()
	low := draft{key: "low", time: 1, next: entries[3:4]}.entry()
	entries = append(entries, low)
	for _, e := range append(entries[:4:4], low) {
		r := newReplica(t)
		r.join(t, entries...)
		remove(t, r, "block/"+e.Hash())
		if _, err := r.Join(t.Context(), candidates(draft{key: "n", time: 9, next: []*entry.Entry{e}}.entry(), e)); !errors.Is(err, oplog.ErrDamaged) {
			t.Errorf("%s: %v", e.Key, err)
		}
		if lost, err := r.Rebuild(t.Context(), verifyAgain); err != nil || lost != nil {
			t.Errorf("rebuild: %v, %v", lost, err)
		}
		r.audit(t, verify)
	}
}

// Without a bound on next, no further entry could be written.
func TestLogOfVeryManyHeadsIsMergedStepByStep(t *testing.T) {
	const heads = entry.MaxNext + 50
	r := newReplica(t)
	var roots []*entry.Entry
	for i := range heads {
		roots = append(roots, draft{key: fmt.Sprintf("w%d", i), time: 1}.entry())
	}
	r.join(t, roots...)
	first := r.append(t, signers[0], value.Null)[0]
	second := r.append(t, signers[0], value.Null)[0]
	if len(first.Next) != entry.MaxNext || len(second.Next) != 51 || second.Next[0] != first.Hash() {
		t.Errorf("%d named, then %d", len(first.Next), len(second.Next))
	}
	got, err := r.Heads(t.Context())
	if err != nil || len(got) != 1 || got[0].Hash != second.Hash() {
		t.Errorf("heads %v, %v", got, err)
	}
}

// The parents of a pending entry are stored in several records.
func TestEntriesWithAnyNumberOfParentsWaitForThem(t *testing.T) {
	seeds(t, 6, func(t *testing.T, rng *rand.Rand) {
		var entries []*entry.Entry
		for i := range 140 {
			d := draft{key: []string{"a", "bad"}[min(1, rng.IntN(5)/4)], time: float64(i)}
			if rng.IntN(2) == 0 && i > 0 {
				d.next = entries[rng.IntN(i):][:1]
			}
			entries = append(entries, d.entry())
		}
		wide := make(map[string]bool)
		for i, n := range []int{1, 2, 63, 64, 65, 66, 127, 128, 129, 130, 200} {
			var named []*entry.Entry
			for len(named) < n {
				named = append(named, shuffled(rng, entries)...)
			}
			refs := rng.IntN(n + 1)
			e := draft{key: "w", time: float64(200 + i), next: named[refs:n], refs: named[:refs]}.entry()
			wide[e.Hash()] = true
			entries = append(entries, e)
		}
		g := newGraph(entries...)
		r := newReplica(t)
		order := shuffled(rng, entries)
		// Entries with many parents arrive early, most of their parents late.
		slices.SortStableFunc(order, func(a, b *entry.Entry) int {
			if wide[a.Hash()] == wide[b.Hash()] || rng.IntN(4) == 0 {
				return 0
			}
			if wide[a.Hash()] {
				return -1
			}
			return 1
		})
		for len(order) > 0 {
			n := 1 + rng.IntN(min(len(order), 12))
			r.join(t, order[:n]...)
			order = order[n:]
			r.audit(t, verify)
		}
		r.joinAll(t, g, nil)
		log, pending := r.audit(t, verify)
		equal(t, "pending", len(pending), 0)
		same(t, "the log", slices.Sorted(maps.Keys(log)), slices.Sorted(maps.Keys(g.needed(verify))))
	})
}

// Many invalid entries descend from very many heads.
func TestManyHeadsBelowInvalidEntries(t *testing.T) {
	seeds(t, 4, func(t *testing.T, rng *rand.Rand) {
		r := newReplica(t)
		some := func(list []*entry.Entry, most int) []*entry.Entry {
			return shuffled(rng, list)[:min(len(list), rng.IntN(most+1))]
		}
		var roots, invalid []*entry.Entry
		for round := range 3 {
			var batch []*entry.Entry
			for i := range 80 {
				roots = append(roots, draft{key: fmt.Sprint("a", round, i), time: float64(rng.IntN(9))}.entry())
				batch = append(batch, roots[len(roots)-1])
			}
			for i := range 40 {
				next := slices.Concat(some(roots, 20), some(invalid, 2))
				if i > 0 && rng.IntN(2) == 0 {
					next = append(some(roots, 3), invalid[len(invalid)-1])
				}
				invalid = append(invalid, draft{key: fmt.Sprint("bad", round, i), time: 1, next: shuffled(rng, next)}.entry())
				batch = append(batch, invalid[len(invalid)-1])
			}
			// Entries that are only in refs stay heads.
			batch = append(batch, draft{key: fmt.Sprint("r", round), time: 1, refs: invalid}.entry())
			slices.Reverse(batch)
			r.join(t, batch...)
			r.audit(t, verify)
			for i := range 4 {
				top := draft{key: fmt.Sprint("t", round, i), time: float64(rng.IntN(9)), next: append(some(roots, 1), some(invalid, 3)...)}.entry()
				same(t, "outcomes", r.join(t, top), []oplog.Outcome{oplog.Joined})
				r.audit(t, verify)
			}
		}
		before := r.snapshot(t)
		_, err := r.Rebuild(t.Context(), verifyAgain)
		must(t, err)
		after := r.snapshot(t)
		// The summary also contains positions of queues, and pages the order in
		// which entries became heads.
		for _, records := range []map[string]string{before, after} {
			maps.DeleteFunc(records, func(key, _ string) bool {
				rest := strings.TrimPrefix(key, blocks.LogPrefix(logNumber)+"/")
				return rest == "summary" || strings.HasPrefix(rest, "head")
			})
		}
		if !maps.Equal(after, before) {
			t.Error("rebuilt, it is another")
		}
		r.audit(t, verify)
	})
}

func TestChainOfInvalidEntriesLeadsToAllHeads(t *testing.T) {
	r := newReplica(t)
	var roots, chain []*entry.Entry
	for i := range 6 {
		var next []*entry.Entry
		for j := range 60 {
			next = append(next, draft{key: fmt.Sprint("a", i, j), time: 1}.entry())
		}
		roots = append(roots, next...)
		if i > 0 {
			next = append(next, chain[i-1])
		}
		chain = append(chain, draft{key: "bad", time: 2, next: next}.entry())
	}
	top := draft{key: "t", time: 3, next: chain[5:]}.entry()
	last := draft{key: "r", time: 1, refs: chain}.entry()
	r.join(t, slices.Concat([]*entry.Entry{last}, roots, chain)...)
	heads, err := r.Heads(t.Context())
	must(t, err)
	equal(t, "heads", len(heads), len(roots)+1)
	r.join(t, top)
	heads, err = r.Heads(t.Context())
	must(t, err)
	same(t, "heads", heads, []entry.Position{plain(top), plain(last)})
	r.audit(t, verify)
}
