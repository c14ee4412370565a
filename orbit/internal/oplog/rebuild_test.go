package oplog_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/entry"
	"github.com/newpieceplease/npp/orbit/internal/blocks"
	"github.com/newpieceplease/npp/orbit/internal/keyed"
	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

func (r replica) put(t testing.TB, key, value string) {
	t.Helper()
	must(t, r.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Put(key, []byte(value)) }))
}

func remove(t testing.TB, r replica, keys ...string) {
	t.Helper()
	must(t, r.store.Update(t.Context(), func(tx *store.Tx) error {
		for _, key := range keys {
			if err := tx.Delete(key); err != nil {
				return err
			}
		}
		return nil
	}))
}

// snapshot returns all records.
func (r replica) snapshot(t testing.TB) map[string]string {
	t.Helper()
	records := make(map[string]string)
	for rec, err := range r.store.Scan(t.Context(), "") {
		must(t, err)
		records[rec.Key] = string(rec.Value)
	}
	return records
}

// sample returns a log with a bit of everything: invalid entries, deleted keys,
// several heads.
func sample(t testing.TB, rng *rand.Rand) replica {
	t.Helper()
	r := newReplica(t)
	r.join(t, withInvalid()...)
	entries := history(t, rng, 8, signers[1], signers[2], vandal)
	r.joinAll(t, newGraph(entries...), entries)
	r.append(t, signers[0], keyed.Put(value.Text("a"), value.Null), keyed.Put(value.Text("b"), value.Null), keyed.Delete(value.Text("a")))
	r.join(t, draft{key: "late", time: 1, payload: keyed.Put(value.Text("c"), value.Null)}.entry())
	newest := all(t, r.Iterate(t.Context(), oplog.Range{Limit: 1}))
	r.join(t, draft{key: "low", time: 1, next: newest, payload: keyed.Put(value.Text("d"), value.Null)}.entry())
	return r
}

func TestRebuildMakesTheSameAgain(t *testing.T) {
	prefix := blocks.LogPrefix(logNumber) + "/"
	garble := func(s string) string {
		b := []byte(s)
		for i := range b {
			b[i] ^= 0x55
		}
		return string(b)
	}
	seeds(t, 60, func(t *testing.T, rng *rand.Rand) {
		r := sample(t, rng)
		before := r.snapshot(t)
		image := r.image(t)
		what := rng.IntN(9)
		for key, v := range before {
			index := strings.HasPrefix(key, "block/") || !strings.HasPrefix(key, prefix+"entry/")
			if !index || what < 8 && !strings.HasPrefix(key, []string{prefix + "summary", prefix + "order/", prefix + "raised/", prefix + "key/", prefix + "live/", prefix + "fault/", prefix + "below/", "block/"}[what]) {
				continue
			}
			switch rng.IntN(3) {
			case 0:
				r.put(t, key, garble(v))
			case 1:
				remove(t, r, key)
			}
		}
		r, err := open(t.Context(), r.disk)
		if err != nil && !errors.Is(err, oplog.ErrDamaged) {
			t.Errorf("open: %v", err)
		}
		if lost, err := r.Rebuild(t.Context(), verifyAgain); err != nil || lost != nil {
			t.Errorf("rebuild: %v, %v", lost, err)
		}
		r, err = open(t.Context(), r.disk)
		must(t, err)
		r.audit(t, verify)
		equal(t, "image", r.image(t), image)
		after := r.snapshot(t)
		delete(after, prefix+"summary") // it also contains positions of queues
		delete(before, prefix+"summary")
		if !maps.Equal(after, before) {
			t.Errorf("stored: got %q, want %q", after, before)
		}
		r.auditAppend(t, verify)
	})
}

func TestDamageIsReported(t *testing.T) {
	prefix := blocks.LogPrefix(logNumber) + "/"
	e := func(r replica) *entry.Entry { return all(t, r.Iterate(t.Context(), oplog.Range{}))[0] }
	opened := func(r replica) error {
		_, err := open(t.Context(), r.disk)
		return err
	}
	read := func(r replica) (err error) {
		for _, err = range r.Iterate(t.Context(), oplog.Range{}) {
		}
		return err
	}
	join := func(r replica) error {
		heads, err := r.Heads(t.Context())
		must(t, err)
		next := make([]*entry.Entry, len(heads))
		for i, h := range heads {
			// The hash of a damaged entry is enough.
			next[i] = &entry.Entry{Block: block.Block{Hash: h.Hash}}
		}
		_, err = r.Join(t.Context(), candidates(draft{key: "j", time: 99, next: next, payload: keyed.Put(value.Text("b"), value.Null)}.entry()))
		return err
	}
	low := func(r replica) []*entry.Entry { return all(t, r.Iterate(t.Context(), oplog.Range{Limit: 2})) }
	above := func(r replica) (err error) {
		for _, err = range r.Iterate(t.Context(), oplog.Range{GT: low(r)[0].Hash()}) {
		}
		return err
	}
	below := func(r replica) (err error) {
		for _, err = range r.Iterate(t.Context(), oplog.Range{LT: low(r)[0].Hash()}) {
		}
		return err
	}
	joinLow := func(r replica) error {
		_, err := r.Join(t.Context(), candidates(draft{key: "j", time: 1, next: low(r)[1:]}.entry()))
		return err
	}
	positions := func(r replica) error {
		for _, a := range all(t, r.Arrived(t.Context(), 0)) {
			if _, err := r.Position(t.Context(), a.Entry); err != nil {
				return err
			}
		}
		return nil
	}
	first := func(r replica, part string) string { return slices.Sorted(maps.Keys(r.records(t, part)))[0] }
	for i, test := range []struct {
		damage func(r replica)
		notice func(r replica) error
		want   error
	}{
		{func(r replica) { remove(t, r, prefix+"summary") }, opened, oplog.ErrDamaged},
		{func(r replica) { r.put(t, prefix+"summary", "") }, opened, oplog.ErrDamaged},
		{func(r replica) {
			s := []byte(r.snapshot(t)[prefix+"summary"])
			s[len(s)-7] ^= 1 // of the last hash
			r.put(t, prefix+"summary", string(s))
		}, opened, oplog.ErrDamaged},
		{func(r replica) {
			st, err := r.Stats(t.Context())
			must(t, err)
			remove(t, r, store.Key(blocks.Entries(logNumber), st.Last))
		}, opened, oplog.ErrDamaged},
		{func(r replica) { remove(t, r, slices.Collect(maps.Keys(r.records(t, "entry")))...) }, opened, oplog.ErrDamaged},
		{func(r replica) { r.put(t, first(r, "order"), "") }, read, oplog.ErrDamaged},
		{func(r replica) { r.put(t, first(r, "order"), "\x01x") }, read, oplog.ErrDamaged},
		{func(r replica) { r.put(t, first(r, "order"), "\x63") }, read, blocks.ErrDamaged},
		{func(r replica) { r.put(t, prefix+"order/0/1/noname", "\x01") }, read, oplog.ErrDamaged},
		{func(r replica) { r.put(t, prefix+"order/0/1/a.nohash", "\x01") }, read, oplog.ErrDamaged},
		{func(r replica) { r.put(t, prefix+"key/"+value.Text("b").Slot(), "") }, join, oplog.ErrDamaged},
		{func(r replica) { r.put(t, prefix+"key/"+value.Text("b").Slot(), "\x00\x01hash") }, join, oplog.ErrDamaged},
		{func(r replica) { r.put(t, "block/"+e(r).Hash(), "") }, join, blocks.ErrDamaged},
		{func(r replica) { r.put(t, "block/"+e(r).Hash(), "\x00garbage") }, join, blocks.ErrDamaged},
		{func(r replica) { r.put(t, "block/"+e(r).Hash(), "\x81") }, join, blocks.ErrDamaged},
		{func(r replica) { r.put(t, store.Key(blocks.Entries(logNumber), 1), "garbage") }, read, blocks.ErrDamaged},
		{func(r replica) { r.put(t, first(r, "raised"), "garbage") }, positions, oplog.ErrDamaged},
		{func(r replica) { r.put(t, first(r, "raised"), "") }, positions, oplog.ErrDamaged},
		{func(r replica) { r.put(t, prefix+"raised/"+low(r)[0].Hash(), "garbage") }, above, oplog.ErrDamaged},
		{func(r replica) { r.put(t, prefix+"raised/"+low(r)[1].Hash(), "garbage") }, below, oplog.ErrDamaged},
		{func(r replica) { r.put(t, prefix+"raised/"+low(r)[1].Hash(), "garbage") }, joinLow, oplog.ErrDamaged},
	} {
		r := sample(t, rand.New(rand.NewPCG(1, 0)))
		must(t, opened(r))
		test.damage(r)
		if err := test.notice(r); !errors.Is(err, test.want) {
			t.Errorf("%d: got %v, want %v", i, err, test.want)
		}
	}
}

func TestLostEntriesAreReportedAndTheRestWorks(t *testing.T) {
	seeds(t, 40, func(t *testing.T, rng *rand.Rand) {
		r := sample(t, rng)
		log, _, numbers := r.stored(t)
		last := uint64(len(log))
		var want []oplog.Lost
		for hash, n := range numbers {
			key := store.Key(blocks.Entries(logNumber), n)
			switch rng.IntN(12) {
			case 0:
				remove(t, r, key)
				want = append(want, oplog.Lost{Number: n})
			case 1:
				r.put(t, key, hash+"garbage")
				want = append(want, oplog.Lost{Number: n, Hash: hash})
			case 2:
				r.put(t, key, "garbage")
				want = append(want, oplog.Lost{Number: n})
			case 3: // and its location
				remove(t, r, key, "block/"+hash)
				want = append(want, oplog.Lost{Number: n})
			default:
				continue
			}
			delete(log, hash)
		}
		slices.SortFunc(want, func(a, b oplog.Lost) int { return int(a.Number) - int(b.Number) })
		for range 2 { // the second rebuild returns the same
			lost, err := r.Rebuild(t.Context(), verifyAgain)
			must(t, err)
			same(t, "lost", lost, want)
			r, err = open(t.Context(), r.disk)
			must(t, err)

			// Entries that name a lost one are still there.
			same(t, "entries", hashes(all(t, r.Iterate(t.Context(), oplog.Range{}))), hashes(log.order(verify)))
			var arrived []string
			for _, a := range all(t, r.Arrived(t.Context(), 0)) {
				equal(t, "number", a.Number, numbers[a.Hash])
				arrived = append(arrived, a.Hash)
			}
			slices.Sort(arrived)
			same(t, "arrived", arrived, slices.Sorted(slices.Values(hashes(log.order(verify)))))
			var items []string
			for _, item := range all(t, r.keys.Items(t.Context(), r.store, nil)) {
				items = append(items, item.Hash)
			}
			same(t, "items", items, hashes(log.live(verify)))
			heads, err := r.Heads(t.Context())
			must(t, err)
			positions := log.positions(verify)
			for i, e := range log.heads(verify) {
				if i >= len(heads) || heads[i] != positions[e.Hash()] {
					t.Errorf("heads %v", heads)
				}
			}
			st, err := r.Stats(t.Context())
			must(t, err)
			equal(t, "entries", st.Entries, uint64(len(log.order(verify))))
			equal(t, "unauthorized", st.Unauthorized, uint64(len(log)-len(log.order(verify))))
			equal(t, "last number", st.Last, last)
			for _, l := range want {
				if l.Hash == "" {
					continue
				}
				if _, err := r.Get(t.Context(), l.Hash); !errors.Is(err, blocks.ErrDamaged) {
					t.Errorf("get a lost entry: %v", err)
				}
			}
			e := r.append(t, signers[0], keyed.Put(value.Text("a"), value.Null))[0]
			last++
			log[e.Hash()], numbers[e.Hash()] = e, last
		}
	})
}

func TestManyLostEntriesInARow(t *testing.T) {
	r := newReplica(t)
	r.append(t, signers[0], slices.Repeat([]value.Value{value.Null}, 700)...)
	var keys []string
	for n := uint64(3); n <= 300; n++ {
		keys = append(keys, store.Key(blocks.Entries(logNumber), n))
	}
	for n := uint64(500); n <= 700; n++ {
		keys = append(keys, store.Key(blocks.Entries(logNumber), n))
	}
	for n := uint64(310); n <= 480; n++ {
		r.put(t, store.Key(blocks.Entries(logNumber), n), "garbage")
	}
	remove(t, r, keys...)
	lost, err := r.Rebuild(t.Context(), verifyAgain)
	must(t, err)
	equal(t, "lost", len(lost), 298+201+171)
	equal(t, "left", len(all(t, r.Arrived(t.Context(), 0))), 30)
	r, err = open(t.Context(), r.disk)
	must(t, err)
	equal(t, "left", len(all(t, r.Arrived(t.Context(), 0))), 30)
}

func TestInterruptedRebuildDoesNotOpenUntilItIsRunAgain(t *testing.T) {
	seed := rand.Uint64()
	disk := storetest.NewDisk()
	r, err := open(t.Context(), disk)
	must(t, err)
	r.append(t, signers[0], slices.Repeat([]value.Value{keyed.Put(value.Text("a"), value.Null)}, 300)...)
	remove(t, r, store.Key(blocks.Entries(logNumber), 300)) // the last one: only the summary tells that it existed
	for failAt := 1; ; failAt++ {
		rng := rand.New(rand.NewPCG(seed, uint64(failAt)))
		disk := disk.PowerLoss(nil)
		r, err := open(t.Context(), disk)
		if !errors.Is(err, oplog.ErrDamaged) {
			t.Fatal(err)
		}
		disk.FailAfter(failAt, storetest.Lasting)
		_, err = r.Rebuild(t.Context(), verifyAgain)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		disk = disk.PowerLoss(rng)
		r, err = open(t.Context(), disk)
		if err != nil {
			if !errors.Is(err, oplog.ErrDamaged) {
				t.Fatal(err)
			}
			lost, err := r.Rebuild(t.Context(), verifyAgain)
			must(t, err)
			same(t, "lost", lost, []oplog.Lost{{Number: 300}})
			r, err = open(t.Context(), disk)
			must(t, err)
		}
		equal(t, "entries", len(all(t, r.Arrived(t.Context(), 0))), 299)
		e := r.append(t, signers[0], value.Null)[0]
		equal(t, "number", all(t, r.Arrived(t.Context(), 299))[0].Number, 301)
		equal(t, "next", fmt.Sprint(e.Next), fmt.Sprint(hashes(all(t, r.Iterate(t.Context(), oplog.Range{LT: e.Hash(), Limit: 1})))))
		if t.Failed() {
			t.Fatalf("seed %d, failure at operation %d", seed, failAt)
		}
	}
}

func TestRebuildAbandonsPendingEntries(t *testing.T) {
	r := newReplica(t)
	a := draft{key: "a", time: 1}.entry()
	b := draft{key: "b", time: 2, next: []*entry.Entry{a}}.entry()
	x := draft{key: "x", time: 1}.entry()
	r.join(t, b, draft{key: "y", time: 2, next: []*entry.Entry{x, a}}.entry(), x)
	_, err := r.Rebuild(t.Context(), verifyAgain)
	must(t, err)
	_, pending := r.audit(t, verify)
	equal(t, "pending", len(pending), 0)
	same(t, "outcomes", r.join(t, b, a), []oplog.Outcome{oplog.Joined, oplog.Joined})
	r.audit(t, verify)
}

func TestEntryThatIsPutBackIsFoundByTheNextRebuild(t *testing.T) {
	r := newReplica(t)
	r.append(t, signers[0], value.Null, value.Null, value.Null)
	before := r.snapshot(t)
	for n := uint64(1); n <= 3; n++ {
		key := store.Key(blocks.Entries(logNumber), n)
		remove(t, r, key)
		if lost, err := r.Rebuild(t.Context(), verifyAgain); err != nil || len(lost) != 1 {
			t.Fatalf("%v, %v", lost, err)
		}
		// Here the last one is lost, and an unknown entry follows it.
		if n == 3 {
			r.put(t, store.Key(blocks.Entries(logNumber), 4), "?")
			if _, err := open(t.Context(), r.disk); !errors.Is(err, oplog.ErrDamaged) {
				t.Errorf("open: %v", err)
			}
			remove(t, r, store.Key(blocks.Entries(logNumber), 4))
		}
		r.put(t, key, before[key])
		if lost, err := r.Rebuild(t.Context(), verifyAgain); err != nil || lost != nil {
			t.Fatalf("%v, %v", lost, err)
		}
		r.audit(t, verify)
		if after := r.snapshot(t); !maps.Equal(after, before) {
			t.Errorf("got %q, want %q", after, before)
		}
	}
}

func TestStoredContinuesAfterADamagedEntry(t *testing.T) {
	r := newReplica(t)
	entries := r.append(t, signers[0], value.Null, value.Null, value.Null, value.Null)
	r.put(t, store.Key(blocks.Entries(logNumber), 2), entries[1].Hash()+"garbage")
	r.put(t, store.Key(blocks.Entries(logNumber), 3), "garbage")
	var got []string
	for a, err := range r.Stored(t.Context(), 0) {
		if (err != nil) != (a.Entry == nil) || err != nil && !errors.Is(err, blocks.ErrDamaged) {
			t.Errorf("%d: %v, %v", a.Number, a.Entry, err)
		}
		got = append(got, fmt.Sprint(a.Number, a.Hash))
	}
	same(t, "stored", got, []string{"1" + entries[0].Hash(), "2" + entries[1].Hash(), "3", "4" + entries[3].Hash()})
	n := 0
	for _, err := range r.Arrived(t.Context(), 1) {
		if n++; !errors.Is(err, blocks.ErrDamaged) {
			t.Errorf("arrived: %v", err)
		}
	}
	equal(t, "errors", n, 1)
}

func TestAStaleLogIsClosedUntilItIsRebuiltWhole(t *testing.T) {
	r := newReplica(t)
	r.append(t, signers[0], keyed.Put(value.Text("a"), value.Null), keyed.Put(value.Text("b"), value.Null))
	remove(t, r, store.Key(blocks.Entries(logNumber), 2)) // the newest is lost
	for range 2 {
		must(t, r.store.Update(t.Context(), func(tx *store.Tx) error { return oplog.MarkStale(tx, logNumber) }))
	}
	if _, err := r.Append(t.Context(), signers[0], value.Null); !errors.Is(err, oplog.ErrDamaged) {
		t.Errorf("append: %v", err)
	}
	again, err := open(t.Context(), r.disk)
	if !errors.Is(err, oplog.ErrDamaged) {
		t.Errorf("open: %v", err)
	}
	lost, err := again.Rebuild(t.Context(), verifyAgain)
	must(t, err)
	same(t, "lost", lost, []oplog.Lost{{Number: 2}})
	again, err = open(t.Context(), r.disk)
	must(t, err)
	again.append(t, signers[0], value.Null)
	stats, err := again.Stats(t.Context())
	must(t, err)
	equal(t, "number of the last", stats.Last, 3)
}
