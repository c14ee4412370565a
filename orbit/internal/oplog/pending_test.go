package oplog_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-datastore"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/dagcbor"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// pendingEntry contains the records of a pending entry.
type pendingEntry struct {
	from                         string
	held                         bool
	order, size, charge          uint64
	writer, reason               string
	fromNext, firstChunk, chunks uint64
	parents, further, all        []string // in its record, in other records, in both
}

// uvarints decodes a record of uvarints.
func uvarints(t testing.TB, record string) (list []uint64) {
	t.Helper()
	for rest := []byte(record); len(rest) > 0; {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			t.Fatalf("%q", record)
		}
		list, rest = append(list, n), rest[size:]
	}
	return list
}

func split(record string) (hashes []string) {
	for ; len(record) >= block.HashLen; record = record[block.HashLen:] {
		hashes = append(hashes, record[:block.HashLen])
	}
	return hashes
}

// pendingRecords returns the records of the pending entries.
func (r replica) pendingRecords(t testing.TB) map[string]*pendingEntry {
	t.Helper()
	list := make(map[string]*pendingEntry)
	for key, record := range r.records(t, "wait") {
		rd := dagcbor.NewReader([]byte(record))
		must(t, rd.Tuple(11))
		w := new(pendingEntry)
		w.from = must1(rd.Text())
		w.order = must1(rd.Uint())
		w.held = must1(rd.Bool())
		w.size, w.charge = must1(rd.Uint()), must1(rd.Uint())
		w.writer, w.reason = must1(rd.Text()), must1(rd.Text())
		w.fromNext, w.firstChunk, w.chunks = must1(rd.Uint()), must1(rd.Uint()), must1(rd.Uint())
		w.parents = split(must1(rd.Text()))
		must(t, rd.End())
		list[nameOf(key)] = w
	}
	return list
}

// nameOf returns the last component of a key.
func nameOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// auditPending checks all records of pending entries.
func (r replica) auditPending(t testing.TB, log, pending graph) {
	t.Helper()
	waiters := r.pendingRecords(t)
	st := must1(r.Stats(t.Context()))
	chunks := r.records(t, "parents")
	for hash, w := range waiters {
		if log[hash] != nil {
			t.Errorf("%s is pending and in the log", hash)
		}
		if ok, err := r.Has(t.Context(), hash); ok || err != nil {
			t.Errorf("%s is pending and there: %v", hash, err)
		}
		for n := w.firstChunk; n < w.chunks; n++ {
			key := store.Key("log/7/parents/"+hash, n)
			w.further = append(w.further, split(chunks[key])...)
			delete(chunks, key)
		}
		w.all = slices.Concat(w.parents, w.further)
		r.auditPendingEntry(t, log, pending[hash], w)
	}
	equal(t, "records of parents of none", len(chunks), 0)

	// The series and the accounts.
	wantQueues, wantAccounts, wantBySize := make(map[string]string), make(map[string][4]uint64), make(map[string]string)
	charged := uint64(0)
	for hash, w := range waiters {
		share := wantAccounts[w.from]
		key, value, n := "evicted/", "", 2
		if w.held {
			key, value, n = "held/", string(pending[hash].Block.Data), 0
		}
		wantQueues[store.NamedKey("log/7/"+key+"~"+w.from, w.order, hash)] = value
		share[n]++
		share[n+1] += w.charge
		wantAccounts[w.from] = share
		charged += w.charge
	}
	got := r.records(t, "held")
	maps.Copy(got, r.records(t, "evicted"))
	if !maps.Equal(got, wantQueues) {
		t.Errorf("queues: got %q, want %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(wantQueues)))
	}
	shares := r.records(t, "share")
	equal(t, "shares", len(shares), len(wantAccounts))
	for peer, want := range wantAccounts {
		got := uvarints(t, shares["log/7/share/~"+peer])
		same(t, "the share of "+peer, got, want[:])
		wantBySize[store.NamedKey("log/7/shares", (want[1]+want[3])>>16, "~"+peer)] = ""
	}
	if got := r.records(t, "shares"); !maps.Equal(got, wantBySize) {
		t.Errorf("order of shares: got %q, want %q", got, wantBySize)
	}
	equal(t, "pending", st.Pending, uint64(len(waiters)))
	equal(t, "bytes that wait", st.PendingBytes, charged)
	if charged > r.bound {
		t.Errorf("%d bytes wait, the bound is %d", charged, r.bound)
	}

	// Each entry waits for the first of its parents, or that is in the ready
	// queue.
	ready := make(map[string]bool)
	for _, hash := range r.records(t, "ready") {
		if ready[hash] || log[hash] == nil {
			t.Errorf("%s is ready, and %v", hash, log[hash])
		}
		ready[hash] = true
	}
	wantDependants := make(map[string]string) // by key
	for hash, w := range waiters {
		if len(w.parents) > 0 {
			wantDependants[w.parents[0]+"/"+hash] = ""
		}
	}
	gotDependants, others := make(map[string]string), make(map[string]uint64)
	for key := range r.records(t, "waiters") {
		on := strings.Split(key, "/")[3]
		gotDependants[on+"/"+nameOf(key)] = ""
		others[on]++
	}
	for key, record := range r.records(t, "wake") {
		n, size := binary.Uvarint([]byte(record))
		equal(t, "others that wait for it", n, others[nameOf(key)])
		delete(others, nameOf(key))
		if first := record[size:]; first != "" {
			gotDependants[nameOf(key)+"/"+first] = ""
		} else if n == 0 {
			t.Errorf("%s is empty", key)
		}
	}
	equal(t, "lists without a head", len(others), 0)
	if !maps.Equal(gotDependants, wantDependants) {
		t.Errorf("dependants: got %q, want %q", gotDependants, wantDependants)
	}

	// The missing hashes.
	missing := make(map[string]string)
	for key, record := range r.records(t, "missing") {
		hash, by := nameOf(key), record[:block.HashLen]
		missing[hash] = by
		same(t, "missing of two", must1(r.MissingOf(t.Context(), []string{block.Hash(nil), hash})), []string{hash})
		w := waiters[by]
		if order, size := binary.Uvarint([]byte(record[block.HashLen:])); w != nil && (order != w.order || record[block.HashLen+size:] != w.from) {
			t.Errorf("%s is needed by %+v: %q", hash, w, record)
		}
		switch {
		case log[hash] != nil:
			t.Errorf("%s is missing and in the log", hash)
		case w == nil:
			t.Errorf("%s is missing because of %s, which does not wait", hash, by)
		case by == hash && w.held, by != hash && (waiters[hash] != nil || !slices.Contains(w.parents, hash)):
			t.Errorf("%s is missing because of %s", hash, by)
		}
	}
	evicted := false
	for hash, w := range waiters {
		evicted = evicted || !w.held
		if len(w.parents) == 0 {
			if w.held || missing[hash] != hash {
				t.Errorf("%s waits for nothing: %+v", hash, w)
			}
			continue
		}
		on := w.parents[0]
		if !ready[on] && (log[on] != nil || waiters[on] == nil && missing[on] == "") {
			t.Errorf("%s waits for %s, which is not to come", hash, on)
		}
		if on := w.parents[0]; ready[on] != (log[on] != nil) {
			t.Errorf("%s waits for %s, which is in the log", hash, on)
		}
	}
	equal(t, "missing", st.Missing, uint64(len(missing)))
	same(t, "missing", must1(r.Missing(t.Context())), slices.Sorted(maps.Keys(missing)))
	if !evicted && st.Abandoned == 0 {
		for hash, w := range waiters {
			for _, p := range w.parents {
				if log[p] == nil && waiters[p] == nil && missing[p] == "" {
					t.Errorf("%s, which %s names, is not missing", p, hash)
				}
			}
		}
	}
}

// auditPendingEntry checks the records of one pending entry.
func (r replica) auditPendingEntry(t testing.TB, log graph, e *entry.Entry, w *pendingEntry) {
	t.Helper()
	parents := e.Parents()
	equal(t, "size", w.size, uint64(len(e.Block.Data)))
	if now := uint64(e.Clock.Time); e.Clock.Time < 1<<63 && w.order > now+1<<20 {
		t.Errorf("order %d of a clock at %d", w.order, now)
	}
	if w.held {
		want := candidate(e)
		equal(t, "charge", w.charge, w.size+512)
		equal(t, "writer", w.writer, want.Writer)
		equal(t, "invalid", w.reason != "", want.Invalid != nil)
	} else if w.writer != "" || w.reason != "" || w.charge < 512 {
		t.Errorf("evicted: %+v", w)
	}
	if len(w.parents) > 64 || len(w.further) > 0 && len(w.parents) == 0 {
		t.Errorf("parents: %+v", w)
	}
	if len(w.all) == 0 {
		return
	}
	for at := range parents {
		end := at + len(w.all)
		if end > len(parents) || !slices.Equal(parents[at:end], w.all) || w.fromNext != uint64(max(0, len(e.Next)-at)) {
			continue
		}
		if w.held && end != len(parents) || !w.held && end < len(parents) && end < len(e.Next) {
			continue
		}
		if i := slices.IndexFunc(parents[:at], func(hash string) bool { return log[hash] == nil }); i >= 0 {
			continue
		}
		return
	}
	t.Errorf("parents %q, of which %d in next, are not those left of %q and %q", w.all, w.fromNext, e.Next, e.Refs)
}

// bounded returns a log with a bound on the bytes of pending entries.
func bounded(t testing.TB, ds datastore.Batching, bytes uint64) replica {
	t.Helper()
	r, err := openWith(t.Context(), ds, func(c *oplog.Config) { c.MaxPending = bytes })
	must(t, err)
	return r
}

// chain returns entries that each name the previous one in next and up to 16
// earlier ones in refs, as writers do.
func chain(n int, payload value.Value) (list []*entry.Entry) {
	for i := range n {
		d := draft{key: "a", time: float64(i + 1), payload: payload}
		if i > 0 {
			d.next = list[i-1:]
			d.refs = slices.Clone(list[max(0, i-17) : i-1])
			slices.Reverse(d.refs)
		}
		list = append(list, d.entry())
	}
	return list
}

// fetchAll offers heads as a peer does, and then missing entries, some at a
// time in any order, until none is missing. If entries were abandoned, it
// offers the heads again. It returns the number of offered entries.
func (r replica) fetchAll(t testing.TB, rng *rand.Rand, g graph, peer string, heads []*entry.Entry, after func()) (offers int) {
	t.Helper()
	for round := 0; ; round++ {
		before := must1(r.Stats(t.Context()))
		must1(r.Join(t.Context(), of(peer, heads...)))
		offers += len(heads)
		for {
			missing := must1(r.Missing(t.Context()))
			if len(missing) == 0 {
				break
			}
			missing = shuffled(rng, missing)
			var some []*entry.Entry
			for _, hash := range missing[:min(len(missing), 1+rng.IntN(40))] {
				some = append(some, g[hash])
			}
			r.join(t, some...)
			if offers += len(some); offers > 100*len(g) {
				for hash, w := range r.pendingRecords(t) {
					t.Logf("%s: %+v", hash[40:], w)
				}
				t.Fatalf("%d are missing, %d pending", len(missing), must1(r.Stats(t.Context())).Pending)
			}
			after()
		}
		now := must1(r.Stats(t.Context()))
		if now.Abandoned == before.Abandoned {
			t.Logf("%d rounds", round+1)
			return offers
		}
		if now.Entries == before.Entries {
			t.Fatalf("no progress: %+v", now)
		}
	}
}

func TestLogOfTenTimesTheBoundArrivesNewestFirst(t *testing.T) {
	large, err := value.Of(strings.Repeat("x", 4000))
	must(t, err)
	for name, payload := range map[string]value.Value{"of small entries": value.Null, "of large entries": large} {
		t.Run(name, func(t *testing.T) {
			seeds(t, 2, func(t *testing.T, rng *rand.Rand) {
				entries := chain(400, payload)
				size := 0
				for _, e := range entries {
					size += len(e.Block.Data)
				}
				r := bounded(t, storetest.NewDisk(), uint64(size/10))
				steps := 0
				offers := r.fetchAll(t, rng, newGraph(entries...), "JavaScript", entries[len(entries)-1:], func() {
					if steps++; steps%40 == 0 {
						r.audit(t, verify)
					}
				})
				log, pending := r.audit(t, verify)
				equal(t, "in the log", len(log), len(entries))
				equal(t, "pending", len(pending), 0)
				t.Logf("%d offers of %d entries", offers, len(entries))
				if offers > 20*len(entries) {
					t.Errorf("%d offers of %d entries", offers, len(entries))
				}
			})
		})
	}
}

// According to the clocks of a hostile writer, ancestors are newer. Entries
// that are fetched because another entry needs them are kept nevertheless.
func TestLogWhoseClocksRunBackwardsArrivesNewestFirst(t *testing.T) {
	seeds(t, 3, func(t *testing.T, rng *rand.Rand) {
		var entries []*entry.Entry
		for i := range 120 {
			d := draft{key: "a", time: float64(1000 - i)}
			if i > 0 {
				d.next = entries[i-1:]
			}
			entries = append(entries, d.entry())
		}
		r := bounded(t, storetest.NewDisk(), 12_000)
		r.fetchAll(t, rng, newGraph(entries...), "P", entries[len(entries)-1:], func() {})
		log, _ := r.audit(t, verify)
		equal(t, "in the log", len(log), len(entries))
	})
}

// Blocks are evicted and entries abandoned in any order of arrival, from
// several peers. In the end the log is the same.
func TestAnyOrderOfArrivalEndsInTheSameLogWhateverMayWait(t *testing.T) {
	seeds(t, 30, func(t *testing.T, rng *rand.Rand) {
		entries := history(t, rng, 12+rng.IntN(12), someWriters(rng)...)
		g := newGraph(entries...)
		inOrder := newReplica(t)
		inOrder.joinAll(t, g, entries)
		r := bounded(t, storetest.NewDisk(), 8000+uint64(rng.IntN(12_000)))
		for range 4 {
			some := shuffled(rng, entries)
			for len(some) > 0 {
				n := 1 + rng.IntN(min(len(some), 6))
				must1(r.Join(t.Context(), of([]string{"", "P", "Q", "R"}[rng.IntN(4)], some[:n]...)))
				r.audit(t, verify)
				some = some[n:]
			}
		}
		r.fetchAll(t, rng, g, "P", shuffled(rng, entries), func() {})
		_, pending := r.audit(t, verify)
		equal(t, "pending", len(pending), 0)
		got, want := must1(r.Stats(t.Context())), must1(inOrder.Stats(t.Context()))
		got.Abandoned, want.Abandoned = 0, 0
		if fmt.Sprint(got.Entries, got.Unauthorized, got.Heads) != fmt.Sprint(want.Entries, want.Unauthorized, want.Heads) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		same(t, "order", hashes(all(t, r.Iterate(t.Context(), oplog.Range{}))), hashes(all(t, inOrder.Iterate(t.Context(), oplog.Range{}))))
	})
}

func TestJunkOfOnePeerEvictsNothingOfAnother(t *testing.T) {
	const bound = 200_000
	r := bounded(t, storetest.NewDisk(), bound)
	entries := chain(40, value.Null)
	must1(r.Join(t.Context(), of("honest", entries[1:]...)))
	junk := value.Text(strings.Repeat("x", 3000))
	for i := range 10 * bound / 3000 {
		nowhere := draft{key: "nowhere", time: 1, payload: value.Text(fmt.Sprint(i))}.entry()
		must1(r.Join(t.Context(), of("evil", draft{key: "evil", time: float64(rand.IntN(100)), next: []*entry.Entry{nowhere}, payload: junk}.entry())))
	}
	r.audit(t, verify)
	honest := 0
	junkHeld, junkEvicted := uint64(0), uint64(0)
	for hash, w := range r.pendingRecords(t) {
		switch {
		case w.from == "honest" && w.held:
			honest++
		case w.from == "honest":
			t.Errorf("%s is evicted", hash)
		case w.held:
			junkHeld += w.charge
		default:
			junkEvicted += w.charge
		}
	}
	equal(t, "of the honest peer", honest, len(entries)-1)
	if junkHeld < bound/4 || junkEvicted < bound/4 {
		t.Errorf("%d bytes of the other peer are held, and %d evicted", junkHeld, junkEvicted)
	}
	same(t, "outcomes", r.join(t, entries[0]), []oplog.Outcome{oplog.Joined})
	equal(t, "in the log", must1(r.Stats(t.Context())).Entries, uint64(len(entries)))
	r.audit(t, verify)
}

// An entry that is fetched because an entry of a peer names it is charged to
// that peer.
func TestFetchedEntryIsChargedToThePeerThatNeedsIt(t *testing.T) {
	r := newReplica(t)
	entries := chain(5, value.Null)
	must1(r.Join(t.Context(), of("P", entries[4])))
	r.join(t, entries[2])
	r.join(t, entries[1])
	must1(r.Join(t.Context(), of("Q", entries[3])))
	for hash, w := range r.pendingRecords(t) {
		want := "P"
		if hash == entries[3].Hash() {
			want = "Q"
		}
		equal(t, "peer", w.from, want)
	}
	r.audit(t, verify)
}

// An entry that one peer offered and that was evicted is joined when another
// peer offers it.
func TestEvictedEntryIsOfThePeerThatOffersItAgain(t *testing.T) {
	r := bounded(t, storetest.NewDisk(), 100_000)
	entries := chain(3, value.Null)
	must1(r.Join(t.Context(), of("evil", entries[2])))
	for i := range 60 {
		junk := value.Text(fmt.Sprint(i, strings.Repeat("x", 3000)))
		must1(r.Join(t.Context(), of("evil", draft{key: "evil", time: 1, next: entries[:1], payload: junk}.entry())))
	}
	if w := r.pendingRecords(t)[entries[2].Hash()]; w == nil || w.held {
		t.Fatalf("it is not evicted: %+v", w)
	}
	must1(r.Join(t.Context(), of("honest", entries[2])))
	if w := r.pendingRecords(t)[entries[2].Hash()]; w == nil || !w.held || w.from != "honest" {
		t.Errorf("it is pending as %+v", w)
	}
	r.audit(t, verify)
}

// Missing reads the records of one page and no blocks, whatever is pending.
func TestMissingReadsAPageAlone(t *testing.T) {
	c := &counter{Batching: storetest.NewDisk()}
	r, err := open(t.Context(), c)
	must(t, err)
	payload := value.Text(strings.Repeat("x", 2000))
	var batch []*entry.Entry
	for i := range 150 {
		var next []*entry.Entry
		for j := range 20 {
			next = append(next, draft{key: fmt.Sprint("m", i, ".", j), time: 1}.entry())
		}
		batch = append(batch, draft{key: "w", time: 2, next: next, payload: payload}.entry())
	}
	r.join(t, batch...)
	equal(t, "missing", must1(r.Stats(t.Context())).Missing, 150*20)
	seen := make(map[string]bool)
	for range 40 {
		before := *c
		page := must1(r.Missing(t.Context()))
		equal(t, "hashes", len(page), oplog.MaxMissing)
		for _, hash := range page {
			seen[hash] = true
		}
		if did := c.since(before); did.reads > oplog.MaxMissing+200 || did.bytes > 10_000 {
			t.Fatalf("%d reads, %d bytes", did.reads, did.bytes)
		}
	}
	equal(t, "hashes of all pages", len(seen), 150*20)
}

// However many dependants an entry has, another one costs the same, and so does
// each of them when the entry arrives.
func TestEntriesThatWaitForOneCostTheSame(t *testing.T) {
	cost := func(n int) (add, wake counter) {
		c := &counter{Batching: storetest.NewDisk()}
		r, err := open(t.Context(), c)
		must(t, err)
		parent := draft{key: "p", time: 1}.entry()
		for i := range n {
			before := *c
			r.join(t, draft{key: fmt.Sprint("w", i), time: 2, next: []*entry.Entry{parent}}.entry())
			add = c.since(before)
		}
		r.audit(t, verify)
		before := *c
		r.join(t, parent)
		wake = c.since(before)
		equal(t, "entries", must1(r.Stats(t.Context())).Entries, uint64(n+1))
		r.audit(t, verify)
		return add, wake
	}
	fewAdd, fewWake := cost(300)
	manyAdd, manyWake := cost(3000)
	if manyAdd.reads > fewAdd.reads || manyAdd.writes > fewAdd.writes || manyAdd.bytes > fewAdd.bytes+100 {
		t.Errorf("one more costs %+v, with few of them %+v", manyAdd, fewAdd)
	}
	if manyWake.reads > 13*fewWake.reads || manyWake.writes > 13*fewWake.writes {
		t.Errorf("ten times as many wake at a cost of %+v, few at %+v", manyWake, fewWake)
	}
}

// Entries that arrive in order cost as much as if there were no pending
// entries.
func TestEntryInOrderReadsNoPendingEntry(t *testing.T) {
	c := &counter{Batching: storetest.NewDisk()}
	r, err := open(t.Context(), c)
	must(t, err)
	entries := chain(40, value.Null)
	r.join(t, entries[:20]...)
	before := *c
	r.join(t, entries[20])
	if did := c.since(before); did.writes != 7 { // entry, location, order, three nodes of the tree, summary
		t.Errorf("%d writes", did.writes)
	}
	for _, prefix := range []string{"wait", "wake", "missing", "share", "held", "ready"} {
		equal(t, prefix, len(r.records(t, prefix)), 0)
	}
}

// However large the dependants of an entry are, a transaction that resumes them
// has a bound.
func TestLargeEntriesResumeInChunks(t *testing.T) {
	c := &counter{Batching: storetest.NewDisk()}
	r, err := open(t.Context(), c)
	must(t, err)
	parent := draft{key: "p", time: 1}.entry()
	large := value.Text(strings.Repeat("x", 900_000))
	for i := range 12 {
		r.join(t, draft{key: fmt.Sprint("w", i), time: 2, next: []*entry.Entry{parent}, payload: large}.entry())
	}
	c.largest = 0
	r.join(t, parent)
	equal(t, "entries", must1(r.Stats(t.Context())).Entries, 13)
	if c.largest > 4<<20 {
		t.Errorf("a transaction of %d bytes", c.largest)
	}
}
