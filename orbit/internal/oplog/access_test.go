package oplog_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store/storetest"
)

// decide is the model: it returns which entries of a closed graph an access
// list authorizes, and which are unanchored.
func (g graph) decide(verify func(*entry.Entry) error, a oplog.Access) (authorized, unanchored map[string]bool) {
	on := func(list []string, id string) bool {
		return slices.Contains(list, id) || slices.Contains(list, oplog.Anyone)
	}
	kept := func(e *entry.Entry) bool { return slices.Contains(a.Retained, e.Hash()) }
	anchored := make(map[string]bool)
	var anchor func(hash string)
	anchor = func(hash string) {
		if !anchored[hash] && g[hash] != nil {
			anchored[hash] = true
			for _, next := range g[hash].Next {
				anchor(next)
			}
		}
	}
	for hash, e := range g {
		if verify(e) == nil && (on(a.Writers, e.Key) || kept(e)) {
			anchor(hash)
		}
	}
	authorized, unanchored = make(map[string]bool), make(map[string]bool)
	for hash, e := range g {
		if anchored[hash] && verify(e) == nil && (on(a.Known, e.Key) || kept(e)) {
			authorized[hash] = true
		}
		if !anchored[hash] {
			unanchored[hash] = true
		}
	}
	return authorized, unanchored
}

// auditAccess compares a log with the model.
func (r replica) auditAccess(t testing.TB, a oplog.Access) {
	t.Helper()
	log, _, numbers := r.stored(t)
	prefix := blocks.LogPrefix(logNumber) + "/"
	authorized, unanchored := log.decide(verify, a)
	positions := log.positions(verify)
	newest := func(x, y string) int { return positions[y].Compare(positions[x]) }
	order := slices.SortedFunc(maps.Keys(authorized), newest)
	same(t, "order", hashes(all(t, r.Iterate(t.Context(), oplog.Range{}))), order)
	var counting []*entry.Entry
	for _, hash := range order {
		counting = append(counting, log[hash])
	}
	r.auditTree(t, counting, positions)

	// A head is an authorized entry from which no authorized entry descends.
	below := make(map[string]bool)
	var cover func(e *entry.Entry)
	cover = func(e *entry.Entry) {
		for _, hash := range e.Next {
			if next := log[hash]; next != nil && !below[hash] {
				below[hash] = true
				cover(next)
			}
		}
	}
	for _, e := range counting {
		cover(e)
	}
	var heads []entry.Position
	for _, hash := range order {
		if !below[hash] {
			heads = append(heads, positions[hash])
		}
	}
	st, err := r.Stats(t.Context())
	must(t, err)
	same(t, "heads", st.Heads, heads)
	equal(t, "number of heads", st.HeadCount, uint64(len(heads)))
	equal(t, "entries", st.Entries, uint64(len(authorized)))
	equal(t, "unauthorized", st.Unauthorized, uint64(len(log)-len(authorized)))
	equal(t, "to be decided", st.Revising, 0)

	// The state is the newest operation on each key.
	var items []string
	slots := make(map[string]bool)
	for _, e := range counting {
		op, ok := keyed.Parse(e.Payload)
		if !ok || slots[op.Key.Slot()] {
			continue
		}
		slots[op.Key.Slot()] = true
		if !op.Deleted {
			items = append(items, e.Hash())
		}
	}
	var got []string
	for _, item := range all(t, r.keys.Items(t.Context(), r.store, nil)) {
		got = append(got, item.Hash)
		one, err := r.keys.Get(blocks.Reading(t.Context(), r.store), item.Key)
		if err != nil || one.Hash != item.Hash {
			t.Errorf("get %v: %v, %v", item.Key, one, err)
		}
	}
	same(t, "items", got, items)
	equal(t, "keys", st.Keys, uint64(len(items)))
	equal(t, "lapsed keys", len(r.records(t, "lapsed")), 0)

	// The records for a later change of the list.
	wantUnanchored, wantDenied, wantReasons := make(map[string]string), make(map[string]string), make(map[string]string)
	for hash, e := range log {
		if unanchored[hash] {
			wantUnanchored[prefix+"loose/"+hash] = ""
		}
		switch {
		case authorized[hash]:
		case verify(e) != nil:
			wantReasons[prefix+"fault/"+hash] = verify(e).Error()
		default:
			wantReasons[prefix+"fault/"+hash] = "its writer is not on the access list"
			wantDenied[prefix+"idle/"+block.Hash([]byte(e.Key))+"/"+hash] = hash
		}
	}
	for what, want := range map[string]map[string]string{"loose": wantUnanchored, "idle": wantDenied, "fault": wantReasons, "revise": {}} {
		if got := r.records(t, what); !maps.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	for hash := range log {
		if _, err := blocks.Locate(blocks.Reading(t.Context(), r.store), hash); err != nil || numbers[hash] == 0 {
			t.Errorf("%s is not found: %v", hash, err)
		}
	}
}

// seedsOf returns the number of seeds for a property: NPP_ACCESS_SEEDS, or n.
func seedsOf(n int) int {
	many, _ := strconv.Atoi(os.Getenv("NPP_ACCESS_SEEDS"))
	return cmp.Or(many, n)
}

// members is a history: entries of several writers, some of them hostile, and
// all access lists so far, oldest first.
type members struct {
	pool  graph
	lists []oplog.Access
}

func (m *members) last() oplog.Access { return m.lists[len(m.lists)-1] }

// change adds an access list: it grants or revokes an identity, or retains an
// entry or ceases to.
func (m *members) change(rng *rand.Rand, ids []string) {
	a := m.last()
	a.Writers, a.Known, a.Retained = slices.Clone(a.Writers), slices.Clone(a.Known), slices.Clone(a.Retained)
	toggle := func(list *[]string, item string) {
		if i := slices.Index(*list, item); i >= 0 {
			*list = slices.Delete(*list, i, i+1)
		} else {
			*list = append(*list, item)
		}
	}
	for range 1 + rng.IntN(2) {
		if rng.IntN(4) == 0 && len(m.pool) > 0 {
			toggle(&a.Retained, slices.Sorted(maps.Keys(m.pool))[rng.IntN(len(m.pool))])
			continue
		}
		id := ids[rng.IntN(len(ids))]
		toggle(&a.Writers, id)
		if !slices.Contains(a.Known, id) {
			a.Known = append(a.Known, id)
		}
	}
	m.lists = append(m.lists, a)
}

// write adds an entry by a writer to the pool. Its parents are random.
func (m *members) write(rng *rand.Rand, key string) *entry.Entry {
	d := draft{key: key, time: 1, payload: payload(rng)}
	pool := shuffled(rng, slices.SortedFunc(maps.Values(m.pool), func(a, b *entry.Entry) int { return cmp.Compare(a.Hash(), b.Hash()) }))
	d.next = pool[:min(len(pool), rng.IntN(4))]
	if len(pool) > 0 && rng.IntN(3) == 0 {
		d.refs = pool[len(pool)-1:]
	}
	for _, e := range d.next {
		d.time = max(d.time, e.Clock.Time+1)
	}
	if rng.IntN(5) == 0 { // a clock that is set back or far ahead
		d.time = float64(rng.IntN(40))
	}
	e := d.entry()
	m.pool[e.Hash()] = e
	return e
}

// TestReplicasWithTheSameEntriesAndListCountTheSame gives replicas entries and
// access lists in any order, in part and repeatedly, interleaved with writes by
// current and former members, rebuilds and restarts. After each step each
// replica must match the model; in the end all must be equal.
func TestReplicasWithTheSameEntriesAndListCountTheSame(t *testing.T) {
	ids := []string{signers[0].ID, signers[1].ID, signers[2].ID, "stranger", "bad"}
	flipped := uint64(0)
	seeds(t, seedsOf(200), func(t *testing.T, rng *rand.Rand) {
		m := &members{pool: make(graph), lists: []oplog.Access{{Writers: ids[:1], Known: ids[:1]}}}
		ids := ids
		if rng.IntN(4) == 0 {
			ids = append(slices.Clone(ids), oplog.Anyone)
		}
		type peer struct {
			replica
			list oplog.Access
		}
		peers := make([]*peer, 3)
		for i := range peers {
			r, err := openFor(t.Context(), storetest.NewDisk(), m.last())
			must(t, err)
			peers[i] = &peer{r, m.last()}
		}
		adopt := func(p *peer, a oplog.Access) {
			must(t, p.Revise(t.Context(), a))
			a.Known = slices.Concat(p.list.Known, a.Known) // it only grows
			p.list = a
		}
		for range 25 + rng.IntN(15) {
			p := peers[rng.IntN(len(peers))]
			switch rng.IntN(8) {
			case 0: // an honest member
				s := signers[rng.IntN(3)]
				es, err := p.Append(t.Context(), s, payload(rng))
				if may := p.list.MayWrite(s.ID); may != (err == nil) || !may && !errors.Is(err, oplog.ErrNotAllowed) {
					t.Errorf("append: %v", err)
				}
				for _, e := range es {
					m.pool[e.Hash()] = e
				}
			case 1: // anyone
				m.write(rng, ids[rng.IntN(len(ids))])
			case 2, 3:
				m.change(rng, ids)
			case 4: // any of the lists, including older ones
				adopt(p, m.lists[rng.IntN(len(m.lists))])
			case 5, 6:
				pool := slices.SortedFunc(maps.Values(m.pool), func(a, b *entry.Entry) int { return cmp.Compare(a.Hash(), b.Hash()) })
				some := shuffled(rng, pool)
				p.join(t, some[:min(len(some), 1+rng.IntN(6))]...)
			default:
				if rng.IntN(2) == 0 {
					_, err := p.Rebuild(t.Context(), verifyAgain)
					must(t, err)
				}
				var err error
				p.replica, err = openFor(t.Context(), p.disk, m.lists[0])
				must(t, err)
			}
			p.auditAccess(t, p.list)
			if t.Failed() {
				return
			}
		}
		want, _ := m.pool.closed().decide(verify, m.last())
		for i, p := range peers {
			adopt(p, m.last())
			// A later entry may need one that was refused.
			for before, still := "", 0; still < 3; {
				p.join(t, shuffled(rng, slices.Collect(maps.Values(m.pool)))...)
				log, pending, _ := p.stored(t)
				now := fmt.Sprint(len(log), " ", len(pending))
				if still++; now != before {
					before, still = now, 0
				}
			}
			p.auditAccess(t, m.last())
			got := hashes(all(t, p.Iterate(t.Context(), oplog.Range{})))
			if slices.Sort(got); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
				t.Errorf("replica %d authorized %v, want %v", i, got, slices.Sorted(maps.Keys(want)))
			}
			st, err := p.Stats(t.Context())
			must(t, err)
			flipped += st.Revision
		}
	})
	if flipped == 0 {
		t.Error("nothing ever changed its effect")
	}
}

// The power fails at any moment of a change of the list. No entry that both
// lists authorize is lost, and the change is completed after the restart.
func TestChangeOfTheListGoesOnAfterAnyCrash(t *testing.T) {
	ids := []string{signers[0].ID, "former", "stranger"}
	seeds(t, 3, func(t *testing.T, rng *rand.Rand) {
		m := &members{pool: make(graph), lists: []oplog.Access{{Writers: ids[:2], Known: ids}}}
		for range 12 {
			m.write(rng, ids[rng.IntN(len(ids))])
		}
		before, after := m.last(), oplog.Access{Writers: ids[:1], Known: ids, Retained: slices.Sorted(maps.Keys(m.pool))[:1]}
		for _, failure := range []storetest.Failure{storetest.Once, storetest.Applied, storetest.Lasting} {
			for failAt := 1; ; failAt++ {
				disk := storetest.NewDisk()
				r, err := openFor(t.Context(), disk, before)
				must(t, err)
				r.join(t, slices.Collect(maps.Values(m.pool))...)
				disk.FailAfter(failAt, failure)
				reviseErr := r.Revise(t.Context(), after)
				reached := disk.Operations() >= failAt
				r, err = openFor(t.Context(), disk.PowerLoss(rng), before)
				must(t, err)
				must(t, r.Resume(t.Context()))
				must(t, r.Revise(t.Context(), after))
				r.auditAccess(t, after)
				must(t, r.Revise(t.Context(), before))
				r.auditAccess(t, before)
				if t.Failed() {
					t.Fatalf("failure %d of operation %d, after %v", failure, failAt, reviseErr)
				}
				if reviseErr == nil && !reached {
					break
				}
			}
		}
	})
}

// WouldRevoke returns what a change of the list would revoke, without making
// the change.
func TestWouldRevokeReturnsWhatWouldBeRevoked(t *testing.T) {
	ids := []string{signers[0].ID, "member", "former"}
	lost := 0
	seeds(t, 60, func(t *testing.T, rng *rand.Rand) {
		m := &members{pool: make(graph), lists: []oplog.Access{{Writers: ids, Known: ids}}}
		for range 20 {
			m.write(rng, ids[rng.IntN(len(ids))])
		}
		r, err := openFor(t.Context(), storetest.NewDisk(), m.last())
		must(t, err)
		r.join(t, slices.Collect(maps.Values(m.pool))...)
		before, _ := m.pool.closed().decide(verify, m.last())
		after := oplog.Access{Writers: ids[:1+rng.IntN(2)], Known: ids}
		entries, tips, err := r.WouldRevoke(t.Context(), after)
		must(t, err)
		must(t, r.Revise(t.Context(), after))
		left, _ := m.pool.closed().decide(verify, after)
		equal(t, "entries that lose effect", entries, len(before)-len(left))
		lost += entries
		// If the tips are retained, nothing is revoked.
		after.Retained = tips
		must(t, r.Revise(t.Context(), after))
		r.auditAccess(t, after)
		equal(t, "entries that count where the tips are kept", len(all(t, r.Iterate(t.Context(), oplog.Range{}))), len(before))
	})
	if lost == 0 {
		t.Error("nothing would ever lose effect")
	}
}

// A new entry does not refer to entries whose writers are not on the current
// list.
func TestNewEntriesReferToNoneOfFormerWriters(t *testing.T) {
	own := []string{signers[0].ID, signers[0].PublicKey}
	both := oplog.Access{Writers: append(own, "member"), Known: append(own, "member")}
	r, err := openFor(t.Context(), storetest.NewDisk(), both)
	must(t, err)
	first := r.append(t, signers[0], value.Null)[0]
	theirs := draft{key: "member", time: 2, next: []*entry.Entry{first}}.entry()
	r.join(t, theirs)
	second := r.append(t, signers[0], value.Null)[0]
	third := r.append(t, signers[0], value.Null)[0]
	same(t, "refs where all may write", third.Refs, []string{theirs.Hash(), first.Hash()})
	must(t, r.Revise(t.Context(), oplog.Access{Writers: own, Known: both.Known}))
	want := []string{second.Hash(), first.Hash()}
	same(t, "refs after a revocation", r.append(t, signers[0], value.Null)[0].Refs, want)
	must(t, r.Revise(t.Context(), oplog.Access{Writers: own, Known: both.Known, Retained: []string{theirs.Hash()}}))
	want = append([]string{third.Hash()}, want...)
	same(t, "refs where the entry is kept", r.append(t, signers[0], value.Null)[0].Refs, want)
	must(t, r.Revise(t.Context(), both))
	got := r.append(t, signers[0], value.Null)[0].Refs
	if !slices.Contains(got, theirs.Hash()) {
		t.Errorf("refs after another grant: %v", got)
	}
}

// Two writers set one key at the same clock time. The same value wins in both
// orders of arrival.
func TestTieOfClocksIsBrokenTheSameInBothOrdersOfArrival(t *testing.T) {
	put := func(key, v string) *entry.Entry {
		return draft{key: key, time: 1, payload: keyed.Put(value.Text("k"), value.Text(v))}.entry()
	}
	a, b := put("a", "1"), put("b", "2")
	for _, order := range [][]*entry.Entry{{a, b}, {b, a}} {
		r := newReplica(t)
		for _, e := range order {
			r.join(t, e)
		}
		got := all(t, r.keys.Items(t.Context(), r.store, nil))
		if len(got) != 1 || got[0].Hash != b.Hash() {
			t.Errorf("after %v: got %v, want that of %s", hashes(order), got, b.Hash())
		}
	}
}

// A log with more heads than fit into its summary works like any other.
func TestLogOfManyHeadsNamesTheNewestAndItsOwn(t *testing.T) {
	r := newReplica(t)
	const n = 700
	own := r.append(t, signers[0], value.Null)[0]
	var flood []*entry.Entry
	for i := range n {
		flood = append(flood, draft{key: fmt.Sprintf("flood%03d", i), time: float64(2 + i%7)}.entry())
	}
	r.join(t, flood...)
	r.audit(t, verify)
	first := r.append(t, signers[0], value.Null)[0]
	if len(first.Next) != entry.MaxNext || !slices.Contains(first.Next, own.Hash()) {
		t.Errorf("it names %d entries, its own among them: %v", len(first.Next), slices.Contains(first.Next, own.Hash()))
	}
	r.audit(t, verify)
	second := r.append(t, signers[0], value.Null)[0]
	if want := 1 + n + 1 - entry.MaxNext; len(second.Next) != want || second.Next[0] != first.Hash() {
		t.Errorf("it names %d entries, want %d", len(second.Next), want)
	}
	r.audit(t, verify)
	third := r.append(t, signers[0], value.Null)[0]
	same(t, "next in the end", third.Next, []string{second.Hash()})
	r.audit(t, verify)
	if left := len(r.records(t, "heads")) + len(r.records(t, "head")); left != 0 {
		t.Errorf("%d records of heads are left", left)
	}
}

// A follower of a log also receives entries that become authorized or
// unauthorized. If a key gets an older value back, it receives the entry with
// that value, too.
func TestUpdatesYieldEntriesWhoseAuthorizationChanges(t *testing.T) {
	put := func(key, v string, next ...*entry.Entry) *entry.Entry {
		time := 1.0
		for _, e := range next {
			time = max(time, e.Clock.Time+1)
		}
		return draft{key: key, time: time, next: next, payload: keyed.Put(value.Text("k"), value.Text(v))}.entry()
	}
	both, one := oplog.Access{Writers: []string{"a", "b"}, Known: []string{"a", "b"}}, oplog.Access{Writers: []string{"a"}}
	r, err := openFor(t.Context(), storetest.NewDisk(), both)
	must(t, err)
	old := put("a", "1")
	newer := put("b", "2", old)
	r.join(t, old)
	var got []string
	step := 0
	for a, err := range r.Updates(t.Context(), 0) {
		must(t, err)
		now := all(t, r.keys.Items(t.Context(), r.store, nil))
		text := fmt.Sprint(a.Number, " lost ", a.Revoked)
		if len(now) == 1 {
			text += " shows " + fmt.Sprint(now[0].Value)
		}
		got = append(got, text)
		switch step++; step {
		case 1:
			r.join(t, newer)
		case 2:
			must(t, r.Revise(t.Context(), one))
		case 4:
			must(t, r.Revise(t.Context(), both))
		case 5:
			r.join(t, put("a", "3", newer)) // an entry that was yielded before is not repeated
		}
		if step == 6 {
			break
		}
	}
	same(t, "updates", got, []string{
		`1 lost false shows "1"`, `2 lost false shows "2"`, `2 lost true shows "1"`, `1 lost false shows "1"`, `2 lost false shows "2"`,
		`3 lost false shows "3"`,
	})
}

// A follower learns that it has received everything, even if the last entry is
// not yielded.
func TestFollowerIsToldWhenItWasYieldedAll(t *testing.T) {
	both, one := oplog.Access{Writers: []string{"a", "b"}, Known: []string{"a", "b"}}, oplog.Access{Writers: []string{"a"}}
	r, err := openFor(t.Context(), storetest.NewDisk(), both)
	must(t, err)
	put := func(key string, time float64) *entry.Entry {
		return draft{key: key, time: time, payload: keyed.Put(value.Text(key), value.Text("v"))}.entry()
	}
	r.join(t, put("a", 1), put("a", 2), put("b", 3))
	must(t, r.Revise(t.Context(), one))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var got []string
	told := func(last uint64) {
		switch got = append(got, fmt.Sprint("all up to ", last)); len(got) {
		case 3:
			r.join(t, put("a", 4), put("a", 5))
		case 6:
			stop()
		}
	}
	for a, err := range r.Follow(ctx, 0, told) {
		if err == nil {
			got = append(got, fmt.Sprint(a.Number))
		}
	}
	same(t, "what is told", got, []string{"1", "2", "all up to 3", "4", "5", "all up to 5"})
}
