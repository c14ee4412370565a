package keyed

import (
	"context"
	"fmt"
	"testing"

	"github.com/ipfs/go-datastore"

	"github.com/newpieceplease/npp/orbit/block"
	"github.com/newpieceplease/npp/orbit/blocks"
	"github.com/newpieceplease/npp/orbit/value"
	"github.com/newpieceplease/npp/store"
	"github.com/newpieceplease/npp/store/storetest"
)

// counting counts the keys that are read one by one.
type counting struct {
	datastore.Batching
	gets int
}

func (c *counting) Get(ctx context.Context, key datastore.Key) ([]byte, error) {
	c.gets++
	return c.Batching.Get(ctx, key)
}

// warmed returns a log with so many keys and hints that were warmed.
func warmed(t *testing.T, keys int) (Index, *store.Store, *counting) {
	t.Helper()
	ds := &counting{Batching: storetest.NewDisk()}
	s := store.New(ds, "/npp/test")
	x := New(1, NewHints())
	for i := range keys {
		if err := s.Update(t.Context(), func(tx *store.Tx) error {
			return tx.Put(x.slotKey(value.Text(fmt.Sprint(i)).Slot()), winner{number: uint64(i + 1), hash: block.Hash(nil)}.encode())
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Warm(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return x, s, ds
}

func absent(t *testing.T, x Index, s *store.Store, ds *counting) (reads int) {
	t.Helper()
	before := ds.gets
	if item, err := x.Get(blocks.Reading(t.Context(), s), value.Text("absent")); err == nil {
		t.Errorf("found %v", item)
	}
	return ds.gets - before
}

func TestWarmHintsKnowWhatIsNotThere(t *testing.T) {
	for _, keys := range []int{0, 10} {
		x, s, ds := warmed(t, keys)
		if n := absent(t, x, s, ds); n != 0 {
			t.Errorf("%d keys: %d reads", keys, n)
		}
		if n := absent(t, New(2, x.hints), s, ds); n != 1 {
			t.Errorf("%d keys: %d reads for another log", keys, n)
		}
		for i := range keys {
			if at, _, _ := x.hints.get(newHintKey(1, value.Text(fmt.Sprint(i)).Slot())); at.number != uint64(i+1) {
				t.Errorf("key %d is hinted at %d", i, at.number)
			}
		}
	}
}

func TestHintsThatWereForgottenAreNotTakenForAll(t *testing.T) {
	for what, forget := range map[string]func(Index){
		"a failure": func(x Index) { x.Failed() },
		"too many others": func(x Index) {
			for i := range uint64(3 * generation) {
				x.hints.put(hintKey{log: 5 + i}, hint{number: 1})
			}
		},
	} {
		x, s, ds := warmed(t, 10)
		forget(x)
		if n := absent(t, x, s, ds); n != 1 {
			t.Errorf("after %s: %d reads", what, n)
		}
		// Nor if that happened while they were warmed.
		begun := x.hints.begin()
		x.Failed()
		x.hints.finish(1, begun)
		if n := absent(t, x, s, ds); n != 1 {
			t.Errorf("after %s meanwhile: %d reads", what, n)
		}
	}
}

func TestKeysPutWhileHintsAreWarmedAreKnown(t *testing.T) {
	x, s, ds := warmed(t, 0)
	begun := x.hints.begin()
	x.hints.put(newHintKey(1, value.Text("absent").Slot()), hint{number: 7})
	x.hints.finish(1, begun)
	// The hint leads nowhere, so the key is looked up.
	if n := absent(t, x, s, ds); n != 2 {
		t.Errorf("%d reads", n)
	}
}
