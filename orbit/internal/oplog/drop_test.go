package oplog_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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

// remove deletes a log in the way a database is dropped. It returns the
// exported hashes.
func (r replica) remove(t testing.TB, number uint64) (offered []string, whole bool) {
	t.Helper()
	whole, err := oplog.Export(t.Context(), r.store, number, func(_ context.Context, bs []block.Block) error {
		for _, b := range bs {
			offered = append(offered, b.Hash)
		}
		return nil
	})
	must(t, err)
	must(t, r.store.Update(t.Context(), func(tx *store.Tx) error { return oplog.Clear(tx, number) }))
	must(t, oplog.Delete(t.Context(), r.store, number, whole, keyed.Index{}.Prefixes()...))
	return offered, whole
}

// open opens another log in the store of a replica.
func (r replica) open(t testing.TB, number uint64, id string) replica {
	t.Helper()
	r.keys = keyed.New(number, keyed.NewHints())
	var err error
	r.Log, err = oplog.Open(t.Context(), r.store, number, id, config(r.keys))
	must(t, err)
	return r
}

// full returns a sample with pending entries.
func full(t testing.TB, rng *rand.Rand) replica {
	r := sample(t, rng)
	missing := draft{key: "m", time: 90}.entry()
	r.join(t, draft{key: "w", time: 91, next: []*entry.Entry{missing}}.entry())
	return r
}

func TestNothingOfADeletedLogIsLeft(t *testing.T) {
	seeds(t, 20, func(t *testing.T, rng *rand.Rand) {
		r := full(t, rng)
		hashes := slices.Sorted(maps.Values(storedHashes(t, r)))
		before := r.snapshot(t)
		other := r.open(t, logNumber*36+1, "/orbitdb/other") // log/7 and log/71
		other.append(t, signers[0], keyed.Put(value.Text("a"), value.Null))
		want := r.snapshot(t)
		for key := range before {
			delete(want, key)
		}
		offered, whole := r.remove(t, logNumber)
		slices.Sort(offered)
		same(t, "offered", offered, hashes)
		equal(t, "whole", whole, true)
		if got := r.snapshot(t); !maps.Equal(got, want) {
			t.Errorf("got %q, want %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	})
}

// storedHashes returns the hashes of all entries by their keys.
func storedHashes(t testing.TB, r replica) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for a, err := range r.Stored(t.Context(), 0) {
		must(t, err)
		found[store.Key(blocks.Entries(logNumber), a.Number)] = a.Hash
	}
	return found
}

func TestNothingOfADamagedLogIsLeft(t *testing.T) {
	seeds(t, 60, func(t *testing.T, rng *rand.Rand) {
		r := full(t, rng)
		hashes := storedHashes(t, r)
		lost := 0
		for key, v := range r.snapshot(t) {
			if strings.HasPrefix(key, "block/") {
				continue // it tells which log an entry belonged to
			}
			_, isEntry := hashes[key]
			switch rng.IntN(8) {
			case 0:
				r.put(t, key, "garbage")
			case 1:
				remove(t, r, key)
			case 2:
				if isEntry {
					r.put(t, key, v[:len(v)-1]) // its hash can be read
					break
				}
				continue
			default:
				continue
			}
			if isEntry {
				delete(hashes, key)
				lost++
			}
		}
		offered, whole := r.remove(t, logNumber)
		slices.Sort(offered)
		same(t, "offered", offered, slices.Sorted(maps.Values(hashes)))
		if lost > 0 && whole {
			t.Errorf("%d entries are lost of what is whole", lost)
		}
		if got := r.snapshot(t); len(got) > 0 {
			t.Errorf("left: %q", got)
		}
	})
}

// A log looks whole if its last entry is gone, or if a rebuild found that lost.
func TestLostEntriesLeaveNothingBehind(t *testing.T) {
	for _, lost := range []uint64{1, 3} {
		for _, rebuilt := range []bool{false, true} {
			r := newReplica(t)
			r.append(t, signers[0], value.Null, value.Null, value.Null)
			remove(t, r, store.Key(blocks.Entries(logNumber), lost))
			if rebuilt {
				_, err := r.Rebuild(t.Context(), verifyAgain)
				must(t, err)
			}
			r.remove(t, logNumber)
			if got := r.snapshot(t); len(got) > 0 {
				t.Errorf("entry %d, rebuilt %v: left: %q", lost, rebuilt, got)
			}
		}
	}
}

func TestLogWithTheSameEntriesIsNotDeleted(t *testing.T) {
	seeds(t, 20, func(t *testing.T, rng *rand.Rand) {
		r := full(t, rng)
		all := newGraph()
		for a, err := range r.Stored(t.Context(), 0) {
			must(t, err)
			all[a.Hash] = a.Entry
		}
		// Half of them arrive before the deletion, the rest after it.
		other := r.open(t, 8, logID)
		entries := slices.Collect(maps.Values(all))
		other.join(t, entries[:len(entries)/2]...)
		r.remove(t, logNumber)
		other.joinAll(t, all, entries)
		for hash, e := range all {
			if ok, err := other.Has(t.Context(), hash); err != nil || !ok && verify(e) == nil {
				t.Errorf("%s is gone: %v", hash, err)
			}
		}
		for key := range r.snapshot(t) {
			if strings.HasPrefix(key, blocks.LogPrefix(logNumber)+"/") {
				t.Errorf("left: %s", key)
			}
		}
	})
}

func TestBlocksAreOfferedSomeAtATime(t *testing.T) {
	r := newReplica(t)
	large, err := value.Of(make([]byte, 900<<10))
	must(t, err)
	for range 3 {
		r.append(t, signers[0], slices.Repeat([]value.Value{value.Null}, 200)...)
		r.append(t, signers[0], large, large)
	}
	r.append(t, signers[0], large, large, large)
	count := 0
	_, err = oplog.Export(t.Context(), r.store, logNumber, func(_ context.Context, bs []block.Block) error {
		size := 0
		for _, b := range bs {
			must(t, b.Check())
			size += len(b.Data)
		}
		if len(bs) == 0 || len(bs) > 256 || size > 4<<20 {
			t.Errorf("%d blocks, %d bytes", len(bs), size)
		}
		count += len(bs)
		return nil
	})
	must(t, err)
	equal(t, "offered", count, 609)
	refused := errors.New("refused")
	calls := 0
	_, err = oplog.Export(t.Context(), r.store, logNumber, func(context.Context, []block.Block) error {
		calls++
		return refused
	})
	if !errors.Is(err, refused) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestDeletionIsManyTransactions(t *testing.T) {
	r := newReplica(t)
	payloads := slices.Repeat([]value.Value{keyed.Put(value.Text("a"), value.Null)}, 250)
	for range 10 {
		r.append(t, signers[0], payloads...)
	}
	disk := r.disk.(*storetest.Disk)
	before := disk.Syncs()
	r.remove(t, logNumber)
	if n := disk.Syncs() - before; n < 2500/512 || n > 20 {
		t.Errorf("%d syncs", n)
	}
}

func TestInterruptedDeletionGoesOn(t *testing.T) {
	r := newReplica(t)
	for range 6 {
		r.append(t, signers[0], slices.Repeat([]value.Value{keyed.Put(value.Text("a"), value.Null)}, 100)...)
	}
	for failAt := 1; ; failAt++ {
		disk := r.disk.(*storetest.Disk).PowerLoss(nil)
		again, err := open(t.Context(), disk)
		must(t, err)
		disk.FailAfter(failAt, storetest.Lasting)
		err = oplog.Delete(t.Context(), again.store, logNumber, true, keyed.Index{}.Prefixes()...)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		again = replica{store: store.New(disk.PowerLoss(rand.New(rand.NewPCG(1, uint64(failAt)))), namespace)}
		must(t, oplog.Delete(t.Context(), again.store, logNumber, true, keyed.Index{}.Prefixes()...))
		if got := again.snapshot(t); len(got) > 0 {
			t.Fatalf("failure at operation %d: %d are left", failAt, len(got))
		}
	}
}

func TestFrozenLogTakesNothing(t *testing.T) {
	r := newReplica(t)
	r.append(t, signers[0], value.Null)
	heads, err := r.Heads(t.Context())
	must(t, err)
	e := draft{key: "a", time: 2}.entry()
	orphan := draft{key: "a", time: 3, next: []*entry.Entry{draft{key: "b", time: 1}.entry()}}.entry()
	before := r.snapshot(t)
	must(t, r.Freeze(t.Context()))
	for what, err := range map[string]error{
		"append":       second(r.Append(t.Context(), signers[0], value.Null)),
		"append none":  second(r.Append(t.Context(), signers[0])),
		"join":         second(r.Join(t.Context(), candidates(e))),
		"join to wait": second(r.Join(t.Context(), candidates(orphan))),
		"join none":    second(r.Join(t.Context(), nil)),
		"rebuild":      second(r.Rebuild(t.Context(), verifyAgain)),
	} {
		if !errors.Is(err, oplog.ErrDropped) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := r.snapshot(t); !maps.Equal(after, before) {
		t.Errorf("got %q, want %q", after, before)
	}
	again, err := r.Heads(t.Context())
	must(t, err)
	same(t, "heads", again, heads)
	r.Thaw()
	r.append(t, signers[0], value.Null)
	same(t, "outcomes", r.join(t, e), []oplog.Outcome{oplog.Joined})
}

func second[T any](_ T, err error) error { return err }

// An append during a freeze returns an entry that can be read, or the error.
func TestWhatIsWrittenBeforeTheFreezeCanBeRead(t *testing.T) {
	for range 50 {
		r := newReplica(t)
		var group sync.WaitGroup
		var mu sync.Mutex
		written := make(map[string]bool)
		first := make(chan struct{})
		var once sync.Once
		for range 4 {
			group.Go(func() {
				for {
					entries, err := r.Append(t.Context(), signers[0], value.Null)
					if err != nil {
						if !errors.Is(err, oplog.ErrDropped) {
							t.Error(err)
						}
						return
					}
					mu.Lock()
					written[entries[0].Hash()] = true
					mu.Unlock()
					once.Do(func() { close(first) })
				}
			})
		}
		<-first
		must(t, r.Freeze(t.Context()))
		frozen := r.snapshot(t)
		group.Wait()
		if after := r.snapshot(t); !maps.Equal(after, frozen) {
			t.Fatal("something was written after the freeze")
		}
		equal(t, "entries", len(storedHashes(t, r)), len(written))
	}
}

func TestLoopsOverUpdatesEndWithTheLog(t *testing.T) {
	r := newReplica(t)
	r.append(t, signers[0], value.Null)
	seen, ended := make(chan struct{}), make(chan error)
	go func() {
		var err error
		for _, err = range r.Updates(t.Context(), 0) {
			if err == nil {
				seen <- struct{}{}
			}
		}
		ended <- err
	}()
	<-seen
	changed := r.Changed()
	must(t, r.Freeze(t.Context()))
	equal(t, "dropped", r.Dropped(), false)
	r.remove(t, logNumber)
	r.Drop()
	<-changed
	equal(t, "dropped", r.Dropped(), true)
	if err := <-ended; !errors.Is(err, oplog.ErrDropped) {
		t.Errorf("ended with %v", err)
	}
	for _, err := range r.Updates(t.Context(), 0) {
		if !errors.Is(err, oplog.ErrDropped) {
			t.Errorf("a new loop: %v", err)
		}
	}
	r.Thaw() // too late
	if _, err := r.Append(t.Context(), signers[0], value.Null); err == nil {
		t.Error("appended to what is dropped")
	}
}
