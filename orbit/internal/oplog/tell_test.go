package oplog_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/newpieceplease/npp/orbit/internal/oplog"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store/storetest"
)

// Whoever reads what follows the entry that a call names misses no entry,
// however many are written at once.
func TestChangesAreToldInOrder(t *testing.T) {
	var r replica
	var seen []uint64
	calls := 0
	var last, lowest uint64 // of the entries seen, and of those that calls named
	r, err := openWith(t.Context(), storetest.NewDisk(), func(c *oplog.Config) {
		c.Changed = func(after uint64) {
			calls++
			lowest = min(lowest, after)
			if after > last {
				t.Errorf("told of changes after entry %d, the call before ended at %d", after, last)
			}
			for a := range r.Stored(t.Context(), last) {
				seen, last = append(seen, a.Number), a.Number
			}
		}
	})
	must(t, err)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 20 {
				r.append(t, signers[0], value.Null)
			}
		})
	}
	group.Wait()
	if !slices.IsSorted(seen) || len(seen) != 160 || calls > 160 {
		t.Errorf("%d calls told of %d entries", calls, len(seen))
	}
	entries := chain(3, value.Null)
	before := calls
	r.join(t, entries[1:]...) // pending
	if calls == before {
		t.Error("a pending entry was not told of")
	}
	lowest = last
	_, err = r.Rebuild(t.Context(), verifyAgain)
	must(t, err)
	equal(t, "a rebuild tells of changes after entry", lowest, 0)
}
